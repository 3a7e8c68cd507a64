"""C45 and C46: a factorial whose arms differ in what they say alone, and its main effects by hand."""

from __future__ import annotations

import pytest
from claim_examples import configuration, differing, evidence

from minigpt.claims.evidence import Evidence
from minigpt.claims.rows.moments_and_decay import BASE, C45, C46, GENTLE, HARSH, KILLED, UNBIASED, UNDECAYED, cell


def test_the_factorial_is_complete_and_shared() -> None:
    """Three β2, warm-up or none, biases decayed or not; both rows train the same twelve."""
    grid = [arm for arm in C45.arms if arm.startswith("β2")]
    assert len(grid) == 12
    assert differing(C45, grid) == {"beta2", "warmup_steps", "decay_all"}
    assert {arm: C46.arms[arm] for arm in grid} == {arm: C45.arms[arm] for arm in grid}
    assert configuration(C45, cell(0.99, "warm-up")).warmup_steps > 0
    assert configuration(C45, BASE).warmup_steps == 0


@pytest.mark.parametrize(
    ("arm", "flags"), [(UNDECAYED, {"weight_decay"}), (UNBIASED, {"bias"}), (KILLED, {"init_killed"})]
)
def test_what_stands_beside_differs_from_the_base_in_one_thing(arm: str, flags: set[str]) -> None:
    assert differing(C46, (BASE, arm)) == flags


def found(key: str, **values: float) -> Evidence:
    """Figures of every arm, by what its name contains."""
    named = {arm: sum(value for word, value in values.items() if word in arm) for arm in (*C45.arms, *C46.arms)}
    return evidence(figures={(arm, 0, "deaths"): {key: value} for arm, value in named.items()})


def test_beta2_is_judged_over_all_other_settings() -> None:
    """0.3 more dead at 0.999, and what warm-up or decay does besides cancels."""
    made = found("dead_fraction", **{"0.999": 0.3, "no warm-up": 0.1, "all decays": 0.05})
    assert C45.conditions[0].effect(made, 0) == pytest.approx(0.3)


def test_burying_is_judged_against_all_and_against_nothing() -> None:
    made = found("certified_fraction", **{"matrices decay": 0.2, "all decays": 0.05, UNDECAYED: 0.12, "0.95": 0.3})
    assert C46.conditions[0].effect(made, 0) == pytest.approx(0.15)
    assert C46.conditions[1].effect(made, 0) == pytest.approx(0.08)


def test_rates_of_the_control_are_far_apart() -> None:
    assert configuration(C45, HARSH).lr == pytest.approx(30 * configuration(C45, GENTLE).lr)
