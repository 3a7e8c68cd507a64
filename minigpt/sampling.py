"""Sampling: continue a prompt token by token, with a cache of keys and values.

Past the context the window is cut to its last half and read anew; positions start again there. The rule is the same
with and without the cache, so both give the same text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from minigpt import randomness
from minigpt.decoding import Decoder
from minigpt.errors import UsageError
from minigpt.model import GPT

# All samples are one batch, so their number is bounded by memory.
MOST_SAMPLES = 10_000
# Below this a temperature is zero in float32, and the likeliest token has all of the probability long before.
LEAST_TEMPERATURE = 1e-6
# Random numbers are drawn ahead: one by one they would cost as much as a layer of a small model.
UNIFORMS_AHEAD = 64


def check_sampling(temperature: float, top_k: int, top_p: float, max_new_tokens: int, num_samples: int) -> None:
    """Raise `UsageError` for a setting outside its range."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UsageError(f"temperature must be 0 (greedy) or a positive number; got {temperature}")
    if top_k < 0:
        raise UsageError(f"top-k must be 0 (off) or a positive whole number; got {top_k}")
    if not 0 < top_p <= 1:
        raise UsageError(f"top-p must be above 0 and at most 1 (off); got {top_p}")
    if max_new_tokens < 0:
        raise UsageError(f"max-new-tokens must be 0 or a positive whole number; got {max_new_tokens}")
    if not 1 <= num_samples <= MOST_SAMPLES:
        raise UsageError(f"num-samples must be from 1 to {MOST_SAMPLES:,}; got {num_samples}")


def generate(
    model: GPT,
    prompt: Tensor,
    *,
    max_new_tokens: int,
    num_samples: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 1337,
    cached: bool = True,
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
) -> Iterator[Tensor]:
    """Yield the next token of every sample, `max_new_tokens` times.

    Sample i reads the same random numbers whatever `num_samples` is, so it is the same text, unless a draw falls on the
    border of two tokens: products of several rows round differently. `dtype` (of weights and cache) and `compiled`
    change the logits by rounding only; both need the cache.

    Shapes: prompt (T,) int64, at least one token, of which the last `block_size` are read; yields (num_samples,).

    Raises:
        UsageError: a setting is outside its range, or the prompt is empty.
    """
    check_sampling(temperature, top_k, top_p, max_new_tokens, num_samples)
    if prompt.numel() == 0:
        raise UsageError("the prompt has no token; give some text or the tokenizer's start token")
    context = model.config.block_size
    uniforms = _uniforms(seed, num_samples, model.device)
    window = prompt[-context:].to(model.device).expand(num_samples, -1)  # (B,T)
    was_training = model.training
    model.eval()
    try:
        decoder = Decoder(model, num_samples, dtype, compiled) if cached and max_new_tokens else None
        added: list[Tensor] = []  # tokens after the window, each (B,)
        for _ in range(max_new_tokens):
            if window.size(1) + len(added) > context:
                window = torch.cat((window, torch.stack(added, dim=1)), dim=1)[:, -max(1, context // 2) :]
                added = []
            logits = _next_logits(model, decoder, window, added)  # (B,V)
            chosen = _choose(logits, temperature, top_k, top_p, uniforms)  # (B,)
            yield chosen
            added.append(chosen)
    finally:
        model.train(was_training)


def _next_logits(model: GPT, decoder: Decoder | None, window: Tensor, added: list[Tensor]) -> Tensor:
    if decoder is not None:
        return decoder.advance(added[-1]) if added else decoder.read(window)
    with torch.no_grad():
        logits: Tensor = model(torch.cat((window, *(token[:, None] for token in added)), dim=1))[:, -1].float()
    return logits


def _uniforms(seed: int, num_samples: int, device: torch.device) -> Iterator[Tensor]:
    """Yield uniform numbers (num_samples,1), those of each sample from a generator of its own."""
    randoms = [randomness.generator(seed, "sample", sample) for sample in range(num_samples)]
    while True:
        ahead = [torch.rand(UNIFORMS_AHEAD, generator=random, dtype=torch.float64) for random in randoms]
        yield from torch.stack(ahead, dim=1)[..., None].to(device).unbind()  # UNIFORMS_AHEAD of (num_samples,1)


def _choose(logits: Tensor, temperature: float, top_k: int, top_p: float, uniforms: Iterator[Tensor]) -> Tensor:
    """Pick one token a row from logits (B,V) by inverting the cumulative distribution at one uniform number a row."""
    if temperature < LEAST_TEMPERATURE:
        return logits.argmax(dim=-1)
    probabilities, tokens = torch.softmax(logits / temperature, dim=-1).sort(dim=-1, descending=True, stable=True)
    if top_k:
        probabilities[:, top_k:] = 0
    if top_p < 1:
        # The smallest set whose probability reaches top_p: a token stays if those before it fall short of it.
        # Source: Holtzman et al. 2020, arXiv:1904.09751, eq. 2.
        cumulative = probabilities.cumsum(dim=-1)
        probabilities[cumulative - probabilities >= top_p * cumulative[:, -1:]] = 0
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    threshold = next(uniforms) * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, threshold, right=True)  # (B,1)
    return tokens.gather(1, place).squeeze(1)
