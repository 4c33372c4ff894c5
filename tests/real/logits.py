"""Logits in f32 are those of transformers' Llama on the same decoded weights.

This model has tokens whose hidden states reach 21,904; what rounding does to them shows in a thousandth of a logit, in
transformers as well. So the measure is transformers in f64, and beside it stands how far it is from that in f32 itself."""

import copy
import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from common import MODEL, bouquet, hold, keep, table
from reference import llama_cpp, token_ids, transformers_model
from texts import TEXTS

# f32 sums; logits are of the size of 30.
TOLERANCE = 1e-3


def of_text(text, ids, work):
    """Our logits, from the text: where its tokens are others than those of `ids`, so are the bits."""
    out, file = work / "out.safetensors", work / "ids.json"
    file.write_text(json.dumps([ids]))
    found = []
    for flags in [("--text", text), ("--token-ids", file)]:
        bouquet("forward", MODEL, *flags, "-o", out)
        found.append(load_file(out)["logits"])
    hold(f"the {len(ids)} tokens of {text[:20]!r} are those of llama.cpp", torch.equal(*found))
    return found[0]


def main():
    llama, single = llama_cpp(vocab_only=True), transformers_model()
    double = copy.deepcopy(single).double()
    rows, worst, unexplained = [], 0.0, []
    with tempfile.TemporaryDirectory() as work, torch.no_grad():
        for text in TEXTS:
            ids = token_ids(llama, text)
            exact, rounded = (model(input_ids=torch.tensor([ids])).logits[0].double() for model in (double, single))
            ours = of_text(text, ids, Path(work)).double()
            to_exact, to_rounded, theirs = ((a - b).abs().max().item() for a, b in [(ours, exact), (ours, rounded), (rounded, exact)])
            hold(f"each of its best tokens is transformers'", torch.equal(ours.argmax(-1), exact.argmax(-1)))
            worst = max(worst, to_exact)
            if to_rounded > TOLERANCE and theirs < to_exact:
                unexplained.append(text)
            rows.append([f"{text[:20]} …", len(ids), f"{exact.abs().max():.1f}", f"{to_exact:.1e}", f"{to_rounded:.1e}", f"{theirs:.1e}"])
    head = ["text", "tokens", "largest logit", "to transformers in f64", "to it in f32", "its f32 to its f64"]
    keep("logits", {"columns": head, "rows": rows, "tolerance": TOLERANCE}, table(head, rows))
    hold(f"logits are within {TOLERANCE} of transformers in f64 ({worst:.1e})", worst <= TOLERANCE)
    hold("and of it in f32, or nearer to f64 than that is", not unexplained)


main()
