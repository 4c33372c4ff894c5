"""The model as others compute it: transformers on the weights that the package gguf decodes, and llama.cpp on the file."""

import gguf
import numpy as np
import torch
from llama_cpp import Llama
from transformers import LlamaConfig, LlamaForCausalLM

from common import MODEL, THREADS

# A linear's name in a block of a GGUF file, and in one of transformers.
SITES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ENDS = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def fields():
    """The file's metadata."""
    return {name: field.contents() for name, field in gguf.GGUFReader(MODEL).fields.items()}


def halves_apart(weight, heads):
    """llama.cpp rotates neighbours, transformers the halves of a head: rows `[heads, half, 2]` become `[heads, 2, half]`."""
    return weight.reshape(heads, -1, 2, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def transformers_model():
    """transformers' Llama in f32 on the decoded weights."""
    reader = gguf.GGUFReader(MODEL)
    said = {name.removeprefix("llama."): field.contents() for name, field in reader.fields.items()}
    heads = {"attn_q": said["attention.head_count"], "attn_k": said["attention.head_count_kv"]}
    config = LlamaConfig(
        vocab_size=said["vocab_size"],
        hidden_size=said["embedding_length"],
        intermediate_size=said["feed_forward_length"],
        num_hidden_layers=said["block_count"],
        num_attention_heads=heads["attn_q"],
        num_key_value_heads=heads["attn_k"],
        max_position_embeddings=said["context_length"],
        rms_norm_eps=said["attention.layer_norm_rms_epsilon"],
        rope_theta=said["rope.freq_base"],
        tie_word_embeddings=True,
        bos_token_id=said["tokenizer.ggml.bos_token_id"],
        eos_token_id=said["tokenizer.ggml.eos_token_id"],
    )
    weights = {}
    for tensor in reader.tensors:
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        name = ENDS.get(tensor.name)
        if name is None:
            _, block, site, _ = tensor.name.split(".")
            if site in heads:
                weight = halves_apart(weight, heads[site])
            name = f"model.layers.{block}.{SITES[site]}.weight"
        weights[name] = torch.from_numpy(np.ascontiguousarray(weight))
    model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected, f"missing {missing}, not expected {unexpected}"
    model.tie_weights()
    return model.eval()


def llama_cpp(**settings):
    """llama.cpp on the file as it is."""
    return Llama(str(MODEL), n_threads=THREADS, n_threads_batch=THREADS, verbose=False, **settings)


def token_ids(llama, text):
    """Token ids of a text, without special tokens around or in it."""
    return llama.tokenize(text.encode(), add_bos=False, special=False)
