"""What `bouquet finetune` writes for sentences opens in PEFT and in sentence-transformers, and gives the same embeddings."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModel
from transformers.utils import logging

try:
    from sentence_transformers import SentenceTransformer
except ImportError:
    SentenceTransformer = None

logging.disable_progress_bar()

# f32 sums in another order.
TOLERANCE = 1e-4

MODEL = Path("models/bloom-small-trained")
TEXTS = ["The river is near the bridge.", "Ein Mann schläft.", "Short", "Deux chats dorment " * 9 + "encore."]

BOUQUET = sys.argv[1]


def finetune(work, pooling, rows, *more):
    """An adapter of a few steps, learned from so many pairs."""
    pairs = work / "pairs.jsonl"
    rows = [{"anchor": f"Number {i} is near {i * 7}.", "positive": f"Near {i * 7} is number {i}, too."} for i in range(rows)]
    pairs.write_text("\n".join(map(json.dumps, rows)))
    folder = work / pooling
    flags = ["--objective", "contrastive", "--data", pairs, "--pooling", pooling, "--targets", "all", "--steps", "6"]
    flags += ["--batch-size", "8", "--lr", "1e-2", "--encoding", "f32", "--json", "-o", folder, *more]
    subprocess.run([BOUQUET, "finetune", MODEL, *flags], check=True, stdout=subprocess.DEVNULL)
    return folder


def of_bouquet(folder, work):
    """Embeddings as Bouquet computes them; how it pools it finds in the folder."""
    (work / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    out = work / "ours.npy"
    flags = ["--adapter", folder, "--encoding", "f32", work / "texts.txt", "-o", out]
    subprocess.run([BOUQUET, "embed", MODEL, *flags], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return np.load(out)


def hold(what, ours, theirs):
    distance = float(np.abs(ours - theirs).max())
    if not distance < TOLERANCE:
        sys.exit(f"{what}: {distance} apart")
    print(f"{what}: {distance:.1e}")


def main():
    cases = [("mean", 40, []), ("weightedmean", 40, []), ("lasttoken", 40, []), ("mean", 400, ["--whiten"])]
    for pooling, rows, more in cases:
        with tempfile.TemporaryDirectory() as work:
            work, what = Path(work), " ".join([pooling, *more])
            folder = finetune(work, pooling, rows, *more)
            ours = of_bouquet(folder, work)
            PeftModel.from_pretrained(AutoModel.from_pretrained(MODEL, dtype=torch.float32), folder)
            if SentenceTransformer is None:
                print(f"{what}: opens in PEFT; sentence-transformers is not installed")
                continue
            model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
            hold(f"sentence-transformers, {what}", ours, model.encode(TEXTS))


main()
