"""Adapters in both directions: what PEFT saves opens in Bouquet, what Bouquet writes opens in PEFT, and both compute the
same, as does a model with the adapter folded in. Everything is random and small; nothing is fetched."""

import copy
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, TaskType, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()
warnings.filterwarnings("ignore", category=FutureWarning)

# f32 sums in another order.
TOLERANCE = 1e-4
# An adapter that changes less than this would show nothing.
LEAST_CHANGE = 1e-2

MODELS = Path("tests/fixtures/models")
IDS = [[7, 8, 9, 10, 11, 12, 13], [20, 21, 22]]

BOUQUET, REWRITE = sys.argv[1:]


def lora(targets, **settings):
    return LoraConfig(r=4, lora_alpha=10, lora_dropout=0.05, target_modules=targets, init_lora_weights=False, **settings)


def prompt(**settings):
    return PromptTuningConfig(num_virtual_tokens=5, **settings)


# Model, what is special, and the adapter.
CASES = [
    ("bloom-tiny", "query_key_value", lora(["query_key_value"])),
    ("bloom-tiny", "all linears, rsLoRA", lora("all-linear", use_rslora=True)),
    ("bloom-tiny", "a pattern", lora(r".*\.(dense|dense_4h_to_h)")),
    ("bloom-tiny", "ranks and alphas", lora(["dense", "query_key_value"], rank_pattern={"dense": 2}, alpha_pattern={r"h\.1\.self_attention\.query_key_value": 3})),
    ("bloom-tiny", "one block", lora(["query_key_value"], layers_to_transform=[1], layers_pattern="h")),
    ("bloom-tiny", "a soft prompt", prompt()),
    ("llama-tiny", "q_proj and v_proj", lora(["q_proj", "v_proj"])),
    ("llama-tiny", "all linears", lora("all-linear")),
    ("llama-tiny", "a soft prompt", prompt()),
]

TASKS = {TaskType.CAUSAL_LM: AutoModelForCausalLM, TaskType.FEATURE_EXTRACTION: AutoModel}


def of_peft(model, task):
    """What a model of a task gives for each of the sequences, positions of a soft prompt included."""
    model.eval()
    outputs = []
    with torch.no_grad():
        for ids in IDS:
            found = model(input_ids=torch.tensor([ids]))
            outputs.append((found.logits if task == TaskType.CAUSAL_LM else found.last_hidden_state)[0])
    return torch.cat(outputs)


def of_bouquet(model, task, work, *flags):
    (work / "ids.json").write_text(json.dumps(IDS))
    out = work / "out.safetensors"
    subprocess.run([BOUQUET, "forward", model, "--token-ids", work / "ids.json", "-o", out, *flags], check=True, stdout=subprocess.DEVNULL)
    tensors = load_file(out)
    last = max(int(name.removeprefix("hidden.")) for name in tensors if name.startswith("hidden."))
    return tensors["logits" if task == TaskType.CAUSAL_LM else f"hidden.{last}"]


def distance(one, other):
    assert one.shape == other.shape, f"{tuple(one.shape)} and {tuple(other.shape)}"
    return (one - other).abs().max().item()


def check(name, what, config, task, work):
    folder = MODELS / name
    base = lambda: TASKS[task].from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    torch.manual_seed(1)
    config.task_type = task
    model = get_peft_model(base(), config)
    expected = of_peft(model, task)
    model.save_pretrained(work / "theirs")

    # Theirs here.
    found = {"theirs, opened here": distance(of_bouquet(folder, task, work, "--adapter", work / "theirs"), expected)}
    # Ours there, with nothing missing.
    subprocess.run([REWRITE, folder, work / "theirs", work / "ours", task.value], check=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys")
        opened = PeftModel.from_pretrained(base(), work / "ours")
    found["ours, opened there"] = distance(of_peft(opened, task), expected)
    theirs, ours = (load_file(work / side / "adapter_model.safetensors") for side in ("theirs", "ours"))
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[key], ours[key]) for key in theirs)

    if isinstance(config, LoraConfig):
        change = distance(of_peft(base(), task), expected)
        assert change > LEAST_CHANGE, f"the adapter changes {change}"
        subprocess.run([BOUQUET, "merge", folder, "--adapter", work / "ours", "--dtype", "f32", "-o", work / "merged"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        merged = TASKS[task].from_pretrained(work / "merged", attn_implementation="eager")
        assert merged.dtype == torch.float32
        found["merged, opened there"] = distance(of_peft(merged, task), expected)
        found["merged, opened here"] = distance(of_bouquet(work / "merged", task, work), expected)
    for way, difference in found.items():
        assert difference < TOLERANCE, f"{way}: {difference} off"
    print(f"{name:<11} {task.value:<18} {what:<20} differs by {max(found.values()):.1e} at most")


def main():
    for name, what, config in CASES:
        for task in TASKS:
            with tempfile.TemporaryDirectory() as work:
                try:
                    # PEFT writes into it which modules were found.
                    check(name, what, copy.deepcopy(config), task, Path(work))
                except Exception as error:
                    sys.exit(f"{name}, {task.value}, {what}: {error}")


main()
