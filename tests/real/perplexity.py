"""Perplexity on the WikiText-2 test, beside llama.cpp's on the same file, token ids, windows and rule.

The text is cut into consecutive windows of 512 tokens, without special tokens; what is left at the end is dropped. Each is
computed alone, and all its tokens but the first are scored. WINDOWS in the environment says how many: 64, or `all`."""

import math
import os
import sys

import numpy as np

from common import MODEL, bouquet, data, hold, keep, table
from decoded import folder
from reference import llama_cpp, token_ids

WINDOW = 512

# llama.cpp's figure, and no more than this share above it, is what the blocks as they are have to reach.
ROOM = 1e-3
# Two ways to the same decoded weights; they should be the same to the last bit.
SAME = 1e-9

# What is computed: the file or the folder of its decoded weights, and the encoding.
OURS = [
    ("as stored", "file", "stored"),
    ("f32, decoded", "file", "f32"),
    ("int8", "file", "int8"),
    ("nf4", "file", "nf4"),
    ("int4", "file", "int4"),
]


def of_llama_cpp(windows):
    """The mean negative log-likelihood of all scored tokens, and the windows that there were."""
    llama = llama_cpp(n_ctx=WINDOW, n_batch=WINDOW, n_ubatch=WINDOW, logits_all=True)
    ids = token_ids(llama, data("wikitext-2/test.detok.txt").read_text(encoding="utf-8"))
    count = len(ids) // WINDOW if windows is None else min(windows, len(ids) // WINDOW)
    losses = []
    for start in range(0, count * WINDOW, WINDOW):
        window = ids[start : start + WINDOW]
        llama.reset()
        llama.eval(window)
        logits = llama.scores[: WINDOW - 1].astype(np.float64)
        largest = logits.max(axis=1)
        normalizer = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
        losses.append((normalizer - logits[np.arange(WINDOW - 1), window[1:]]).sum())
        print(f"llama.cpp: {len(losses)}/{count} windows, {math.exp(sum(losses) / len(losses) / (WINDOW - 1)):.3f}", end="\r", file=sys.stderr)
    print(file=sys.stderr)
    return sum(losses) / count / (WINDOW - 1), count


def ours(model, encoding, windows):
    text = data("wikitext-2/test.detok.txt")
    return bouquet("perplexity", model, text, "--window", WINDOW, "--max-windows", windows, "--encoding", encoding)


def main():
    asked = os.environ.get("WINDOWS", "64")
    models = {"file": MODEL, "decoded": folder()}
    pair = [ours(model, "f32", 2) for model in models.values()]
    hold("the folder of decoded weights is the file in f32", abs(pair[0]["mean_nll"] - pair[1]["mean_nll"]) <= SAME)

    nll, windows = of_llama_cpp(None if asked == "all" else int(asked))
    theirs = math.exp(nll)
    rows, found = [["llama.cpp, the file as it is", f"{theirs:.3f}", ""]], {"llama.cpp": theirs}
    for name, model, encoding in OURS:
        result = ours(models[model], encoding, windows)
        hold(f"{name}: as many tokens", (result["windows"], result["tokens"]) == (windows, windows * (WINDOW - 1)))
        found[name] = result["perplexity"]
        rows.append([name, f"{found[name]:.3f}", f"{found[name] / theirs - 1:+.2%}"])
    result = {"windows": windows, "window": WINDOW, "perplexity": found}
    keep("perplexity", result, table([f"{windows} windows of {WINDOW} tokens", "perplexity", "to llama.cpp"], rows))
    hold(f"blocks as they are within {ROOM:.1%} of llama.cpp or better", found["as stored"] <= theirs * (1 + ROOM))


main()
