"""Dead, trapped and expendable neurons: planted ones are found, and a step function traps all."""

from __future__ import annotations

import pytest
import torch
from claim_examples import lively_model, opened, store, with_planted_dead

from minigpt.claims.measurements import dead_neurons


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


def test_a_planted_twentieth_raises_what_is_never_open() -> None:
    """By the share that was planted, where none was closed before; the model itself is left as it was."""
    model = lively_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert dead_neurons.deaths(opened(model), store())["never_positive_fraction"] == 0
    found = dead_neurons.planted(opened(model), store())
    assert found["never_positive_fraction"] == pytest.approx(2 * 2 / 96)
    assert found["inert_fraction"] >= 2 * 2 / 96  # type: ignore[operator]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_step_function_traps_every_neuron() -> None:
    """C16: its incoming weights get a gradient of exactly zero."""
    found = dead_neurons.trapping(opened(lively_model(activation="step")), store())
    assert found["learning_fraction"] == 0
    assert dead_neurons.trapping(opened(lively_model()), store())["learning_fraction"] > 0.5  # type: ignore[operator]
