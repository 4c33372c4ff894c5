"""One child of speed.py: llama.cpp's tokens a second and peak memory, as JSON. `nothing` loads no model, for what Python takes."""

import json
import resource
import sys
import time

PROMPT, GENERATED = 512, 64


def timed(llama, synchronize, batches):
    """Tokens a second of batches of token ids, from an empty cache."""
    llama.reset()
    synchronize()
    started = time.perf_counter()
    for batch in batches:
        llama.eval(batch)
    synchronize()
    return sum(map(len, batches)) / (time.perf_counter() - started)


def main():
    import llama_cpp

    result = {}
    if sys.argv[4] != "nothing":
        from reference import llama_cpp as opened

        llama = opened(n_ctx=PROMPT + GENERATED, n_batch=PROMPT, n_ubatch=PROMPT)
        synchronize = lambda: llama_cpp.llama_synchronize(llama.ctx)
        prompt = [1 + i * 37 % 40_000 for i in range(PROMPT)]
        one_by_one = [[token] for token in prompt[:GENERATED]]
        timed(llama, synchronize, [prompt])
        result = {"pp512": timed(llama, synchronize, [prompt]), "tg64": timed(llama, synchronize, one_by_one)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({**result, "peak_memory_bytes": peak * (1 if sys.platform == "darwin" else 1024)}))


main()
