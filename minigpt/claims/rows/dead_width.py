"""What dead neurons cost in width, where it binds (C44) and where it is as usual (C47); killed at birth or half way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from minigpt.claims.claim import DELTA, ArmFigures, Claim, Column, Condition, Effect, Gate, Series
from minigpt.claims.effects import health, loss, loss_of, worse
from minigpt.claims.evidence import Evidence
from minigpt.claims.gates import control, loses, trained
from minigpt.experiments.arms import Arm, Times

SHARES = (0.25, 0.5, 0.75)
BIRTH, MIDDLE = "at birth", "half way"
# Neurons of a layer in units of the residual stream's width C. A usual GPT has 4; with 1, width binds.
BINDING, USUAL = 1, 4
HALF = 0.5
LEAST_SHARE_OF_NARROWING = 0.5
NEAR_ENOUGH = 0.15  # of the width, for the narrowing that is known

# Every training has two parts, so that one in which neurons are killed half way differs from the others by that alone.
_FIRST = {"steps": Times(0.5), "schedule": "constant"}
_SECOND = {"steps": Times(0.5), "warmup_steps": 0, "init_moments": True}


def of_width(width: float) -> str:
    """The name of a model that is narrow from birth."""
    return f"width {width:g}"


def killed(whole: int, share: float, when: str) -> str:
    """The name of a model of which a share of each layer's neurons is killed."""
    return f"width {whole}, {100 * share:g} % killed {when}"


def begun(arm: str) -> str:
    """The name of the first half of an arm's training."""
    return f"{arm}: first half"


def rungs(whole: int) -> tuple[float, ...]:
    """The widths of the healthy models that one of this width is compared with, rising, itself the last."""
    return tuple(whole * (1 - share) for share in (*reversed(SHARES), 0.0))


def _arms(whole: int, killed_when: Sequence[str]) -> dict[str, Arm]:
    arms: dict[str, Arm] = {}
    for width in rungs(whole):
        size = {"d_ff": Times(width / 4)}
        arms[begun(of_width(width))] = Arm({**size, **_FIRST})
        arms[of_width(width)] = Arm({**size, **_SECOND}, start=begun(of_width(width)))
    for share, when in itertools.product(SHARES, killed_when):
        size, arm, dead = {"d_ff": Times(whole / 4)}, killed(whole, share, when), {"init_killed": share}
        if when == BIRTH:
            arms[begun(arm)] = Arm({**size, **_FIRST, **dead})
            arms[arm] = Arm({**size, **_SECOND}, start=begun(arm))
        else:
            arms[arm] = Arm({**size, **_SECOND, **dead}, start=begun(of_width(whole)))
    return arms


# ------------------------------------------------------------------------------------------------ what death amounts to


def falling(losses: Sequence[float]) -> list[float]:
    """The nearest sequence that never rises, by least squares: neighbours that do are averaged.

    Source: pool adjacent violators (Ayer et al. 1955).
    """
    pools: list[tuple[float, int]] = []
    for found in losses:
        pools.append((found, 1))
        while len(pools) > 1 and pools[-1][0] > pools[-2][0]:
            (after, few), (before, many) = pools.pop(), pools.pop()
            pools.append(((after * few + before * many) / (few + many), few + many))
    return [mean for mean, number in pools for _ in range(number)]


def width_with_loss(ladder: Sequence[tuple[float, float]], wanted: float) -> float:
    """The width at which healthy models have this loss, from (width, loss) by rising width.

    Between widths by a straight line over their logarithm; beyond the ladder, along its first or last step. NaN where
    the ladder does not fall at all or a loss is no number.
    """
    widths = [math.log(width) for width, _ in ladder]
    losses = falling([found for _, found in ladder])
    steps = [step for step in range(len(losses) - 1) if losses[step] > losses[step + 1]]
    if not steps or not all(map(math.isfinite, (*losses, wanted))):
        return math.nan
    step = next((step for step in steps if wanted >= losses[step + 1]), steps[-1])
    passed = (losses[step] - wanted) / (losses[step] - losses[step + 1])
    return math.exp(widths[step] + passed * (widths[step + 1] - widths[step]))


def narrowing(evidence: Evidence, arm: str, whole: int, seed: int) -> float:
    """By which share a healthy model of this width must be narrower to have an arm's loss."""
    ladder = [(width, evidence.loss(of_width(width), seed)) for width in rungs(whole)]
    return 1 - width_with_loss(ladder, evidence.loss(arm, seed)) / whole


def _narrowing_by(whole: int, share: float, when: str) -> Effect:
    return lambda evidence, seed: narrowing(evidence, killed(whole, share, when), whole, seed)


def _per_dead(evidence: Evidence, seed: int) -> float:
    """Narrowing that the neurons killed half way amount to, for each of them: 1 if they cost what missing ones do."""
    return narrowing(evidence, killed(BINDING, HALF, MIDDLE), BINDING, seed) / HALF


def _by_share(whole: int, when: str) -> Column:
    """By the share that a table's row names."""
    return lambda evidence, share, seed: narrowing(evidence, killed(whole, float(share), when), whole, seed)


def _narrowing_of(evidence: Evidence, arm: str, seed: int) -> float:
    """By the arm that a point names."""
    whole = int(arm.split(",")[0].removeprefix("width "))
    return narrowing(evidence, arm, whole, seed)


# ------------------------------------------------------------------------------------------------------ what is shown


def _series(whole: int, killed_when: Sequence[str]) -> tuple[Series, ...]:
    healthy = {"healthy": tuple((of_width(width), width) for width in rungs(whole))}
    across = "neurons of a layer, in widths of the stream"
    return (
        Series("Healthy models by width", across, "loss, nats", healthy, loss, log_x=True),
        *(
            Series(
                f"Neurons killed {when}: the narrowing that they amount to",
                "share killed",
                "narrowing, share",
                {f"width {whole}": tuple((killed(whole, share, when), share) for share in SHARES)},
                _narrowing_of,
            )
            for when in killed_when
        ),
    )


def _tables(whole: int, killed_when: Sequence[str], arms: Mapping[str, Arm]) -> tuple[ArmFigures, ...]:
    return (
        ArmFigures(
            "Narrowing, as a share of the width, that a share of dead neurons amounts to",
            {f"of width {whole}, {when}": _by_share(whole, when) for when in killed_when},
            tuple(map(str, SHARES)),
        ),
        ArmFigures(
            "Loss and neurons",
            {"loss": loss, "dead share": health("dead_fraction")},
            tuple(arm for arm in arms if not arm.endswith("first half")),
        ),
    )


def _as_many_died(arm: str) -> Gate:
    return Gate(
        "manipulation check",
        f"{arm}: dead at the end, beyond the {100 * HALF:g} % killed",
        "share",
        -1e-9,
        lambda evidence, seed: evidence.health(arm, seed, "dead_fraction") - HALF,
    )


# ---------------------------------------------------------------------------------------------------------- the rows

_WHOLE, _HALVED, _KILLED = of_width(BINDING), of_width(BINDING * HALF), killed(BINDING, HALF, MIDDLE)
_KNOWN = _narrowing_by(BINDING, HALF, BIRTH)
_BINDING_ARMS = _arms(BINDING, (BIRTH, MIDDLE))

C44 = Claim(
    id="C44",
    where="I1, I3",
    quote="leading to a loss of information and reduced accuracy",
    statement="Where width binds, neurons that die in mid-training cost a GPT at least half of what missing ones cost.",
    meaning=(
        "Layers as wide as the residual stream; a quarter, half or three quarters of each layer's neurons are made "
        "dead for ever at birth or half way through training, and models as narrow from birth stand beside. True if "
        "half of them killed half way cost at least 0.01 nats and amount to a narrowing by at least a quarter. Those "
        "killed at birth must be found to amount to one by half."
    ),
    tag="when provoked",
    forecast="killed half way costs as much as missing from birth, or somewhat more",
    expected="SUPPORTED",
    arms=_BINDING_ARMS,
    measurements={_WHOLE: ("ngrams",)},
    conditions=(
        Condition("loss with half killed half way, less that with none", "nats", DELTA, worse(_KILLED, _WHOLE)),
        Condition("narrowing for each share killed half way", "ratio", LEAST_SHARE_OF_NARROWING, _per_dead),
    ),
    gates=(
        trained(_WHOLE),
        loses(_HALVED, _WHOLE, 2 * DELTA),
        _as_many_died(_KILLED),
        control(
            "half killed at birth, which is a narrowing by half: found, beyond 35 %",
            "share",
            0.0,
            lambda evidence, seed: _KNOWN(evidence, seed) - (HALF - NEAR_ENOUGH),
        ),
        control(
            "half killed at birth, which is a narrowing by half: found, below 65 % by",
            "share",
            0.0,
            lambda evidence, seed: HALF + NEAR_ENOUGH - _KNOWN(evidence, seed),
        ),
    ),
    finding=(
        "MLP layers as wide as the residual stream ended at {whole} nats, half as wide at {halved}; with half of their "
        "neurons killed half way at {killed}, the loss of layers built {narrowing} narrower."
    ),
    numbers={
        "whole": loss_of(_WHOLE),
        "halved": loss_of(_HALVED),
        "killed": loss_of(_KILLED),
        "narrowing": ("share", _narrowing_by(BINDING, HALF, MIDDLE)),
    },
    series=_series(BINDING, (BIRTH, MIDDLE)),
    tables=_tables(BINDING, (BIRTH, MIDDLE), _BINDING_ARMS),
)

_FULL, _QUARTERED, _FULL_KILLED = of_width(USUAL), of_width(USUAL / 4), killed(USUAL, HALF, MIDDLE)
_USUAL_ARMS = _arms(USUAL, (MIDDLE,))

C47 = Claim(
    id="C47",
    where="I1, I3",
    quote="leading to a loss of information and reduced accuracy",
    statement="In layers as wide as usual, half of the neurons dying in mid-training costs a GPT accuracy.",
    meaning=(
        "As C44, in layers of four times the residual stream's width. True if half of each layer's neurons killed half "
        "way through training cost at least 0.01 nats. A quarter of that width from birth must cost as much."
    ),
    tag="when provoked",
    forecast="nothing that matters",
    expected="REFUTED",
    arms=_USUAL_ARMS,
    measurements={_FULL: ("ngrams",)},
    conditions=(
        Condition("loss with half killed half way, less that with none", "nats", DELTA, worse(_FULL_KILLED, _FULL)),
    ),
    gates=(trained(_FULL), loses(_QUARTERED, _FULL), _as_many_died(_FULL_KILLED)),
    finding=(
        "MLP layers of four times the stream's width ended at {full} nats, a quarter as wide at {quartered}; with half "
        "of their neurons killed half way at {killed}."
    ),
    numbers={"full": loss_of(_FULL), "quartered": loss_of(_QUARTERED), "killed": loss_of(_FULL_KILLED)},
    series=_series(USUAL, (MIDDLE,)),
    tables=_tables(USUAL, (MIDDLE,), _USUAL_ARMS),
)

CLAIMS = (C44, C47)
