"""C44 and C47: arms as they are meant, and the equivalent width recovered on made-up families of losses."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from claim_examples import arm_model, configuration, differing, evidence

from minigpt.claims import entries
from minigpt.claims.claim import Claim, Plan
from minigpt.claims.evidence import Evidence
from minigpt.claims.rows import dead_width
from minigpt.claims.rows.dead_width import (
    BINDING,
    BIRTH,
    C44,
    C47,
    MIDDLE,
    SHARES,
    USUAL,
    begun,
    killed,
    narrowing,
    of_width,
    rungs,
)
from minigpt.neurons.probe import plain_blocks

SEEDS = tuple(range(1337, 1345))
WHOLES = (BINDING, USUAL)
WIDTHS = sorted({width for whole in WHOLES for width in rungs(whole)})


def loss_of_width(width: float) -> float:
    """A family whose loss falls with the logarithm of the width, by 0.1 nats for each doubling."""
    return 1.6 - 0.1 * math.log2(width)


def family(cost: Callable[[float], float], noise: float = 0.0) -> Evidence:
    """Losses in which a share killed half way costs what a narrowing by `cost(share)` does; at birth, by the share."""
    random = np.random.default_rng(5)
    losses: dict[tuple[str, int], float] = {}
    for seed in SEEDS:
        losses |= {(of_width(width), seed): loss_of_width(width) for width in WIDTHS}
        for whole in WHOLES:
            for share in SHARES:
                losses[killed(whole, share, BIRTH), seed] = loss_of_width(whole * (1 - share))
                losses[killed(whole, share, MIDDLE), seed] = loss_of_width(whole * (1 - cost(share)))
    losses = {key: loss + noise * random.standard_normal() for key, loss in losses.items()}
    figures = {(of_width(whole), seed, "ngrams"): {"trigram": 1.93} for whole in WHOLES for seed in SEEDS}
    found = evidence(losses, figures=figures)
    for (arm, _), result in found.results.items():
        died = 0.51 if "killed" in arm else 0.0
        result["val"]["layers"] = [{"neurons": 96, "dead_fraction": died}]
    return found


def verdict(found: Evidence, claim: Claim = C44) -> str:
    entry = entries.judged(claim, found, SEEDS, Plan((len(SEEDS),)), family_size=1)
    return str(entries.with_verdicts([entry], {"exploratory": 1})[0]["verdict"])


@pytest.mark.parametrize("whole", WHOLES)
@pytest.mark.parametrize("share", [*SHARES, 0.1, 0.37])
def test_a_known_narrowing_is_recovered(whole: int, share: float) -> None:
    """On the ladder's rungs and between them."""
    found = family(lambda _: share)
    assert narrowing(found, killed(whole, 0.5, MIDDLE), whole, SEEDS[0]) == pytest.approx(share, abs=1e-9)


def test_noise_in_the_ladder_moves_a_narrowing_little() -> None:
    found = family(lambda share: share, noise=0.004)
    values = [narrowing(found, killed(1, 0.5, MIDDLE), 1, seed) for seed in SEEDS]
    assert np.mean(values) == pytest.approx(0.5, abs=0.03)


def test_where_width_costs_nothing_there_is_no_equivalent() -> None:
    flat = evidence({(arm, 1): 1.6 for arm in C44.arms})
    assert math.isnan(narrowing(flat, killed(1, 0.5, MIDDLE), 1, 1))


def test_neighbours_that_rise_are_averaged() -> None:
    assert dead_width.falling([3.0, 1.0, 2.0, 0.5]) == [3.0, 1.5, 1.5, 0.5]
    assert dead_width.falling([1.0, 2.0, 3.0]) == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("claim", [C44, C47], ids=["C44", "C47"])
def test_planted_truths_get_their_verdicts(claim: Claim) -> None:
    """Dead neurons that cost what missing ones do, and dead neurons that cost nothing."""
    assert verdict(family(lambda share: share, noise=0.003), claim) == "SUPPORTED"
    assert verdict(family(lambda share: 0.0, noise=0.003), claim) == "REFUTED"


def test_where_a_narrower_model_is_as_good_nothing_can_be_said() -> None:
    """C47 with a quarter of the width as good as all of it: dead neurons could not have cost anything."""
    found = family(lambda share: share)
    for seed in SEEDS:
        found.results[of_width(USUAL / 4), seed]["val"]["loss"] = loss_of_width(USUAL)  # type: ignore[index]
    assert verdict(found, C47) == "VOID"


def test_a_measure_that_misses_the_known_narrowing_makes_it_void() -> None:
    """Neurons killed at birth that seem to cost nothing: the control fails, whatever the others do."""
    found = family(lambda share: share)
    for seed in SEEDS:
        found.results[killed(1, 0.5, BIRTH), seed]["val"]["loss"] = loss_of_width(1)  # type: ignore[index]
    assert verdict(found) == "VOID"


def test_neurons_that_did_not_die_make_it_void() -> None:
    found = family(lambda share: share)
    for seed in SEEDS:
        found.results[killed(1, 0.5, MIDDLE), seed]["val"]["layers"] = [{"neurons": 96, "dead_fraction": 0.3}]  # type: ignore[index]
    assert verdict(found) == "VOID"


def test_arms_differ_in_what_is_killed_and_when() -> None:
    """Killed half way and not at all: the same first half; killed at birth: the same two halves."""
    assert differing(C44, (of_width(1), killed(1, 0.5, MIDDLE))) == {"init_killed"}
    assert differing(C44, (begun(of_width(1)), begun(killed(1, 0.5, BIRTH)))) == {"init_killed"}
    assert C47.arms[killed(4, 0.25, MIDDLE)].start == begun(of_width(4))
    assert configuration(C47, killed(4, 0.25, MIDDLE)).init_moments
    for claim, whole in ((C44, BINDING), (C47, USUAL)):
        for width in rungs(whole):
            assert plain_blocks(arm_model(claim, of_width(width)))[0].mlp.d_ff == round(24 * width)
