"""Look at a language model that is in memory: whoever built it, on its device, in its dtype, and left as it was."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from minigpt.base.errors import UsageError
from minigpt.interop.open_model import OpenedModel, TheirTokenizer, refuse_without_floats
from minigpt.neurons.find_mlps import evaluating, refuse_unfit, run_model

_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "block_size", "context_length", "max_seq_len")
_VOCABULARY_NAMES = ("vocab_size", "n_vocab")
_CONTEXT = 2048  # of a model that does not say


def open_module(model: nn.Module, tokenizer: Any) -> OpenedModel:
    """Describe a model that is called with ids (B,T); `tokenizer` is its own, of transformers or of ours, or None.

    Raises:
        UsageError: it is compiled, has no values or no float weights, or is not called with token ids alone.
    """
    refuse_unfit(model)
    config = getattr(model, "config", None)
    name = str(getattr(config, "name_or_path", "") or type(model).__name__).replace("/", "--")
    refuse_without_floats(name, model)
    body = getattr(model, "base_model", model)
    weights = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), None)
    if weights is None or not isinstance(body, nn.Module):
        raise UsageError(f"{name} has no float weights; give a language model")
    try:
        with evaluating(model):
            run_model(body, torch.zeros(1, 2, dtype=torch.int64, device=weights.device))
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError) as reason:
        advice = "an audit needs a causal language model; count others with NeuronProbe.for_modules({...})"
        raise UsageError(f"{name} cannot be called with token ids alone; {reason}; {advice}") from reason
    return OpenedModel(
        name=name,
        kind="memory",
        family=str(getattr(config, "model_type", type(model).__name__)),
        model=model,
        body=body,
        tokenizer=TheirTokenizer(tokenizer) if hasattr(tokenizer, "eos_token_id") else tokenizer,
        context=_number(config, _CONTEXT_NAMES) or _CONTEXT,
        vocab_size=_number(config, _VOCABULARY_NAMES) or _embedded(name, model),
        stored_dtype=str(weights.dtype).removeprefix("torch."),
    )


def _number(config: object, names: tuple[str, ...]) -> int | None:
    """The first of these numbers that a configuration has."""
    found = (getattr(config, name, None) for name in names)
    return next((number for number in found if isinstance(number, int)), None)


def _embedded(name: str, model: nn.Module) -> int:
    """How many ids the first table of vectors knows."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            return module.num_embeddings
    raise UsageError(f"{name} embeds no token ids; give a language model")
