"""The GGUF container, with the Python package gguf: a file of ours opens there with the same metadata and tensors. With
`--write PATH`: writes the file of theirs that the tests of the workspace read, crates/gguf/tests/python.gguf."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

try:
    import gguf
except ImportError:
    gguf = None


def write(path):
    writer = gguf.GGUFWriter(path, "bloom")
    writer.add_custom_alignment(64)
    writer.add_uint8("test.u8", 255)
    writer.add_key_value("test.i64", -(2**63), gguf.GGUFValueType.INT64)
    writer.add_float32("test.f32", 0.5)
    writer.add_float64("test.f64", 1e300)
    writer.add_bool("test.flag", True)
    writer.add_array("test.words", ["a", "", "日本"])
    writer.add_array("test.numbers", [1, -2, 3])
    writer.add_array("test.floats", [0.25, -0.5])
    writer.add_tensor("a.weight", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("b.weight", np.ones((1, 2, 4), dtype=np.float16))
    codes = gguf.quants.quantize(np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("c.weight", codes, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("d.weight", np.full((1, 144), 7, dtype=np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def hold(what, held):
    if not held:
        sys.exit(f"{what}: not the same")
    print(f"{what}: the same")


def read(path):
    file = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in file.fields.items()}
    tensors = [(t.name, [int(n) for n in t.shape], t.tensor_type.name, bytes(t.data.tobytes())) for t in file.tensors]
    return fields, tensors


def main():
    if gguf is None:
        print("check_gguf: needs the Python package gguf; left out")
        return
    if sys.argv[1] == "--write":
        write(sys.argv[2])
        return
    with tempfile.TemporaryDirectory() as work:
        theirs, ours = Path(work) / "theirs.gguf", Path(work) / "ours.gguf"
        write(theirs)
        subprocess.run([sys.argv[3], theirs, ours], check=True)
        (their_fields, their_tensors), (our_fields, our_tensors) = read(theirs), read(ours)
        hold("gguf: metadata", their_fields == our_fields)
        hold("gguf: tensors", their_tensors == our_tensors)


main()
