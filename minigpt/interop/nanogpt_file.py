"""A checkpoint that nanoGPT's `train.py` wrote (`ckpt.pt`), read without letting it run code.

Source: https://github.com/karpathy/nanoGPT, `train.py` (what a checkpoint holds) and `model.py` (what it computes:
pre-norm blocks, exact GELU, learned positions, a head tied to the embedding).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minigpt.base.errors import CheckpointError
from minigpt.interop.correspondence import NANOGPT_RULES
from minigpt.interop.foreign_model import ForeignModel, fit
from minigpt.model import GPTConfig
from minigpt.text.gpt2 import GPT2_RANKS

_SIZES = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")
GPT2_SIZES = (GPT2_RANKS + 1, 50_304)
"""Vocabularies that are GPT-2's: with its end of text, and as nanoGPT rounds it up to a multiple of 64."""
_COMPILED = "_orig_mod."  # what `torch.compile` puts before the names of a model


def read_nanogpt(path: Path) -> ForeignModel:
    """The model in a checkpoint, as one of ours.

    Raises:
        CheckpointError: the file is no such checkpoint, holds more than tensors and plain values, or does not fit.
        UsageError: no model of ours has these sizes.
    """
    content = _load(path)
    sizes, weights = content.get("model_args"), content.get("model")
    if not isinstance(sizes, dict) or not isinstance(weights, dict):
        raise CheckpointError(f"{path} is no checkpoint of nanoGPT; it lacks model_args or model; give its ckpt.pt")
    if not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise CheckpointError(
            f"{path} is no checkpoint of nanoGPT; its model holds more than tensors; give its ckpt.pt"
        )
    tensors = {str(name).removeprefix(_COMPILED): tensor for name, tensor in weights.items()}
    return fit(_our_config(sizes, path), tensors, NANOGPT_RULES, str(path))


def _load(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; a file is needed; give nanoGPT's ckpt.pt")
    try:
        # NOTE: `weights_only` refuses whatever is no tensor or plain value; mapping spares the optimizer's two thirds.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises whatever a damaged file leads to, unpickling errors among them
        kind = type(error).__name__  # NOTE: torch's own message advises to load it unsafely
        raise CheckpointError(
            f"{path} cannot be read as tensors and plain values; {kind}; nothing of it was run, give nanoGPT's ckpt.pt"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} is no checkpoint of nanoGPT; got {type(content).__name__}; give its ckpt.pt")
    return content


def _our_config(sizes: Mapping[str, Any], path: Path) -> GPTConfig:
    wrong = [name for name in _SIZES if type(sizes.get(name)) is not int or sizes[name] < 1]
    if wrong:
        raise CheckpointError(f"{path} does not say its sizes; {', '.join(wrong)} missing in model_args; restore it")
    named = {name: sizes[name] for name in _SIZES}
    width = 4 * sizes["n_embd"]
    return GPTConfig(**named, bias=bool(sizes.get("bias", True)), d_ff=width, activation="gelu", tie_embeddings=True)
