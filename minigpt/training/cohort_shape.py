"""Which runs may be trained as one: in what they may differ, and what excludes one from every cohort.

Plain data without torch, so that an ablation can plan its packs before it needs any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from minigpt.base.errors import UsageError
from minigpt.training.config import RunConfig

# In what the members of a cohort may differ; all else is one shape, one text and one rhythm.
MAY_DIFFER = frozenset(
    {"seed", "lr", "min_lr", "schedule", "warmup_steps", "weight_decay", "beta1", "beta2", "grad_clip"}
    | {"init", "init_bias", "init_from", "init_moments", "init_surgery", "init_killed", "preset"}
)


def obstacle(config: RunConfig) -> str:
    """Why a configuration cannot be trained in a cohort, in words; an empty string if it can."""
    if config.dropout:
        return f"dropout {config.dropout:g} would draw from one generator for all"
    if config.norm == "batchnorm":
        return "batchnorm changes its running statistics in place"
    if config.cost != "cross-entropy":
        return f"a cohort minimises cross-entropy, not {config.cost}"
    if config.l1:
        return "the L1 term reads hidden values, which a cohort does not show"
    return "tensorboard shows single runs" if config.tensorboard else ""


def shape_of(config: RunConfig) -> tuple[Any, ...]:
    """What is equal for all members of a cohort."""
    return tuple(value for name, value in asdict(config).items() if name not in MAY_DIFFER)


def check_alike(configs: Sequence[RunConfig]) -> None:
    """Raise `UsageError` if these cannot be trained as one; it names what excludes one, or in what they differ."""
    first = asdict(configs[0])
    for config in configs:
        if obstacle(config):
            raise UsageError(f"cannot be trained in a cohort; {obstacle(config)}; train it alone")
        other = asdict(config)
        differing = [name for name in first if name not in MAY_DIFFER and first[name] != other[name]]
        if differing:
            got = ", ".join(f"{name.replace('_', '-')} {first[name]} and {other[name]}" for name in differing)
            raise UsageError(f"a cohort needs one shape; got {got}; train them apart")
