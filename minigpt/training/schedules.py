"""Learning-rate schedules: pure functions of the step, so that a resumed run needs no schedule state."""

from __future__ import annotations

import math
from collections.abc import Callable

from minigpt.training.config import RunConfig

WSD_DECAY_SHARE = 0.2


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _linear(progress: float) -> float:
    return 1 - progress


def _constant(progress: float) -> float:
    return 1.0


def _warmup_stable_decay(progress: float) -> float:
    """Flat, then linear to the end over the last fifth (Hu et al. 2024, arXiv:2404.06395)."""
    return min(1.0, (1 - progress) / WSD_DECAY_SHARE)


# From progress after warm-up (0 to 1) to the height between the final rate (0) and the peak (1).
_SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
    "wsd": _warmup_stable_decay,
}


def learning_rate(config: RunConfig, step: int) -> float:
    """Rate of the update that leads from `step` to `step + 1`; `config` must be resolved."""
    assert config.warmup_steps is not None
    assert config.min_lr is not None
    if step < config.warmup_steps:
        return config.lr * (step + 1) / (config.warmup_steps + 1)
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.min_lr + (config.lr - config.min_lr) * _SHAPES[config.schedule](min(1.0, progress))
