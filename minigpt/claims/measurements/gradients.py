"""How the gradient changes from the last layer to the first as a GPT gets deeper, before any training."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from minigpt.claims.measurement import Figures, measurement
from minigpt.model import GPT, Block, GPTConfig
from minigpt.text.batches import gather, window_starts
from minigpt.text.store import TokenStore
from minigpt.training.inference import OpenedRun

ACTIVATIONS = ("relu", "gelu", "silu", "sigmoid", "tanh", "leaky_relu", "elu", "swiglu")
DEPTHS = (2, 4, 8, 16, 24)
# With residual paths and LayerNorm, as a GPT is built, and without both.
STATES: dict[str, dict[str, Any]] = {
    "with": {"residual": True, "norm": "layernorm"},
    "without": {"residual": False, "norm": "none"},
}
WINDOWS, TOKENS = 4, 16


@measurement("depth_gradients")
def depth_gradients(run: OpenedRun, store: TokenStore) -> Figures:
    """log10 of the first over the last layer's gradient norm of w_in, by activation, state and depth; and its slope.

    Keys: `sigmoid/with/16` in decades, `sigmoid/with` in decades a layer, by least squares over the depths at which
    neither norm is 0; `sigmoid/with/16/first` is log10 of the first norm itself. Of the run only configuration, seed
    and text are used.

    NOTE: in float64, since without residual paths the gradient of 24 layers is smaller than any float32.
    """
    ids, context = store.tokens("train"), min(TOKENS, run.config.block_size)
    starts = window_starts(run.config.seed, 0, WINDOWS, len(ids), context, purpose="claims/depth")
    windows = gather(ids, starts, context)
    figures: Figures = {}
    for spec in ACTIVATIONS:
        for state, settings in STATES.items():
            shape = replace(run.model.config, activation=spec, d_ff=0, init_bias=0.0, dropout=0.0, **settings)
            norms = [_first_and_last(replace(shape, n_layer=depth), run.config.seed, *windows) for depth in DEPTHS]
            figures |= _figures(f"{spec}/{state}", norms)
    return figures


def _figures(name: str, norms: list[tuple[float, float]]) -> Figures:
    """What the first and last norms at all depths give; None where one of them is 0."""
    figures: Figures = {}
    for depth, (first, last) in zip(DEPTHS, norms, strict=True):
        figures[f"{name}/{depth}"] = math.log10(first / last) if first and last else None
        figures[f"{name}/{depth}/first"] = math.log10(first) if first else None
    known = {depth: ratio for depth in DEPTHS if (ratio := figures[f"{name}/{depth}"]) is not None}
    slope = float(np.polyfit(list(known), list(known.values()), deg=1)[0]) if len(known) > 1 else None
    return {**figures, name: slope}


def _first_and_last(config: GPTConfig, seed: int, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Gradient norms of the first and the last layer's w_in of a fresh model."""
    model = GPT(config, seed).double()
    F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()  # type: ignore[no-untyped-call]
    return _gradient_norm(model.blocks[0]), _gradient_norm(model.blocks[-1])


def _gradient_norm(block: Block) -> float:
    assert block.mlp.w_in.weight.grad is not None
    return float(block.mlp.w_in.weight.grad.norm())
