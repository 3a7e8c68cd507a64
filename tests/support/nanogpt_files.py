"""A checkpoint as nanoGPT's `train.py` writes one, made from a GPT-2 of transformers with the same function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_architectures import tiny
from torch import nn


def write_nanogpt_file(path: Path, vocab_size: int = 99, bias: bool = True, **content: Any) -> nn.Module:
    """Write `ckpt.pt`, compiled names and optimizer state included, and return the model of transformers."""
    model = tiny("gpt2", activation_function="gelu", vocab_size=vocab_size, bos_token_id=None, eos_token_id=None)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=random))
            if name.endswith(".bias") and not bias:
                parameter.zero_()
    turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    weights = {
        f"_orig_mod.{name}": tensor.T.contiguous() if name.endswith(turned) else tensor
        for name, tensor in model.state_dict().items()
        if bias or not name.endswith(".bias")
    }
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 64, "bias": bias, "vocab_size": vocab_size}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]}
    checkpoint = {"model": weights, "optimizer": optimizer, "model_args": {**sizes, "dropout": 0.0}}
    checkpoint |= {"iter_num": 5, "best_val_loss": torch.tensor(1.0), "config": {"dataset": "shakespeare_char"}}
    torch.save(checkpoint | content, path)
    return model
