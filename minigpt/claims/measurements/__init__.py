"""What is measured on trained cells, by subject; importing this registers all of it."""

from minigpt.claims.measurement import MEASUREMENTS
from minigpt.claims.measurements import (
    accuracy,
    causality,
    clamping,
    deaths,
    domains,
    expendability,
    gaps,
    gradients,
    linearity,
    ngrams,
    noise,
    pronouns,
    rebuilding,
    speed,
    splits,
    swaps,
    trapping,
)

__all__ = [
    "REGISTERED",
    "accuracy",
    "causality",
    "clamping",
    "deaths",
    "domains",
    "expendability",
    "gaps",
    "gradients",
    "linearity",
    "ngrams",
    "noise",
    "pronouns",
    "rebuilding",
    "speed",
    "splits",
    "swaps",
    "trapping",
]

REGISTERED = MEASUREMENTS
