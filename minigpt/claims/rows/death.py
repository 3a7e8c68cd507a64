"""Claims about dead neurons: that ReLU causes them, and what they cost (C1 to C4)."""

from __future__ import annotations

import math

import numpy as np

from minigpt.claims.claim import DELTA, Arm, Claim, Condition, Series, Table, Times
from minigpt.claims.effects import activation, figure, loss, slope, worse
from minigpt.claims.evidence import Evidence

DOSES = {"rate x1/4": 0.25, "rate x1": 1.0, "rate x2.5": 2.5, "rate x7.5": 7.5}
LEAST_DEAD = 0.005
LEAST_EXPENDABLE = 0.02
WIDTHS = {"width 1": 1.0, "width 3/4": 0.75, "width 1/2": 0.5, "width 1/4": 0.25}


def dose(factor: float, **settings: object) -> Arm:
    """Training at a constant rate without warm-up: what is known to kill ReLU neurons."""
    return Arm({"lr": Times(factor), "min_lr": Times(factor), "schedule": "constant", "warmup_steps": 0, **settings})


def _dead(evidence: Evidence, arm: str, seed: int) -> float:
    return evidence.figure(arm, seed, "deaths", "dead_fraction")


def _dose_slope(evidence: Evidence, seed: int) -> float:
    return slope([(math.log10(factor), _dead(evidence, arm, seed)) for arm, factor in DOSES.items()])


C1 = Claim(
    id="C1",
    where="I1, W3, A3",
    quote="ReLU can cause dead neurons, where the output is always zero",
    statement="ReLU neurons of a GPT can die in training.",
    meaning=(
        "Share of neurons with h = 0 on each of a million tokens, training text included. True if the lower limit "
        "at the highest dose is above 0.5 % and the share rises with the dose: a constant rate without warm-up. "
        "The default recipe is shown beside and judged by nobody."
    ),
    tag="when provoked",
    forecast="0 to 20 % with the default recipe, 20 to 70 % provoked",
    expected="SUPPORTED",
    arms={"default recipe": Arm(), **{name: dose(factor) for name, factor in DOSES.items()}},
    measurements={name: ("deaths",) for name in ("default recipe", *DOSES)},
    conditions=(
        Condition("dead at the highest dose, beyond 0.5 %", "share", 0.0, figure("rate x7.5", "deaths", "dead_fraction", LEAST_DEAD)),
        Condition("rise with the dose, for each tenfold rate", "share", 0.0, _dose_slope),
    ),
    series=(
        Series("Dead neurons by rate", "multiple of the base rate", "dead, share", {"ReLU": tuple(DOSES.items())}, _dead, log_x=True),
        Series("Loss by rate", "multiple of the base rate", "loss, nats", {"ReLU": tuple(DOSES.items())}, loss, log_x=True),
    ),
)
