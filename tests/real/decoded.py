"""The model as a folder of Hugging Face, its weights decoded to f32: what `bouquet quantize` and `--encoding` make of them
are then our encodings alone, and no blocks of the file's. Python's package gguf decodes; nothing of Bouquet is in it."""

import json
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from common import HOME
from reference import fields, transformers_model

FOLDER = HOME / "decoded"

# Of a token's kind in a GGUF file: what is taken for one token wherever it stands, in a text as well.
CONTROL = 3


def tokenizer(said):
    """The tokenizer that `tokenizer.ggml.pre` = smollm stands for: digits one by one, then as GPT-2."""
    tokens = said["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in said["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    kinds = said["tokenizer.ggml.token_type"]
    made.add_special_tokens([token for token, kind in zip(tokens, kinds) if kind == CONTROL])
    return made


def folder():
    """The folder, made once."""
    if not (FOLDER / "whole").exists():
        transformers_model().save_pretrained(FOLDER)
        said = fields()
        tokenizer(said).save(str(FOLDER / "tokenizer.json"))
        settings = {"chat_template": said["tokenizer.chat_template"], "eos_token": "<|im_end|>"}
        (FOLDER / "tokenizer_config.json").write_text(json.dumps(settings))
        (FOLDER / "whole").touch()
        print(f"{FOLDER} has the weights decoded to f32", file=sys.stderr)
    return FOLDER
