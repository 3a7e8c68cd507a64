"""Sampling: continue a prompt token by token, with a cache of keys and values.

Past the context the window is cut to its last half and read again; positions start again there. The rule is the same
with and without the cache, so both give the same text.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from minigpt.base import randomness
from minigpt.base.errors import UsageError
from minigpt.model import GPT
from minigpt.sampling.decoding import Decoder
from minigpt.sampling.token_choice import TokenChoice

# All samples are one batch, so their number is bounded by memory.
MOST_SAMPLES = 10_000
# Random numbers are drawn ahead: one by one they would cost as much as a layer of a small model.
UNIFORMS_AHEAD = 64


def check_sampling(max_new_tokens: int, num_samples: int) -> None:
    """Raise `UsageError` for a number outside its range."""
    if max_new_tokens < 0:
        raise UsageError(f"max-new-tokens must be 0 or a positive whole number; got {max_new_tokens}")
    if not 1 <= num_samples <= MOST_SAMPLES:
        raise UsageError(f"num-samples must be from 1 to {MOST_SAMPLES:,}; got {num_samples}")


def generate(
    model: GPT,
    prompt: Tensor,
    choice: TokenChoice,
    *,
    max_new_tokens: int,
    num_samples: int = 1,
    seed: int = 1337,
    cached: bool = True,
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
    decoder: Decoder | None = None,
) -> Iterator[Tensor]:
    """Yield the next token of every sample, `max_new_tokens` times.

    Sample i reads the same random numbers whatever `num_samples` is, so it is the same text, unless a draw falls on the
    border of two tokens: products of several rows round differently. `dtype` (of weights and cache) and `compiled`
    change the logits by rounding only; both need the cache. A `decoder` that was built for the same model, number
    of samples and choice is used instead of a new one, with the dtype and form that it has.

    Shapes: prompt (T,) int64, at least one token, of which the last `block_size` are read; yields (num_samples,).

    Raises:
        UsageError: a number is outside its range, the prompt is empty, or the decoder was built for something else.
    """
    check_sampling(max_new_tokens, num_samples)
    if prompt.numel() == 0:
        raise UsageError("the prompt has no token; give some text or the tokenizer's start token")
    if decoder is not None and not decoder.serves(model, num_samples, choice):
        raise UsageError("the decoder was built for another model, number of samples or choice; build one for these")
    context = model.config.block_size
    window = prompt[-context:].to(model.device).expand(num_samples, -1)  # (B,T)
    with model.evaluating():
        if decoder is None and cached and max_new_tokens:
            decoder = Decoder(model, num_samples, choice, dtype, compiled)
        added: list[Tensor] = []  # tokens after the window, each (B,)
        for uniforms in itertools.islice(_uniforms(seed, num_samples, model.device), max_new_tokens):
            if window.size(1) + len(added) > context:
                window = torch.cat((window, torch.stack(added, dim=1)), dim=1)[:, -max(1, context // 2) :]
                added = []
            if decoder is None:
                chosen = choice(_last_logits(model, window, added), uniforms)
            else:
                chosen = decoder.advance(added[-1], uniforms) if added else decoder.read(window, uniforms)
            yield chosen
            added.append(chosen)


@torch.no_grad()
def _last_logits(model: GPT, window: Tensor, added: list[Tensor]) -> Tensor:
    """Logits (B,V) of the token after window (B,T) and those added, without any cache."""
    logits: Tensor = model(torch.cat((window, *(token[:, None] for token in added)), dim=1))
    return logits[:, -1].float()


def _uniforms(seed: int, num_samples: int, device: torch.device) -> Iterator[Tensor]:
    """Yield uniform numbers (num_samples,1), those of each sample from its own generator."""
    randoms = [randomness.generator(seed, "sample", sample) for sample in range(num_samples)]
    while True:
        ahead = [torch.rand(UNIFORMS_AHEAD, generator=random, dtype=torch.float64) for random in randoms]
        yield from torch.stack(ahead, dim=1)[..., None].to(device).unbind()  # UNIFORMS_AHEAD of (num_samples,1)
