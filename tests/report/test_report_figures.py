"""The drawings: gaps stay gaps, thinning hides no extreme, and the heatmap tells little from nothing."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from minigpt.report.death_tables import dead_heatmap, interval_labels, life_table
from minigpt.report.figures import loss_curves, thinned


def evaluation(step: int, *dead: float | None, loss: float | None = 2.0) -> dict[str, Any]:
    """An eval record with these dead shares by layer."""
    return {"kind": "eval", "step": step, "loss": loss, "layers": [{"dead_fraction": share} for share in dead]}


def test_figures_that_are_not_finite_leave_gaps() -> None:
    """null in the log is a gap in the curve, not an error and not a zero: three strokes of two points here."""
    losses = [5.0, 4.0, None, 3.0, 2.0, None, 1.5, 1.0]
    records = [{"kind": "train", "step": step, "loss": loss, "lr": 1e-3} for step, loss in enumerate(losses)]
    drawing = loss_curves(records)
    assert drawing.startswith('<svg role="img" aria-label="Loss')
    strokes = [path for path in re.findall(r'<path d="([^"]*)"', drawing) if path.count("M") == 3]
    assert len(strokes) == 1
    assert strokes[0].count("L") == 3


@pytest.mark.parametrize("loss", [None, 1e30, 0.0])
def test_extreme_losses_are_drawn(loss: float | None) -> None:
    """A run that diverged at once, or has only one evaluation, still has a page; neither record kind is needed."""
    assert "<svg" in loss_curves([evaluation(0, 0.0, loss=loss)])
    assert "<svg" in loss_curves([{"kind": "train", "step": 1, "loss": loss, "lr": 0.0}])
    with pytest.raises(ValueError, match="no records"):
        loss_curves([])


def test_drawings_take_the_colour_of_the_page() -> None:
    """No black axis on a dark page, and no id that two drawings could share."""
    drawing = loss_curves([evaluation(0, 0.0), evaluation(1, 0.0)])
    assert "#000000" not in drawing
    assert "currentColor" in drawing
    assert all(name.startswith("loss-") for name in re.findall(r' id="([^"]*)"', drawing))
    assert "<style" not in drawing


def test_thinning_keeps_ends_extremes_and_gaps() -> None:
    """Of a million points few remain, among them a spike, a dip, a gap and both ends."""
    values = [math.sin(index / 5e4) for index in range(1_000_000)]
    values[123_456], values[765_432], values[500_001] = 50.0, -50.0, math.nan
    steps, losses = thinned((list(range(1_000_000)), values))
    assert len(steps) <= 700
    assert (steps[0], steps[-1]) == (0, 999_999)
    assert {123_456, 765_432, 500_001} <= set(steps)
    assert steps == sorted(set(steps))
    assert all(values[step] == loss or math.isnan(loss) for step, loss in zip(steps, losses, strict=True))


def test_a_line_that_is_all_gap_is_thinned() -> None:
    """A run that diverged at its first step has no extremes to keep."""
    steps, losses = thinned((list(range(10_000)), [math.nan] * 10_000))
    assert len(steps) <= 600
    assert all(map(math.isnan, losses))


def test_the_heatmap_tells_little_from_nothing() -> None:
    """Zero is unshaded and reads 0; any other share is shaded, and a missing one is a dash."""
    heatmap = dead_heatmap([evaluation(0, 0.0, 1e-4), evaluation(10, None, 1.0)])
    assert heatmap is not None
    assert [[(cell.text, cell.level) for cell in row] for row in heatmap.rows] == [
        [("0", 0), ("–", 0)],
        [("<0.1", 1), ("100.0", 8)],
    ]
    assert dead_heatmap([]) is None


def test_the_heatmap_of_many_evaluations_keeps_the_ends() -> None:
    """Columns are picked evenly; the first and the last are among them."""
    heatmap = dead_heatmap([evaluation(step, 0.0) for step in range(0, 10_001, 10)])
    assert heatmap is not None
    assert (heatmap.steps[0], heatmap.steps[-1], heatmap.evaluations) == (0, 10_000, 1001)
    assert len(heatmap.steps) == 16


@pytest.mark.parametrize("last", [0, 1, 5, 8, 1001])
def test_intervals_cover_every_step_once(last: int) -> None:
    """An event at any step falls into exactly one interval, the first and the last step included."""
    events = [
        {"kind": "event", "event": "neurons_died", "step": step, "layer": 0, "neurons": [step]}
        for step in range(last + 1)
    ]
    life = life_table(events)
    assert life is not None
    assert sum(tally.died for tally in life.rows[0].intervals) == life.rows[0].total.died == last + 1
    assert len(interval_labels(life.ends)) == len(life.ends) <= 8
