"""The files of vectors that `bouquet embed` writes open in numpy and pyarrow, each with the same bits and texts; and what
these write is searched by `bouquet search`, with the same answers."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    pa = None

MODEL = Path("models/bloom-small-trained")
TEXTS = ["The river is near the bridge.", "Ein Mann schläft.", "Short", "", "Deux chats \"dorment\"\n encore.", "二匹の猫"]
IDS = ["a", None, "c", "", "é", "f"]

BOUQUET = sys.argv[1]


def embed(source, out):
    command = [BOUQUET, "embed", MODEL, source, "--field", "text", "-o", out]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return out


def search(vectors, *flags):
    """The numbers and scores of what is nearest."""
    command = [BOUQUET, "search", vectors, "two cats", "--model", MODEL, "--json", *flags]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    return [(hit["index"], hit["score"]) for hit in found["queries"][0]["hits"]]


def hold(what, held):
    if not held:
        sys.exit(f"{what}: not the same")
    print(f"{what}: the same")


def same_bits(one, other):
    return one.dtype == other.dtype == np.float32 and one.shape == other.shape and one.tobytes() == other.tobytes()


def main():
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        source = work / "texts.jsonl"
        rows = [{"text": text} | ({} if name is None else {"id": name}) for text, name in zip(TEXTS, IDS)]
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))

        lines = [json.loads(line) for line in embed(source, work / "ours.jsonl").read_text().splitlines()]
        vectors = np.array([line["embedding"] for line in lines], dtype=np.float32)
        hold("texts and ids in JSON lines", [(line["text"], line.get("id")) for line in lines] == list(zip(TEXTS, IDS)))
        hold("numpy, bits of .npy", same_bits(np.load(embed(source, work / "ours.npy")), vectors))

        expected = search(work / "ours.jsonl")
        for dtype in ["<f4", "<f8"]:
            np.save(work / "theirs.npy", vectors.astype(dtype))
            hold(f"search in {dtype} of numpy", search(work / "theirs.npy") == expected)
            hold(f"search in {dtype} of numpy, by index", search(work / "theirs.npy", "--index") == expected)

        if pa is None:
            print("pyarrow is not installed")
            return
        table = pq.read_table(embed(source, work / "ours.parquet"))
        columns = table.to_pydict()
        hold("pyarrow, texts and ids", (columns["text"], columns["id"]) == (TEXTS, IDS))
        hold("pyarrow, types", [str(kind) for kind in table.schema.types] == ["string", "string", "list<element: float not null>"])
        flat = table["embedding"].combine_chunks().values.to_numpy()
        hold("pyarrow, bits of .parquet", same_bits(flat.reshape(vectors.shape), vectors))
        for kind in [pa.list_(pa.float32()), pa.list_(pa.float64()), pa.list_(pa.float32(), vectors.shape[1])]:
            for options in [{}, {"compression": "gzip"}, {"use_dictionary": False, "data_page_version": "2.0"}]:
                theirs = pa.table({"text": TEXTS, "embedding": pa.array(vectors.tolist(), kind)})
                pq.write_table(theirs, work / "theirs.parquet", **options)
                hold(f"search in {kind} of pyarrow, {options}", search(work / "theirs.parquet") == expected)


main()
