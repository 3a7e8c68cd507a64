"""C12 to C15: which gradients count for a claim, breakdowns counted, and a linear arm with nothing nonlinear left."""

from __future__ import annotations

import math

import pytest
from claim_examples import arm_model, configuration, differing, evidence

from minigpt.claims.rows import gradients as rows
from minigpt.model import CausalMean
from minigpt.training.schedules import learning_rate

# ---------------------------------------------------------------------------------------------------------- gradients


def test_a_falling_gradient_counts_for_the_claim() -> None:
    figures = {f"{spec}/with": -0.1 if spec == "tanh" else 0.1 for spec in rows.EVERY}
    found = evidence(figures={("relu", 0, "depth_gradients"): figures})
    effects = {condition.name: condition.effect(found, 0) for condition in rows.C12.conditions}
    assert effects == {"sigmoid: fall of the gradient": -0.1, "tanh: fall of the gradient": 0.1}
    assert len(rows.C13.conditions) == len(rows.EVERY)


# --------------------------------------------------------------------------------------------------------- breakdowns


def test_the_highest_survived_rate_is_counted() -> None:
    """ReLU ends above its start at the highest rate, GLU diverges from the second on, GELU breaks at all."""
    ends = {"relu": [2.0, 2.0, 3.9, 4.1], "glu": [2.0, math.inf, math.inf, math.inf], "gelu": [5.0] * 4}
    losses = {
        (rows.at_rate(spec, rate), 0): loss
        for spec, values in ends.items()
        for rate, loss in zip(rows.RATES, values, strict=True)
    }
    found = evidence(losses)
    highest = [rows.highest_survived(found, spec, 0) for spec in ends]
    assert highest == pytest.approx([2.0, 1.0, 0.5])
    glu = next(condition for condition in rows.C14.conditions if condition.name.startswith("glu"))
    assert glu.effect(found, 0) == pytest.approx(1.0)


def test_breakdown_arms_differ_in_activation_and_rate_alone() -> None:
    assert differing(rows.C14, rows.C14.arms) == {"activation", "lr", "min_lr"}
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
    assert differing(rows.C15, ("parity relu", "parity identity")) == {"activation"}
    assert configuration(rows.C15, "parity relu").corpus == "task:parity"


# ----------------------------------------------------------------------------------------------------------- accuracy
