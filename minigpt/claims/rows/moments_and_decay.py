"""Two predictions derived from how Adam works: what its second moment and its decay do to neurons (C45, C46).

An isolated gradient moves a weight by (1 - β1) / √(1 - β2) times the rate at once if the moments are empty, and by 5.8,
10.5 or 32 times the rate in all for β2 of 0.95, 0.99 or 0.999. So rarely used neurons are kicked hardest where β2 is
high. And a decay of matrices that spares biases shrinks ‖w‖ of a dead neuron, but not the bias that keeps it shut.
"""

from __future__ import annotations

import itertools
import math

from minigpt.claims.claim import ArmFigures, Claim, Column, Condition, Effect, Series
from minigpt.claims.effects import beyond, figure, loss, measured
from minigpt.claims.gates import control, trained
from minigpt.claims.rows.death import dose
from minigpt.experiments.arms import Times

BETA2 = (0.95, 0.99, 0.999)
WARM_UPS: dict[str, int | None] = {"no warm-up": 0, "warm-up": None}
DECAYED = {"matrices decay": False, "all decays": True}
LEAST_MORE_DEAD = 0.02
PLANTED = 0.1  # of each layer's neurons
RATE = 0.5  # at 2.5, and without warm-up, models stay worse than a bigram
_HALF = Times(0.5)


def cell(beta2: float, warm_up: str = "no warm-up", decayed: str = "matrices decay") -> str:
    """The name of a cell of the factorial."""
    return f"β2 {beta2:g}, {warm_up}, {decayed}"


_GRID = {
    cell(beta2, warm_up, decayed): dose(RATE, steps=_HALF, beta2=beta2, warmup_steps=steps, decay_all=everything)
    for beta2 in BETA2
    for warm_up, steps in WARM_UPS.items()
    for decayed, everything in DECAYED.items()
}
BASE = cell(0.99)
GENTLE, HARSH = "rate x1/4", "rate x7.5"
UNDECAYED, UNBIASED, KILLED = "nothing decays", "no biases", "a tenth killed at birth"

_dead, _proven = measured("deaths", "dead_fraction"), measured("deaths", "certified_fraction")


def _mean_difference(column: Column, more: list[str], less: list[str]) -> Effect:
    """The mean difference of a figure over pairs of arms."""
    pairs = [beyond(column, a, b) for a, b in zip(more, less, strict=True)]
    return lambda evidence, seed: math.fsum(pair(evidence, seed) for pair in pairs) / len(pairs)


_COMBINED = list(itertools.product(WARM_UPS, DECAYED))
_HIGH = [cell(BETA2[-1], *rest) for rest in _COMBINED]
_LOW = [cell(BETA2[0], *rest) for rest in _COMBINED]
_SPARED, _ALL_DECAY = (
    [cell(beta2, warm_up, decayed) for beta2 in BETA2 for warm_up in WARM_UPS] for decayed in DECAYED
)
_TABLE = {"dead share of a million tokens": _dead, "proven dead share": _proven, "loss": loss}


def _by_beta2(title: str, value: Column) -> Series:
    lines = {
        f"{warm_up}, {decayed}": tuple((cell(beta2, warm_up, decayed), 1 - beta2) for beta2 in BETA2)
        for warm_up, decayed in _COMBINED
    }
    return Series(title, "1 − β2", "share", lines, value, log_x=True)


C45 = Claim(
    id="C45",
    where="I3, G5",
    quote="The Adam optimization algorithm can lead to faster convergence",
    statement="With Adam, more ReLU neurons die the slower its second moment forgets.",
    meaning=(
        "A constant rate of half the base's, β2 of 0.95, 0.99 and 0.999, with and without warm-up, and with decay "
        "of matrices or of all parameters. The article says nothing of it; it follows from how far Adam moves a weight "
        "after a rare gradient. True if from the smallest to the largest β2 the share of neurons with h = 0 on a "
        "million tokens rises by at least 2 percentage points, averaged over the other settings."
    ),
    tag="when provoked",
    forecast="more dead with each step of β2, and most without warm-up",
    expected="SUPPORTED",
    arms={**_GRID, GENTLE: dose(0.25, steps=_HALF), HARSH: dose(7.5, steps=_HALF)},
    measurements={**dict.fromkeys((*_GRID, GENTLE, HARSH), ("deaths",)), BASE: ("deaths", "ngrams")},
    conditions=(
        Condition(
            "dead with β2 0.999, more than with 0.95", "share", LEAST_MORE_DEAD, _mean_difference(_dead, _HIGH, _LOW)
        ),
    ),
    gates=(
        trained(BASE, "bigram"),
        control(
            f"dead at 7.5 times the rate, more than at {GENTLE.removeprefix('rate x')} of it",
            "share",
            LEAST_MORE_DEAD,
            beyond(_dead, HARSH, GENTLE),
        ),
    ),
    finding="{low} of the neurons died with β2 0.95, {middle} with 0.99, {high} with 0.999, all without warm-up.",
    numbers={
        name: ("share", figure(cell(beta2), "deaths", "dead_fraction"))
        for name, beta2 in zip(("low", "middle", "high"), BETA2, strict=True)
    },
    series=(_by_beta2("Dead neurons by β2", _dead),),
    tables=(ArmFigures("Neurons", _TABLE),),
)

C46 = Claim(
    id="C46",
    where="I1, A6",
    quote="ReLU can cause dead neurons",
    statement="Weight decay that spares biases buries dead neurons: more of them can never open, whatever is read.",
    meaning=(
        "A constant rate of half the base's. A neuron is proven dead if its weights let no normalised input open "
        "it. True if this share is at least 2 percentage points larger where matrices alone decay than where all "
        "parameters do, averaged over β2 and warm-up, and than where nothing does. Decay of all also shrinks the gains "
        "of LayerNorm, which works against the first difference. A model without biases is shown beside: there nothing "
        "can be proven dead."
    ),
    tag="when provoked",
    forecast="matrices alone bury most; without biases nothing is buried",
    expected="SUPPORTED",
    arms={
        **_GRID,
        UNDECAYED: dose(RATE, steps=_HALF, weight_decay=0.0),
        UNBIASED: dose(RATE, steps=_HALF, bias=False),
        KILLED: dose(RATE, steps=_HALF, init_killed=PLANTED),
    },
    measurements={
        **dict.fromkeys((*_GRID, UNDECAYED, UNBIASED, KILLED), ("deaths",)),
        BASE: ("deaths", "ngrams"),
    },
    conditions=(
        Condition(
            "proven dead, more than where all decays",
            "share",
            LEAST_MORE_DEAD,
            _mean_difference(_proven, _SPARED, _ALL_DECAY),
        ),
        Condition(
            "proven dead, more than where nothing decays", "share", LEAST_MORE_DEAD, beyond(_proven, BASE, UNDECAYED)
        ),
    ),
    gates=(
        trained(BASE, "bigram"),
        control(f"{KILLED}: proven dead, beyond none killed", "share", LEAST_MORE_DEAD, beyond(_proven, KILLED, BASE)),
    ),
    finding="{spared} of the neurons are proven dead where matrices alone decay, {undecayed} where nothing does.",
    numbers={
        "spared": ("share", figure(BASE, "deaths", "certified_fraction")),
        "undecayed": ("share", figure(UNDECAYED, "deaths", "certified_fraction")),
    },
    series=(_by_beta2("Proven dead by β2", _proven),),
    tables=(ArmFigures("Neurons", _TABLE),),
)

CLAIMS = (C45, C46)
