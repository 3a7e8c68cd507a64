"""Hidden values: clamping equals another activation, and what is a linear function of them is rebuilt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from claim_examples import lively_model, opened, store, with_planted_dead
from torch.nn import functional as F

from minigpt.claims.measurements import hidden_values
from minigpt.claims.measurements.batches_and_losses import batches, mean_loss
from minigpt.neurons.probe import plain_blocks

RANDOM = np.random.default_rng(8)


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
