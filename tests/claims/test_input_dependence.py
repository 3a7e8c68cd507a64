"""Linearity with known answers, and causality with a model that looks ahead."""

from __future__ import annotations

import copy

import pytest
import torch
from claim_examples import (
    ALPHABET,
    lively_model,
    opened,
    store,
)

from minigpt.claims.measurements import input_dependence

# ------------------------------------------------------------------------------------------------------------ linearity


@pytest.mark.parametrize(
    ("settings", "linear"),
    [
        ({"activation": "identity", "norm": "none", "attention": "mean"}, True),
        ({"activation": "identity", "norm": "none"}, False),
        ({"activation": "identity", "attention": "mean"}, False),
        ({"activation": "relu", "norm": "none", "attention": "mean"}, False),
    ],
    ids=["nothing nonlinear", "softmax", "LayerNorm", "relu"],
)
def test_only_a_model_without_any_nonlinearity_is_linear(settings: dict[str, str], linear: bool) -> None:
    """Each nonlinearity alone must be seen; biases make the linear model affine, which is linear enough."""
    model = lively_model(**settings)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.1)
    error = input_dependence.linearity(opened(model), store())["error"]
    assert error is not None
    assert error < 1e-12 if linear else error > 1e-3


def test_the_error_is_that_of_the_formula() -> None:
    """Against the model written out: blocks, norm and head on embeddings."""
    model = lively_model().double()
    a, b = torch.randn(2, 3, 16, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def f(x: torch.Tensor) -> torch.Tensor:
        for block in model.blocks:
            x = block(x)
        logits: torch.Tensor = model.lm_head(model.ln_f(x))
        return logits

    zero = torch.zeros_like(a)
    with torch.no_grad():
        missing = (f(a + b) + f(zero) - f(a) - f(b)).norm() / (f(a) + f(b) - 2 * f(zero)).norm()
    assert input_dependence.superposition_error(model, a, b) == pytest.approx(float(missing))


# ------------------------------------------------------------------------------------------------------------ causality


@pytest.mark.parametrize(("norm", "leaks"), [("layernorm", False), ("batchnorm", True)])
def test_batchnorm_fails_the_test_of_causality_in_training_alone(norm: str, leaks: bool) -> None:
    """Its statistics of a batch contain the tokens to predict."""
    model = lively_model(norm=norm, dropout=0.1)
    before = copy.deepcopy(model.state_dict())
    figures = input_dependence.causality(opened(model), store())
    assert figures["evaluation"] == 0.0
    assert (figures["training"] or 0.0) > 1e-3 if leaks else figures["training"] == 0.0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_leak_is_seen() -> None:
    """A model whose attention is told to look ahead."""
    model = lively_model(attention="written").double()
    for block in model.blocks:
        block.attn.causal_bias.zero_()
    inputs = torch.randint(len(ALPHABET), (2, 16), generator=torch.Generator().manual_seed(1))
    assert input_dependence.leak(model, inputs) > 1e-3
