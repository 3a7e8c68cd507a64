"""C1 to C11 and C16: arms differ in what they say, effects by hand, measurements against known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from claim_examples import arm_model, configuration, differing, evidence, lively_model, opened, store
from torch.nn import functional as F

from minigpt.claims.claim import Claim
from minigpt.claims.measurements import dead_neurons, hidden_values, speed
from minigpt.claims.measurements.reading import batches, mean_loss
from minigpt.claims.rows import activations, death
from minigpt.model import GPT
from minigpt.neurons.probe import plain_blocks
from minigpt.training.config import RunConfig

CLAIMS = {claim.id: claim for claim in (*death.CLAIMS, *activations.CLAIMS)}
RANDOM = np.random.default_rng(8)


# --------------------------------------------------------------------------------------------------------------- arms


@pytest.mark.parametrize(
    ("claim", "arms", "flags"),
    [
        ("C1", tuple(death.DOSES), {"lr", "min_lr"}),
        ("C1", ("default recipe", "rate x1"), {"schedule", "warmup_steps", "min_lr"}),
        ("C3", ("recycle dead", "recycle random"), {"init_surgery"}),
        ("C3", ("as it is", "recycle dead"), {"init_surgery"}),
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
    assert configuration(CLAIMS["C3"], death.HURT).init_bias == -2
    assert len(activations.MIXES) == 2**4 - 2


def test_widths_are_shares_of_the_width_that_is_usual() -> None:
    widths = [plain_blocks(arm_model(CLAIMS["C3"], arm))[0].mlp.d_ff for arm in death.WIDTHS]
    assert widths == [round(4 * 24 * share) for share in death.WIDTHS.values()]


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
    found = evidence({(arm, 1): 2.0 for arm in death.DOSES}, figures=figures)
    assert effect(CLAIMS["C1"], found, number=1) == pytest.approx(0.1)
    highest = 0.3 + 0.1 * math.log10(7.5)
    assert effect(CLAIMS["C1"], found) == pytest.approx(highest - death.LEAST_DEAD)


def test_reviving_the_dead_is_compared_with_reviving_others() -> None:
    losses = {("recycle dead", 1): 2.00, ("recycle random", 1): 2.03, ("as it is", 1): 2.05}
    widths = {(arm, 1): 3.0 - share for arm, share in death.WIDTHS.items()}
    found = evidence(losses | widths)
    assert effect(CLAIMS["C3"], found) == pytest.approx(0.03)
    assert death._narrowing(found, death.HURT, 1) == pytest.approx(0.05), "0.05 nats at a nat for the whole width"


def test_the_extremes_are_chosen_on_other_seeds() -> None:
    """Seed 1 has a lucky sigmoid: it is not chosen for that, and what it shows is what was chosen without it."""
    losses = {(arm, seed): 2.0 for arm in activations.ALL for seed in (1, 2, 3)}
    losses |= {("sigmoid", 2): 2.5, ("sigmoid", 3): 2.5, ("sigmoid", 1): 2.1, ("reglu", 2): 1.9, ("reglu", 3): 1.9}
    assert effect(CLAIMS["C9"], evidence(losses)) == pytest.approx(0.1)


def test_a_mix_must_beat_the_best_uniform_model() -> None:
    losses = {(arm, seed): 2.2 for arm in CLAIMS["C11"].arms for seed in (1, 2)}
    losses |= {
        ("all gelu", 2): 2.0,
        ("all gelu", 1): 2.1,
        (activations.MIXES[3], 2): 1.9,
        (activations.MIXES[3], 1): 2.3,
    }
    assert effect(CLAIMS["C11"], evidence(losses)) == pytest.approx(2.1 - 2.3)


@pytest.mark.parametrize(("target", "share"), [(2.5, 0.25), (2.0, 0.5), (4.0, 0.0), (1.5, 0.75), (0.5, 1.0)])
def test_when_a_loss_is_reached(target: float, share: float) -> None:
    """Between evaluations by a straight line; never reached counts as the end."""
    found = evidence(curves={("relu", 1): [(0, 3.0), (50, 2.0), (100, 1.0)]})
    assert activations.steps_to_reach(found, "relu", 1, target) == pytest.approx(share)


# ------------------------------------------------------------------------------------------------------- measurements


def with_planted_dead(planted: int) -> GPT:
    """A lively model of which so many neurons of the first layer can never open."""
    model = lively_model()
    with torch.no_grad():
        mlp = plain_blocks(model)[0].mlp
        mlp.w_in.weight[:planted] = 0
        mlp.w_in.bias[:planted] = -1
    return model


def test_planted_dead_neurons_are_found_and_proven() -> None:
    before, after = (dead_neurons.deaths(opened(with_planted_dead(planted)), store()) for planted in (0, 7))
    neurons = 2 * 48
    for key in ("dead_fraction", "never_positive_fraction", "certified_fraction", "truly_dead_fraction"):
        assert after[key] - before[key] == pytest.approx(7 / neurons), key  # type: ignore[operator]
    assert after["dead_layer_0"] - before["dead_layer_0"] == pytest.approx(7 / 48)  # type: ignore[operator]
    assert before["alive"] - after["alive"] == 7  # type: ignore[operator]


def test_dead_neurons_are_trapped_and_expendable() -> None:
    model = with_planted_dead(12)
    found = dead_neurons.trapping(opened(model), store())
    assert found["trapped_fraction"] >= 12 / 96  # type: ignore[operator]
    assert found["trapped_fraction"] + found["learning_fraction"] == pytest.approx(1)  # type: ignore[operator]
    spared = dead_neurons.expendability(opened(model), store())
    assert spared["expendable_fraction"] >= 12 / 96  # type: ignore[operator]
    assert spared["neurons"] == 96


def test_a_step_function_traps_every_neuron() -> None:
    """C16: its incoming weights get a gradient of exactly zero."""
    found = dead_neurons.trapping(opened(lively_model(activation="step")), store())
    assert found["learning_fraction"] == 0
    assert dead_neurons.trapping(opened(lively_model()), store())["learning_fraction"] > 0.5  # type: ignore[operator]


@torch.no_grad()
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_clamping_is_another_activation(activation: str) -> None:
    """GELU without its negative values, computed by a model whose activation is just that; ReLU loses nothing."""
    model, text = lively_model(activation=activation), store()
    found = hidden_values.clamping(opened(model), text)
    twin = lively_model(activation=activation)
    for block in plain_blocks(twin):
        block.mlp.act.forward = lambda z: F.relu(F.gelu(z) if activation == "gelu" else z)  # type: ignore[method-assign]
    clamped = mean_loss(opened(twin), batches(twin, text.tokens("val"), hidden_values.CLAMPING_TOKENS))
    assert found["clamped_loss"] == pytest.approx(clamped, rel=1e-5)
    assert found["rise"] == pytest.approx(found["clamped_loss"] - found["loss"])  # type: ignore[operator]
    assert (found["negative"] == 0) is (activation == "relu")
    assert (found["rise"] == 0) is (activation == "relu")


def test_what_is_a_linear_function_of_h_is_rebuilt_and_noise_is_not() -> None:
    h = torch.from_numpy(RANDOM.normal(size=(4000, 6)))
    x = h @ torch.from_numpy(RANDOM.normal(size=(6, 3))) + 5
    noise = torch.from_numpy(RANDOM.normal(size=(4000, 3)))
    half = 2000
    assert hidden_values.ridge_r2((h[:half], x[:half]), (h[half:], x[half:])) == pytest.approx(1, abs=1e-4)
    assert abs(hidden_values.ridge_r2((h[:half], noise[:half]), (h[half:], noise[half:]))) < 0.02
    mixed = x + noise * x.std(0)
    rebuilt = hidden_values.ridge_r2((h[:half], mixed[:half]), (h[half:], mixed[half:]))
    assert rebuilt == pytest.approx(0.5, abs=0.03), "half of the variance is noise"
    nothing = torch.zeros(half, 6, dtype=torch.float64)
    assert hidden_values.ridge_r2((nothing, x[:half]), (nothing, x[half:])) == pytest.approx(0, abs=0.01), "all dead"


def test_dead_neurons_make_a_layer_harder_to_rebuild() -> None:
    whole, hurt = (hidden_values.rebuilding(opened(with_planted_dead(dead)), store()) for dead in (0, 44))
    assert hurt["r2_layer_0"] < whole["r2_layer_0"] - 0.1  # type: ignore[operator]
    assert hurt["r2"] == pytest.approx(np.mean([hurt["r2_layer_0"], hurt["r2_layer_1"]]))


def test_steps_are_timed_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that ticks once a step, but twice for SwiGLU, ratios come out as they went in."""
    clock = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])

    def stepper(config: RunConfig, text: object) -> object:
        def step(number: int) -> None:
            clock[0] += 0.002 if config.activation == "swiglu" else 0.001

        return step

    monkeypatch.setattr(speed, "_stepper", stepper)
    found = speed.speed(opened(lively_model()), store())
    assert found["relu/ms"] == pytest.approx(1)
    assert found["swiglu/longer"] == pytest.approx(1)
    assert found["gelu/longer"] == pytest.approx(0)
