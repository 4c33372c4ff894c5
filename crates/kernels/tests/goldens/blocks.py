"""Writes blocks.txt, which tests/blocks.rs compares with: what ggml's own Python package makes of blocks.

    pip install gguf==0.19.0 numpy && python blocks.py > blocks.txt
"""

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

# Where the f16 numbers of a block begin: of random bits, some are not finite.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "IQ4_NL": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}

print("# Blocks as the Python package gguf", "0.19.0", "reads and writes them; made by blocks.py. Bytes as in memory.")
random = np.random.default_rng(1)
for name, places in HALVES.items():
    size, width = gguf.GGML_QUANT_SIZES[Type[name]]
    blocks = random.integers(0, 256, (3 if size == 32 else 1, width), dtype=np.uint8)
    for block in blocks:
        for place in places:
            half = np.float16(random.uniform(-0.02, 0.02))
            block[place : place + 2] = np.frombuffer(half.tobytes(), np.uint8)
    numbers = gguf.quants.dequantize(blocks, Type[name])
    print("decode", name, blocks.tobytes().hex(), numbers.astype("<f4").tobytes().hex())

numbers = random.normal(0, 1, (8, 32)).astype(np.float32)
numbers[1] = 0  # no scale
numbers[2] = np.arange(32) - 15.5  # halves that are rounded
numbers[2][0] = 127
numbers[3] *= 1e-7  # a scale below the normal numbers of f16
numbers[4][5] = -numbers[4].max() * 2  # the largest is negative
numbers[5][[3, 20]] = [4, -4]  # the first of two counts
numbers[6] *= 1e-3
for name in ["Q8_0", "Q4_0"]:
    blocks = gguf.quants.quantize(numbers, Type[name])
    print("encode", name, blocks.tobytes().hex(), numbers.astype("<f4").tobytes().hex())
