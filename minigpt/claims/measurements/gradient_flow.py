"""Gradients: how they change from the last layer to the first, and how much they differ from batch to batch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from minigpt.claims.measurements.batches_and_losses import Figures
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
DEPTH_WINDOWS, DEPTH_TOKENS = 4, 16
SMALL, LARGE = 4, 64  # windows
DRAWS = 24
# This number of windows fits into one backward pass without falling out of a processor's cache.
TOGETHER = 16


# ---------------------------------------------------------------------------------------------------------- over depth


def depth_gradients(run: OpenedRun, store: TokenStore) -> Figures:
    """log10 of the first over the last layer's gradient norm of w_in, by activation, state and depth; and its slope.

    Keys: `sigmoid/with/16` in decades, `sigmoid/with` in decades a layer, by least squares over the depths at which
    neither norm is 0; `sigmoid/with/16/first` is log10 of the first norm itself, `sigmoid/with/first` its slope. Of the
    run only configuration, seed and text are used.

    NOTE: the ratio is blind where forward values shrink from layer to layer as gradients do, as without residual paths
    and LayerNorm: there ReLU's ratio is flat while its first gradient falls by decades a layer.

    NOTE: in float64, since without residual paths the gradient of 24 layers is smaller than any float32.
    """
    ids, context = store.tokens("train"), min(DEPTH_TOKENS, run.config.block_size)
    starts = window_starts(run.config.seed, 0, DEPTH_WINDOWS, len(ids), context, purpose="claims/depth")
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
    ratios, firsts = ({depth: figures[f"{name}/{depth}{kind}"] for depth in DEPTHS} for kind in ("", "/first"))
    return {**figures, name: _slope(ratios), f"{name}/first": _slope(firsts)}


def _slope(by_depth: dict[int, float | None]) -> float | None:
    """Decades a layer, by least squares over the depths that have a value."""
    known = {depth: value for depth, value in by_depth.items() if value is not None}
    return float(np.polyfit(list(known), list(known.values()), deg=1)[0]) if len(known) > 1 else None


def _first_and_last(config: GPTConfig, seed: int, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Gradient norms of the first and the last layer's w_in of a fresh model."""
    model = GPT(config, seed).double()
    F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()  # type: ignore[no-untyped-call]
    return _gradient_norm(model.blocks[0]), _gradient_norm(model.blocks[-1])


def _gradient_norm(block: Block) -> float:
    assert block.mlp.w_in.weight.grad is not None
    return float(block.mlp.w_in.weight.grad.norm())


# -------------------------------------------------------------------------------------------------------- over batches


def gradient_noise(run: OpenedRun, store: TokenStore) -> Figures:
    """log10 of the gradient's variance between batches of 4 and of 64 windows, summed over parameters; and its fall.

    `signal` is log10 of the squared length of the mean gradient of the large batches, noise taken off; None if nothing
    is left. At the weights that training ended with, in float32.
    """
    ids = store.tokens("train")[: run.config.train_tokens or None]
    small, _ = noise_and_signal(_gradients(run, ids, SMALL))
    large, signal = noise_and_signal(_gradients(run, ids, LARGE))
    run.model.zero_grad(set_to_none=True)
    return {
        str(SMALL): math.log10(small),
        str(LARGE): math.log10(large),
        "fall": math.log10(small / large),
        "signal": math.log10(signal) if signal > 0 else None,
    }


def noise_and_signal(gradients: Tensor) -> tuple[float, float]:
    """Unbiased estimates from gradients (draws, parameters): the variance of one, and the squared length of their mean.

    The mean of n draws still has an n-th of the variance, which is taken off.
    """
    variance = float(gradients.var(dim=0).sum())
    return variance, float(gradients.mean(dim=0).square().sum()) - variance / len(gradients)


def _gradients(run: OpenedRun, ids: np.ndarray, windows: int) -> Tensor:
    """Gradients of independent batches of `windows` windows (draws, parameters)."""
    block, purpose = run.config.block_size, f"claims/noise/{windows}"
    drawn = [window_starts(run.config.seed, draw, windows, len(ids), block, purpose) for draw in range(DRAWS)]
    return torch.stack([_gradient(run.model, ids, starts) for starts in drawn])


def _gradient(model: GPT, ids: np.ndarray, starts: Tensor) -> Tensor:
    """Gradient of the mean loss over windows, all parameters in a row."""
    model.zero_grad(set_to_none=True)
    for part in torch.split(starts, TOGETHER):
        inputs, targets = gather(ids, part, model.config.block_size)
        logits = model(inputs.to(model.device)).flatten(0, 1)  # (B·T,V)
        loss = F.cross_entropy(logits, targets.to(model.device).flatten()) * len(part) / len(starts)
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return torch.cat([gradient.flatten().cpu() for gradient in gradients])
