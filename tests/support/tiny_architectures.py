"""Causal language models of other people, tiny and with random weights: what of each its configuration needs."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

_SIZES: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT2_SIZES: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

# By model type: what differs from `_SIZES`; neurons of a layer, sites of a block, the activation found there.
ARCHITECTURES: dict[str, tuple[dict[str, Any], int, int, str]] = {
    "gpt2": (_GPT2_SIZES, 128, 1, "gelu_tanh"),
    "opt": ({"ffn_dim": 48, "word_embed_proj_dim": 32}, 48, 1, "relu"),
    "gpt_neox": ({}, 48, 1, "gelu"),
    "gptj": ({**_GPT2_SIZES, "rotary_dim": 4}, 128, 1, "gelu_tanh"),
    "gpt_neo": ({"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}, 48, 1, "gelu_tanh"),
    "gpt_bigcode": (_GPT2_SIZES, 128, 1, "gelu_tanh"),
    "codegen": ({**_GPT2_SIZES, "rotary_dim": 4}, 128, 1, "gelu_tanh"),
    "ctrl": ({**_GPT2_SIZES, "dff": 48}, 48, 1, "relu"),
    "llama": ({}, 48, 1, "swiglu"),
    "mistral": ({}, 48, 1, "swiglu"),
    "qwen2": ({}, 48, 1, "swiglu"),
    "qwen3": ({"head_dim": 8}, 48, 1, "swiglu"),
    "gemma": ({"head_dim": 8}, 48, 1, "geglu_tanh"),
    "gemma2": ({"head_dim": 8}, 48, 1, "geglu_tanh"),
    "gemma3_text": ({"head_dim": 8}, 48, 1, "geglu_tanh"),
    "phi": ({}, 48, 1, "gelu_tanh"),
    "phi3": ({}, 48, 1, "swiglu"),
    "falcon": ({"num_kv_heads": 4, "ffn_hidden_size": 48}, 48, 1, "gelu"),
    "bloom": ({"n_head": 4, "n_layer": 2}, 128, 1, "gelu_tanh"),
    "mpt": ({"d_model": 32, "n_heads": 4, "n_layers": 2}, 128, 1, "gelu"),
    "stablelm": ({}, 48, 1, "swiglu"),
    "starcoder2": ({}, 48, 1, "gelu_tanh"),
    "nemotron": ({}, 48, 1, "relu2"),
    "olmo": ({}, 48, 1, "swiglu"),
    "olmo2": ({}, 48, 1, "swiglu"),
    "cohere": ({}, 48, 1, "swiglu"),
    "persimmon": ({}, 48, 1, "relu2"),
    "xglm": ({"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4}, 48, 1, "gelu"),
    "biogpt": ({}, 48, 1, "gelu"),
    "arcee": ({}, 48, 1, "relu2"),
    "bitnet": ({}, 48, 1, "gated relu·square (composed)"),
    "apertus": ({}, 48, 1, "gt·min·expm1·where (composed)"),
    "rwkv": ({"attention_hidden_size": 32}, 48, 1, "relu2"),
    "mixtral": ({"num_local_experts": 4}, 48, 4, "swiglu"),
    "qwen3_moe": ({**_EXPERTS, "head_dim": 8}, 24, 4, "swiglu"),
    "olmoe": ({**_EXPERTS}, 48, 4, "swiglu"),
    "gpt_oss": ({"num_local_experts": 4, "head_dim": 8}, 48, 4, "gated clamp·sigmoid (composed)"),
}


def tiny(model_type: str, **changes: Any) -> nn.Module:
    """A model of one of these types, or of another one with what `changes` says, in evaluation mode."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    own = ARCHITECTURES[model_type][0] if model_type in ARCHITECTURES else {}
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**_SIZES | own | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    return model.eval()


def some_ids(batch: int = 2, time: int = 12) -> Tensor:
    """Token ids (B,T) that are not special."""
    return torch.randint(3, 99, (batch, time), generator=torch.Generator().manual_seed(1))
