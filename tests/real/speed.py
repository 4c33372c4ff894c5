"""Speed and peak memory beside llama.cpp's, on the same file, with 2 threads: a prompt of 512 tokens and 64 tokens one by one.

The programs take turns, each time in a process of its own, so that what the machine does meanwhile meets all of them. Nothing
else should run. ROUNDS in the environment says how often: 5 unless said."""

import json
import os
import statistics
import subprocess
import sys

from common import BOUQUET, DATA, HOME, MODEL, THREADS, bouquet, hold, keep, table
from texts import PROMPTS

TESTS = ["pp512", "tg64"]
ENCODINGS = ["stored", "int8", "int4", "f32"]
MIB = 1 << 20


def of_bouquet(encoding):
    flags = ["-p", 512, "-n", 64, "-r", 1, "--threads", THREADS, "--encoding", encoding]
    found = bouquet("bench", MODEL, *flags)["results"]
    return {result["test"]: result["tokens_per_sec"] for result in found}


def memory_of_bouquet(encoding):
    """Of a prompt of some hundred tokens, and 64 more: what `bench` says has the arrays in it with which it measures the machine."""
    prompt = " ".join(PROMPTS * 3)
    flags = ["--raw", "--temperature", 0, "--ignore-eos", "--max-tokens", 64, "--ctx", 576, "--threads", THREADS, "--encoding", encoding]
    timings = bouquet("run", MODEL, *flags, prompt)["timings"]
    hold(f"a prompt of {timings['prompt_tokens']} tokens is near 512", 400 <= timings["prompt_tokens"] <= 512)
    return timings["peak_memory_bytes"]


def of_llama_cpp(what):
    child = [sys.executable, "-B", "tests/real/speed_of_llama_cpp.py", BOUQUET, DATA, HOME, what]
    done = subprocess.run(list(map(str, child)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return json.loads(done.stdout)


def spread(values):
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main():
    rounds = int(os.environ.get("ROUNDS", "5"))
    programs = {"llama.cpp": lambda: of_llama_cpp("file"), **{e: (lambda e=e: of_bouquet(e)) for e in ENCODINGS}}
    found = {name: [] for name in programs}
    for turn in range(rounds):
        for name, measure in programs.items():
            found[name].append(measure())
            print(f"{turn + 1}/{rounds} {name}: {found[name][-1]}", file=sys.stderr)
    # What Python and its packages take without a model is taken off llama.cpp's figure.
    python = of_llama_cpp("nothing")["peak_memory_bytes"]
    rows, peaks = [], {}
    for name, results in found.items():
        hold(f"{name}: {rounds} figures of each test", all(test in result for result in results for test in TESTS))
        memory = memory_of_bouquet(name) if name in ENCODINGS else max(result["peak_memory_bytes"] for result in results) - python
        peaks[name] = memory
        rows.append([name, *(spread([result[test] for result in results]) for test in TESTS), f"{memory / MIB:.0f} MiB"])
    keep("speed", {"rounds": found, "peak_memory_bytes": peaks}, table(["", *(f"{test}, tokens/s" for test in TESTS), "peak memory"], rows))


main()
