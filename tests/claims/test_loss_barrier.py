"""The line between two models: flat between a model and itself, a ridge where neurons are only in another order."""

from __future__ import annotations

import copy

import pytest
import torch
from claim_examples import lively_model, opened, store

from minigpt.claims.measurements.loss_barrier import loss_barrier
from minigpt.neurons.probe import plain_blocks


def test_there_is_no_barrier_to_oneself() -> None:
    model = lively_model()
    found = loss_barrier(opened(model), store(), opened(copy.deepcopy(model)))
    assert found["barrier"] == pytest.approx(0, abs=1e-6)
    assert found["apart"] == 0


def test_other_weights_are_across_a_barrier_and_the_model_is_left_as_it_was() -> None:
    """With each layer's neurons turned round the model computes the same, but nothing half-way does."""
    model = lively_model()
    before = copy.deepcopy(model.state_dict())
    other = copy.deepcopy(model)
    with torch.no_grad():
        for block in plain_blocks(other):
            block.mlp.w_in.weight.copy_(block.mlp.w_in.weight.flip(0))
            block.mlp.w_in.bias.copy_(block.mlp.w_in.bias.flip(0))
            block.mlp.w_out.weight.copy_(block.mlp.w_out.weight.flip(1))
    found = loss_barrier(opened(model), store(), opened(other))
    assert found["apart"] == pytest.approx(0, abs=1e-5)
    assert abs(found["barrier"]) > 0.005  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
