"""C1 to C11 and C16: arms differ in what they say, effects by hand."""

from __future__ import annotations

import math

import pytest
from claim_examples import arm_model, configuration, differing, evidence

from minigpt.claims.claim import Claim
from minigpt.claims.rows import activations, death
from minigpt.neurons.probe import plain_blocks

CLAIMS = {claim.id: claim for claim in (*death.CLAIMS, *activations.CLAIMS)}


# --------------------------------------------------------------------------------------------------------------- arms


@pytest.mark.parametrize(
    ("claim", "arms", "flags"),
    [
        ("C1", tuple(death.DOSES), {"lr", "min_lr"}),
        ("C1", ("base recipe", "rate x1"), {"schedule", "warmup_steps", "min_lr"}),
        ("C3", ("recycle dead", "recycle random"), {"init_surgery", "recycle"}),
        ("C3", ("as it is", "recycle dead"), {"init_surgery", "recycle", "recycle_every"}),
        ("C3", ("as it is", "memory cleared"), {"init_moments"}),
        ("C3", tuple(death.WIDTHS), {"d_ff"}),
        ("C4", ("hurt, then code", "recycled, then code"), {"init_surgery"}),
        ("C4", ("hurt, then code", "healthy, then code"), {"init_from"}),
        ("C6", ("relu", "leaky_relu"), {"activation"}),
        ("C6", ("relu", "elu"), {"activation", "lr", "min_lr"}),
        ("C11", (*activations.UNIFORM, *activations.MIXES), {"activation"}),
        ("C16", ("relu", "softmax", "step"), {"activation"}),
    ],
)
def test_arms_differ_in_what_they_say_alone(claim: str, arms: tuple[str, ...], flags: set[str]) -> None:
    """Whatever else differed would be held for an effect of what they are named after."""
    assert differing(CLAIMS[claim], arms) == flags


def test_all_forks_continue_from_the_hurt_model() -> None:
    assert {CLAIMS["C3"].arms[fork].start for fork in death.FORKS} == {death.HURT}
    assert configuration(CLAIMS["C3"], death.HURT).init_bias == -1.5
    assert len(activations.MIXES) == 2**4 - 2


def test_widths_are_shares_of_the_streams() -> None:
    """The hurt model and the first healthy one have as many neurons as the residual stream has channels."""
    widths = [plain_blocks(arm_model(CLAIMS["C3"], arm))[0].mlp.d_ff for arm in death.WIDTHS]
    assert widths == [round(24 * share) for share in death.WIDTHS.values()]
    assert plain_blocks(arm_model(CLAIMS["C3"], death.HURT))[0].mlp.d_ff == 24


@pytest.mark.parametrize("claim", ["C5", "C9"])
def test_activations_have_equally_many_parameters(claim: str) -> None:
    sizes = [arm_model(CLAIMS[claim], arm).parameter_count() for arm in CLAIMS[claim].arms]
    assert max(sizes) / min(sizes) < 1.02


# ------------------------------------------------------------------------------------------------------------ effects


def effect(claim: Claim, found: object, seed: int = 1, number: int = 0) -> float:
    return claim.conditions[number].effect(found, seed)  # type: ignore[arg-type]


def test_the_rise_is_a_slope_over_tenfold_rates() -> None:
    figures = {
        (arm, 1, "deaths"): {"dead_fraction": 0.3 + 0.1 * math.log10(factor)} for arm, factor in death.DOSES.items()
    }
    figures |= {(death.BASE, 1, "deaths"): {"dead_fraction": 0.02}}
    found = evidence({(arm, 1): 2.0 for arm in CLAIMS["C1"].arms}, figures=figures)
    assert effect(CLAIMS["C1"], found, number=1) == pytest.approx(0.1)
    assert effect(CLAIMS["C1"], found) == pytest.approx(0.02 - death.LEAST_DEAD)


def test_reviving_the_dead_is_compared_with_reviving_others() -> None:
    losses = {("recycle dead", 1): 2.00, ("recycle random", 1): 2.03, ("as it is", 1): 2.05}
    widths = {(arm, 1): 3.0 - share for arm, share in death.WIDTHS.items()}
    found = evidence(losses | widths)
    assert effect(CLAIMS["C3"], found) == pytest.approx(0.05)
    assert effect(CLAIMS["C3"], found, number=1) == pytest.approx(0.03)
    assert death._narrowing(found, death.HURT, 1) == pytest.approx(0.05), "0.05 nats at a nat for the whole width"


def test_the_extremes_are_chosen_on_other_seeds() -> None:
    """Seed 1 has a lucky sigmoid: it is not chosen for that, and what it shows is what was chosen without it."""
    losses = {(arm, seed): 2.0 for arm in activations.ALL for seed in (1, 2, 3)}
    losses |= {("sigmoid", 2): 2.5, ("sigmoid", 3): 2.5, ("sigmoid", 1): 2.1, ("reglu", 2): 1.9, ("reglu", 3): 1.9}
    assert effect(CLAIMS["C9"], evidence(losses, choosing=(2, 3))) == pytest.approx(0.1)


def test_a_mix_must_beat_the_best_uniform_model() -> None:
    losses = {(arm, seed): 2.2 for arm in CLAIMS["C11"].arms for seed in (1, 2)}
    losses |= {
        ("all gelu", 2): 2.0,
        ("all gelu", 1): 2.1,
        (activations.MIXES[3], 2): 1.9,
        (activations.MIXES[3], 1): 2.3,
    }
    assert effect(CLAIMS["C11"], evidence(losses, choosing=(2,))) == pytest.approx(2.1 - 2.3)


@pytest.mark.parametrize(("target", "share"), [(2.5, 0.25), (2.0, 0.5), (4.0, 0.0), (1.5, 0.75), (0.5, 1.0)])
def test_when_a_loss_is_reached(target: float, share: float) -> None:
    """Between evaluations by a straight line; never reached counts as the end."""
    found = evidence(curves={("relu", 1): [(0, 3.0), (50, 2.0), (100, 1.0)]})
    assert activations.steps_to_reach(found, "relu", 1, target) == pytest.approx(share)
