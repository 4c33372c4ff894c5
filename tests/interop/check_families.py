"""What `bouquet finetune` writes for a model of every family opens in PEFT, by the names that PEFT gives to the same
linears, and computes the same there."""

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()
warnings.filterwarnings("ignore", category=FutureWarning)

# f32 sums in another order.
TOLERANCE = 1e-4
# An adapter that changes less than this would show nothing.
LEAST_CHANGE = 1e-2

ROOT = Path("tests/fixtures")
TEXT = "The committee approved the plan on Tuesday, and the work will begin in March. "
IDS = [7, 80, 9, 310, 11, 12, 400, 5, 77, 200, 33, 101]

FUSED = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
GATED = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
PLAIN = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]

CASES = {
    "models/bloom-tiny": FUSED,
    "models/falcon-tiny": FUSED,
    "models/falcon-tiny-newarch": FUSED,
    "families/models/falcon-alibi-tiny": FUSED,
    "models/llama-tiny": GATED,
    "families/models/mistral-tiny": GATED,
    "models/mixtral-tiny": ATTENTION,
    "models/opt-tiny": PLAIN,
    "models/opt-tiny-postln": PLAIN,
    "families/models/qwen2-tiny": GATED,
    "models/qwen3-tiny": GATED,
}

# transformers holds the experts of a block in one tensor. PEFT opens pairs of theirs by the names that they have in files, but
# does not save such.
EXPERTS = [*ATTENTION, "w1", "w2", "w3"]

BOUQUET = sys.argv[1]


def base(folder):
    # BLOOM has eager attention only; that of Falcon adds its linear biases twice.
    attention = "eager" if "bloom" in folder.name else "sdpa"
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).eval()


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([IDS])).logits[0]


def check(folder, targets, work):
    (work / "text.txt").write_text(TEXT * 20)
    flags = ["--objective", "causal", "--data", work / "text.txt", "--targets", ",".join(targets), "--steps", "2", "--batch-size", "2"]
    flags += ["--max-tokens", "24", "--lr", "3e-2", "--rank", "4", "--encoding", "f32", "--json", "-o", work / "ours"]
    subprocess.run([BOUQUET, "finetune", folder, *flags], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    ours = load_file(work / "ours" / "adapter_model.safetensors")
    if targets != EXPERTS:
        config = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
        get_peft_model(base(folder), config).save_pretrained(work / "theirs")
        theirs = load_file(work / "theirs" / "adapter_model.safetensors")
        shapes = [{key: value.shape for key, value in side.items()} for side in (ours, theirs)]
        assert shapes[0] == shapes[1], f"{sorted(shapes[0].keys() ^ shapes[1].keys())} in one alone"

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys")
        expected = logits_of(PeftModel.from_pretrained(base(folder), work / "ours"))
    (work / "ids.json").write_text(json.dumps([IDS]))
    command = [BOUQUET, "forward", folder, "--token-ids", work / "ids.json", "--adapter", work / "ours", "-o", work / "out.safetensors"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    difference = (load_file(work / "out.safetensors")["logits"] - expected).abs().max().item()
    change = (logits_of(base(folder)) - expected).abs().max().item()
    assert change > LEAST_CHANGE, f"the adapter changes {change}"
    assert difference < TOLERANCE, f"{difference} off"
    print(f"{folder.name:<20} {len(ours):>3} tensors, logits differ by {difference:.1e} (the adapter changes {change:.2f})")


for name, targets in [*CASES.items(), ("models/mixtral-tiny", EXPERTS)]:
    with tempfile.TemporaryDirectory() as work:
        try:
            check(ROOT / name, targets, Path(work))
        except subprocess.CalledProcessError as error:
            sys.exit(f"{name}: {(error.stderr or b'').decode()}")
        except AssertionError as error:
            sys.exit(f"{name}: {error}")
