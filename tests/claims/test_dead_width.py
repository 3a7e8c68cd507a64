"""C44: arms as they are meant, and the equivalent width recovered on made-up families of losses."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from claim_examples import arm_model, configuration, differing, evidence

from minigpt.claims import entries
from minigpt.claims.claim import Plan
from minigpt.claims.evidence import Evidence
from minigpt.claims.rows import dead_width
from minigpt.claims.rows.dead_width import BIRTH, C44, MIDDLE, SHARES, WHOLE, WIDTHS, begun, killed, narrowing, of_width
from minigpt.neurons.probe import plain_blocks

SEEDS = tuple(range(1337, 1345))


def loss_of_width(width: float) -> float:
    """A family whose loss falls with the logarithm of the width, by 0.1 nats for each doubling."""
    return 1.6 - 0.1 * math.log2(width)


def family(cost: Callable[[float], float], noise: float = 0.0) -> Evidence:
    """Losses in which a share killed half way costs what a narrowing by `cost(share)` does; at birth, by the share."""
    random = np.random.default_rng(5)
    losses: dict[tuple[str, int], float] = {}
    for seed in SEEDS:
        losses |= {(of_width(width), seed): loss_of_width(width) for width in WIDTHS}
        for whole in WHOLE:
            for share in SHARES:
                losses[killed(whole, share, BIRTH), seed] = loss_of_width(whole * (1 - share))
                losses[killed(whole, share, MIDDLE), seed] = loss_of_width(whole * (1 - cost(share)))
    losses = {key: loss + noise * random.standard_normal() for key, loss in losses.items()}
    figures = {(of_width(1), seed, "ngrams"): {"trigram": 1.93} for seed in SEEDS}
    found = evidence(losses, figures=figures)
    for seed in SEEDS:
        found.results[killed(1, 0.5, MIDDLE), seed]["val"]["layers"] = [{"neurons": 96, "dead_fraction": 0.51}]  # type: ignore[index]
        for arm in C44.arms:
            found.results.get((arm, seed), {"val": {}})["val"].setdefault(
                "layers", [{"neurons": 96, "dead_fraction": 0.0}]
            )
    return found


def verdict(found: Evidence) -> str:
    entry = entries.judged(C44, found, SEEDS, Plan((len(SEEDS),)), family_size=1)
    return str(entries.with_verdicts([entry], {"exploratory": 1})[0]["verdict"])


@pytest.mark.parametrize("whole", WHOLE)
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


def test_planted_truths_get_their_verdicts() -> None:
    """Dead neurons that cost what missing ones do, and dead neurons that cost nothing; flat ladders are void."""
    assert verdict(family(lambda share: share, noise=0.003)) == "SUPPORTED"
    assert verdict(family(lambda share: 0.0, noise=0.003)) == "REFUTED"


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
    assert C44.arms[killed(2, 0.25, MIDDLE)].start == begun(of_width(2))
    assert configuration(C44, killed(2, 0.25, MIDDLE)).init_moments
    widths = {width: plain_blocks(arm_model(C44, of_width(width)))[0].mlp.d_ff for width in WIDTHS}
    assert widths == {width: round(24 * width) for width in WIDTHS}
