"""Steps timed side by side: ratios come out as they went in."""

from __future__ import annotations

import pytest
from claim_examples import lively_model, opened, store

from minigpt.claims.measurements import speed
from minigpt.training.config import RunConfig


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
