"""Detectors of a few tokens: planted ones are found, what opens anywhere is none, what hardly opens is not judged."""

from __future__ import annotations

import pytest
import torch
from claim_examples import lively_model, opened, store

from minigpt.claims.measurements.token_detectors import detector_shares, token_detectors


def test_planted_detectors_are_found() -> None:
    """One opens at two tokens, one at all alike, one at five and a little elsewhere, one hardly ever."""
    counts = torch.zeros(4, 40)
    counts[0, :2] = 500
    counts[1] = 100
    counts[2, :5], counts[2, 5] = 190, 50
    counts[3, 0] = 1
    found = detector_shares(counts, 10_000)
    assert found["judged_share"] == 0.75
    assert found["detector_share"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("spec", ["relu", "gelu", "swiglu"])
def test_a_real_model_is_counted_whole(spec: str) -> None:
    """With any activation, gated ones by their gate."""
    found = token_detectors(opened(lively_model(activation=spec)), store())
    assert found["judged_share"] == pytest.approx(1, abs=0.2)
    assert 0 <= found["detector_share"] <= 1  # type: ignore[operator]
