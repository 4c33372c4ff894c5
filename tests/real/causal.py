"""A causal fine-tune on running text, the base in 8 bits: the loss on text that it has not seen, before and after.

It learns from the WikiText-2 validation text and is measured on the test text, in windows as long as the pieces that it learned from."""

import shutil

from common import HOME, MODEL, RECIPES, bouquet, data, hold, keep, table

RECIPE = RECIPES / "smollm2-text.toml"
# Windows as long as `max-tokens` of the recipe.
WINDOW, WINDOWS = 256, 256

# By how much the loss has to fall, in nats a token: far more than rounding changes it.
LEAST = 0.02


def loss(encoding, *flags):
    text = data("wikitext-2/test.detok.txt")
    return bouquet("perplexity", MODEL, text, "--window", WINDOW, "--max-windows", WINDOWS, "--encoding", encoding, *flags)


def main():
    adapter = HOME / "text"
    shutil.rmtree(adapter, ignore_errors=True)
    bouquet("finetune", MODEL, "--config", RECIPE, "--encoding", "int8", "--data", data("wikitext-2/valid.detok.txt"), "-o", adapter)
    rows, found = [], {}
    for encoding in ["int8", "f32"]:
        before, after = loss(encoding), loss(encoding, "--adapter", adapter)
        found[encoding] = {"before": before, "after": after}
        losses = [f"{result['mean_nll']:.4f} ({result['perplexity']:.2f})" for result in (before, after)]
        rows.append([encoding, *losses])
    head = [f"{WINDOWS} windows of {WINDOW} tokens", "before: loss (perplexity)", "after"]
    keep("causal", found, table(head, rows))
    for encoding, both in found.items():
        fallen = both["before"]["mean_nll"] - both["after"]["mean_nll"]
        hold(f"{encoding}: the loss falls by {fallen:.4f}, at least {LEAST}", fallen >= LEAST)


main()
