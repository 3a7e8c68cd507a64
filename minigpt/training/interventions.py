"""What may be done to a step besides learning: noise in its tokens, a price on hidden values, BatchNorm's rescue.

Each is off by default and then costs nothing.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from minigpt.model import GPT
from minigpt.neurons.hooks import hooked
from minigpt.parts.variants import BatchNorm
from minigpt.text.batches import token_noise
from minigpt.training.config import RunConfig
from minigpt.training.ranks import Ranks


def replaced_tokens(config: RunConfig, vocab_size: int, step: int, ranks: Ranks) -> Iterable[Tensor | None]:
    """What replaces the tokens of each micro-batch, drawn for the whole step at once; None: they stay."""
    if not config.token_noise:
        return itertools.repeat(None)
    windows = config.batch_size * config.grad_accumulation
    noise = token_noise(config.seed, step, windows, config.block_size, vocab_size, config.token_noise)
    return ranks.share(noise, config.batch_size)


@contextlib.contextmanager
def hidden_magnitudes(model: GPT, wanted: float) -> Iterator[list[Tensor]]:
    """Collect each layer's share of the mean |h| over all neurons and tokens of a forward pass; nothing if 0."""
    magnitudes: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], hidden: Tensor) -> None:
        magnitudes.append(hidden.float().abs().mean() / len(model.blocks))

    with hooked((block.mlp.act, keep) for block in model.blocks if wanted):
        yield magnitudes


@contextlib.contextmanager
def statistics_restored_on_failure(model: GPT) -> Iterator[None]:
    """Give BatchNorm the running statistics back that it had, if a step is broken off between its batches."""
    if model.config.norm != "batchnorm":
        yield
        return
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    try:
        yield
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            norm.load_state_dict(buffers, strict=False)
        raise
