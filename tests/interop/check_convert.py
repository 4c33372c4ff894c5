"""GGUF files that `bouquet convert` writes, in llama.cpp, transformers and gguf-py: they open, their logits are ours within a
bound, their tokens are those of the folder, and their blocks are the bytes of ggml. Models of every family that llama.cpp has."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

try:
    import gguf
    import llama_cpp
except ImportError:
    gguf = None

FIXTURES = Path("tests/fixtures")
# The largest difference of a logit in F32. llama.cpp looks GELU up in a table of 16 bits, which BLOOM and Falcon have, and
# Falcon's own is another curve besides.
MODELS = {
    "models/bloom-tiny": 2e-2,
    "models/llama-tiny": 1e-3,
    "models/llama-tiny-tied": 1e-3,
    "models/llama3-rope-tiny": 1e-3,
    "models/mixtral-tiny": 1e-3,
    "models/qwen3-tiny": 1e-3,
    "models/falcon-tiny": 2e-2,
    "models/falcon-tiny-newarch": 2e-2,
    "families/models/mistral-tiny": 1e-3,
    "families/models/qwen2-tiny": 1e-3,
    "families/models/llama-linear-tiny": 1e-3,
    "families/models/llama-yarn-tiny": 1e-3,
}
# llama.cpp rounds activations to 16 bits beside F16 and to 8 bits beside blocks, where ours are computed in f32.
BOUNDS = {"f32": 0, "f16": 3e-2, "q8_0": 0.4, "q4_0": 0.4}
# Short, so that no window is left.
TOKENS = [5, 9, 33, 2, 61]
TEXTS = ["Hello world", " two  spaces", "naïve café 日本語\n\ttabs", "3.14 don't WE'LL"]
# What `gguf_file=` of transformers reads: no Falcon, and of Qwen3 only heads of 128 channels (it does not ask for key_length).
OF_TRANSFORMERS = ["models/llama-tiny", "families/models/qwen2-tiny", "models/bloom-tiny"]


def run(bouquet, *arguments):
    done = subprocess.run([bouquet, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"bouquet {' '.join(map(str, arguments))}: {done.stderr}")


def ours(bouquet, model, work):
    ids, out = work / "ids.json", work / "out.safetensors"
    ids.write_text(json.dumps([TOKENS]))
    run(bouquet, "forward", model, "--token-ids", ids, "-o", out)
    return load_file(out)["logits"]


def of_llama_cpp(path):
    model = llama_cpp.Llama(str(path), n_ctx=64, logits_all=True, verbose=False, type_k=0, type_v=0, n_threads=2)
    model.eval(TOKENS)
    tokens = [model.tokenize(text.encode(), add_bos=False, special=False) for text in TEXTS]
    return np.array(model.scores[: len(TOKENS)]), tokens


def check(what, difference, bound):
    print(f"{what}: within {difference:.1e}")
    if not difference <= bound:
        sys.exit(f"{what}: more than {bound:.1e}")


def hold(what, found, expected):
    print(f"{what}: the same" if found == expected else f"{what}: not the same")
    if found != expected:
        sys.exit(f"{what}: not the same")


def ids(tokenizer, special):
    return [tokenizer.encode(text, add_special_tokens=special).ids for text in TEXTS]


def blocks(path, floats):
    """The blocks of a file against those that gguf-py makes of the same numbers."""
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(floats).tensors}
    count = 0
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.tensor_type in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0):
            expected = gguf.quants.quantize(np.array(theirs[tensor.name].data, dtype=np.float32), tensor.tensor_type)
            if bytes(tensor.data.tobytes()) != expected.tobytes():
                sys.exit(f"{path.name}: {tensor.name} is not what gguf-py makes")
            count += 1
    return count


def main():
    if gguf is None:
        print("check_convert: needs the Python packages gguf and llama-cpp-python; left out")
        return
    bouquet = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, bound in MODELS.items():
            model, short = FIXTURES / name, Path(name).name
            files = {}
            for to, looser in BOUNDS.items():
                files[to] = work / f"{short}-{to}.gguf"
                run(bouquet, "convert", model, "-o", files[to], "--to", to)
                theirs, tokens = of_llama_cpp(files[to])
                expected = ours(bouquet, files[to], work)
                check(f"convert, {short} in {to}, llama.cpp", np.abs(theirs - expected).max(), max(bound, looser))
            of_file, of_folder = (ours(bouquet, path, work).tobytes() for path in (files["f32"], model))
            hold(f"convert, {short}: logits of the file and the folder", of_file, of_folder)
            # AutoTokenizer of transformers 5 builds Llama's and Qwen2's by its own rules, and not as tokenizer.json says.
            tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
            hold(f"convert, {short}: tokens in llama.cpp", tokens, ids(tokenizer, False))
            count = blocks(files["q8_0"], files["f32"]) + blocks(files["q4_0"], files["f32"])
            print(f"convert, {short}: {count} tensors in blocks, the bytes of gguf-py")

            back = work / f"{short}-back"
            run(bouquet, "convert", files["f32"], "-o", back, "--to", "f32")
            with torch.no_grad():
                theirs = AutoModelForCausalLM.from_pretrained(back, dtype=torch.float32)(torch.tensor([TOKENS])).logits[0]
            check(f"convert, {short} and back, transformers", np.abs(theirs.numpy() - ours(bouquet, model, work)).max(), 2e-4)
            of_back = Tokenizer.from_file(str(back / "tokenizer.json"))
            hold(f"convert, {short} and back: tokens", ids(of_back, True), ids(tokenizer, True))
            if name in OF_TRANSFORMERS:
                with torch.no_grad():
                    theirs = AutoModelForCausalLM.from_pretrained(work, gguf_file=files["f32"].name, dtype=torch.float32)
                    theirs = theirs(torch.tensor([TOKENS])).logits[0]
                check(f"convert, {short}, transformers' gguf_file", np.abs(theirs.numpy() - ours(bouquet, model, work)).max(), 2e-4)


main()
