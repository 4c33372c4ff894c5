"""Embeddings of sentences: Spearman x 100 on the English STS benchmark, before fine-tuning by the recipe and after each stage.

The base is in 8 bits all the way. It learns from English pairs alone, without any sentence of the development and test sets."""

import shutil

import pairs
from common import HOME, MODEL, RECIPES, bouquet, data, hold, keep, table

# Each stage begins with the adapter of the one before: its recipe, and what it learns from.
STAGES = [("smollm2-1-contrastive", "contrastive.jsonl"), ("smollm2-2-cosine", "scored.csv")]

# What the last stage has to reach on the test set.
GOAL = 70.0


def scores(*flags):
    """Spearman on the development and the test set."""
    found = {}
    for split in ["dev", "test"]:
        result = bouquet("eval", "sts", data(f"stsb/en.{split}.csv"), "--model", MODEL, "--encoding", "int8", *flags)
        found[split] = result["files"][0]["spearman"]
    return found


def main():
    work = HOME / "sentences"
    shutil.rmtree(work, ignore_errors=True)
    pairs.write(work)
    found = {"the model as it is": scores()}
    begin = []
    for recipe, file in STAGES:
        adapter = work / recipe
        flags = ["--config", RECIPES / f"{recipe}.toml", "--encoding", "int8", "--data", work / file, *begin]
        bouquet("finetune", MODEL, *flags, "--eval-data", data("stsb/en.dev.csv"), "--eval-every", 50, "-o", adapter)
        begin = ["--init-adapter", adapter]
        found[recipe] = scores("--adapter", adapter)
    last = found[recipe]
    whitened = work / "whitened"
    flags = ["--objective", "simcse", "--steps", 0, "--whiten", "--data", work / "texts.txt", *begin]
    bouquet("finetune", MODEL, "--encoding", "int8", *flags, "-o", whitened)
    found["whitened behind it"] = scores("--adapter", whitened)

    rows = [[name, f"{both['dev']:.1f}", f"{both['test']:.1f}"] for name, both in found.items()]
    keep("sentences", found, table(["Spearman x 100", "development", "test"], rows))
    hold(f"the last stage has {last['test']:.1f} on the test set, at least {GOAL}", last["test"] >= GOAL)


main()
