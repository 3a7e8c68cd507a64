"""How the gradient changes from the last layer to the first as a GPT gets deeper, before any training."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
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
WINDOWS = 4


@measurement("depth_gradients")
def depth_gradients(run: OpenedRun, store: TokenStore) -> Figures:
    """log10 of the first over the last layer's gradient norm of w_in, by activation, state and depth; and its slope.

    Keys: `sigmoid/with/16` in decades, `sigmoid/with` in decades a layer, by least squares over the depths. Of the run
    only configuration, seed and text are used.

    NOTE: in float64, since without residual paths the gradient of 24 layers is smaller than any float32.
    """
    ids = store.tokens("train")
    starts = window_starts(run.config.seed, 0, WINDOWS, len(ids), run.config.block_size, purpose="claims/depth")
    inputs, targets = gather(ids, starts, run.config.block_size)
    figures: Figures = {}
    for spec in ACTIVATIONS:
        for state, settings in STATES.items():
            shape = replace(run.model.config, activation=spec, d_ff=0, init_bias=0.0, **settings)
            ratios = [_ratio(replace(shape, n_layer=depth), run.config.seed, inputs, targets) for depth in DEPTHS]
            figures |= {f"{spec}/{state}/{depth}": ratio for depth, ratio in zip(DEPTHS, ratios, strict=True)}
            figures[f"{spec}/{state}"] = _slope(ratios)
    return figures


def _ratio(config: GPTConfig, seed: int, inputs: Tensor, targets: Tensor) -> float | None:
    """First over last layer's gradient norm of a fresh model, in decades; None if either is 0."""
    model = GPT(config, seed).double()
    F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()  # type: ignore[no-untyped-call]
    first, last = (_gradient_norm(model.blocks[layer]) for layer in (0, -1))
    return math.log10(first / last) if first and last else None


def _gradient_norm(block: torch.nn.Module) -> float:
    assert isinstance(block, Block)
    assert block.mlp.w_in.weight.grad is not None
    return float(block.mlp.w_in.weight.grad.norm())


def _slope(ratios: list[float | None]) -> float | None:
    """Change for each further layer, by least squares; None if a ratio is unknown."""
    known = [ratio for ratio in ratios if ratio is not None]
    return float(np.polyfit(DEPTHS, known, deg=1)[0]) if len(known) == len(DEPTHS) else None
