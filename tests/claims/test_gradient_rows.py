"""C12 to C15: which gradients count for a claim, breakdowns counted, and a linear arm with nothing nonlinear left."""

from __future__ import annotations

import math

import pytest
from claim_examples import arm_model, configuration, differing, evidence

from minigpt.claims.rows import gradients as rows
from minigpt.model import CausalMean
from minigpt.training.schedules import learning_rate

# ---------------------------------------------------------------------------------------------------------- gradients


FALLS = {"sigmoid": 0.0, "tanh": 0.1}


def test_a_falling_gradient_counts_for_the_claim() -> None:
    """More than ReLU's does: the initialisation makes all of them fall."""
    figures = {f"{spec}/with/first": -0.13 if spec == "tanh" else -0.03 for spec in rows.EVERY}
    found = evidence(figures={("relu", 0, "depth_gradients"): figures})
    effects = {condition.name: condition.effect(found, 0) for condition in rows.C12.conditions}
    assert effects == pytest.approx(
        {f"{spec}: fall of the gradient beyond ReLU's": fall for spec, fall in FALLS.items()}
    )
    assert len(rows.C13.conditions) == len(rows.EVERY) - 1


def test_the_measure_must_see_the_gradient_vanish_where_it_is_known_to() -> None:
    """Without residual paths and LayerNorm; the ratio of the layers is flat there and would see nothing."""
    for fall, passed in ((4.85, True), (0.0003, False)):
        figures = {f"{spec}/without/first": -fall for spec in rows.EVERY}
        found = evidence(figures={("relu", 0, "depth_gradients"): figures})
        assert all((gate.value(found, 0) >= gate.least) is passed for gate in rows.C12.gates)


# --------------------------------------------------------------------------------------------------------- breakdowns


def test_the_highest_survived_rate_is_counted() -> None:
    """ReLU ends as a unigram from the fifth rate on, GLU diverges from the fourth on, GELU breaks at all."""
    ends = {"relu": [2.0, 2.0, 2.0, 2.9, 3.17, 3.2], "glu": [2.0] * 3 + [math.inf] * 3, "gelu": [5.0] * 6}
    losses = {
        (rows.at_rate(spec, rate), 0): loss
        for spec, values in ends.items()
        for rate, loss in zip(rows.RATES, values, strict=True)
    }
    found = evidence(losses, figures={(rows.CALM, 0, "ngrams"): {"unigram": 3.18}})
    highest = [rows.highest_survived(found, spec, 0) for spec in ends]
    assert highest == pytest.approx([math.log10(30), 1.0, -0.5])
    glu = next(condition for condition in rows.C14.conditions if condition.name.startswith("glu"))
    assert glu.effect(found, 0) == pytest.approx(math.log10(3))


def test_breakdown_arms_differ_in_activation_and_rate_alone() -> None:
    assert differing(rows.C14, rows._RATE_ARMS) == {"activation", "lr", "min_lr"}
    config = configuration(rows.C14, "glu x100")
    assert config.grad_clip == 0
    assert learning_rate(config, 0) == learning_rate(config, config.steps - 1) == pytest.approx(0.4)


# ---------------------------------------------------------------------------------------------------------- linearity


def test_the_linear_arm_has_nothing_nonlinear_left() -> None:
    model = arm_model(rows.C15, rows.ALL_LINEAR)
    kinds = {type(module).__name__ for module in model.modules()}
    assert not kinds & {"LayerNorm", "RMSNorm", "BatchNorm", "CausalSelfAttention"}
    assert {module.act.spec for block in model.blocks for module in block.modules() if hasattr(module, "act")} == {
        "identity"
    }
    assert isinstance(model.blocks[0].attn, CausalMean)
