"""Greedy texts in f32 are those of transformers' Llama on the same decoded weights, token for token."""

import torch

from common import MODEL, bouquet, hold, keep, table
from reference import llama_cpp, token_ids, transformers_model
from texts import PROMPTS

TOKENS = 64


def continued(model, prompt):
    """The most likely token, again and again, and by how much its logit is ahead of the next."""
    ids, cache, chosen, gaps = torch.tensor([prompt]), None, [], []
    with torch.no_grad():
        while len(chosen) < TOKENS:
            found = model(input_ids=ids, past_key_values=cache, use_cache=True)
            cache = found.past_key_values
            best = found.logits[0, -1].topk(2)
            chosen.append(best.indices[0].item())
            gaps.append((best.values[0] - best.values[1]).item())
            ids = best.indices[:1].reshape(1, 1)
    return chosen, gaps


def main():
    llama, model = llama_cpp(vocab_only=True), transformers_model()
    rows, differing = [], []
    for prompt in PROMPTS:
        theirs, gaps = continued(model, token_ids(llama, prompt))
        flags = ["--raw", "--temperature", 0, "--repetition-penalty", 1, "--ignore-eos", "--max-tokens", TOKENS]
        found = bouquet("run", MODEL, "--encoding", "f32", *flags, prompt)
        ours = found["token_ids"]
        first = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), None)
        if len(ours) != len(theirs):
            first = min(len(ours), len(theirs)) if first is None else first
        said = "the same" if first is None else f"differs from token {first}, where the best two logits are {gaps[first]:.1e} apart"
        if first is not None:
            differing.append(prompt)
        rows.append([repr(prompt)[1:24].replace("|", " "), len(ours), f"{min(gaps):.1e}", said])
        print(f"{prompt!r}: {said}\n    {found['text']!r}", flush=True)
    result = {"prompts": len(PROMPTS), "tokens": TOKENS, "differing": differing}
    keep("greedy", result, table(["prompt", "tokens", "smallest gap of the best two logits", "texts"], rows))
    hold(f"the greedy texts of {len(PROMPTS)} prompts are transformers' ({len(differing)} differ)", not differing)


main()
