"""A temperature that was planted is found, and calibration never touches the order of guesses."""

from __future__ import annotations

import pytest
import torch
from claim_examples import lively_model, opened, store

from minigpt.claims.measurements.calibration_of_loss import best_temperature, calibrated


def test_a_planted_temperature_is_found() -> None:
    """Tokens are drawn by the logits themselves; these are then made four times too sure."""
    random = torch.Generator().manual_seed(2)
    logits = torch.randn(4000, 6, generator=random)
    targets = torch.multinomial(torch.softmax(logits, 1), 1, generator=random).flatten()
    assert best_temperature(4 * logits, targets) == pytest.approx(4, rel=0.15)


def test_calibration_lowers_the_loss_of_a_model_that_is_too_sure() -> None:
    found = calibrated(opened(lively_model()), store())
    assert found["calibrated_loss"] < found["loss"]  # type: ignore[operator]
    assert found["temperature"] > 1  # type: ignore[operator]
    assert 0 <= found["top1"] <= 1  # type: ignore[operator]
