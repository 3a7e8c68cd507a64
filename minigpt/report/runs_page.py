"""The page of a folder of runs, `index.html`: any of them side by side. One file without network or scripts.

Each run has a tick box; the page's own style hides the curves and rows of those that are not ticked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from minigpt.base import formats
from minigpt.report import pages
from minigpt.report.figures import thinned
from minigpt.report.line_chart import Line, line_chart, stroke
from minigpt.report.run_list import ListedRun, answer, runs_table, settings_table

FIRST_TICKED = 8
_MAX_POINTS = 200


def runs_page(folder: Path, runs: Sequence[ListedRun]) -> str:
    """Return the page that compares runs as HTML."""
    return pages.render(
        "runs_page.html.jinja",
        name=f"{folder.resolve().name}/",
        answer=answer(runs),
        hiding=_hiding(len(runs)),
        runs=runs,
        strokes=[stroke(number) for number in range(len(runs))],
        ticked=FIRST_TICKED,
        losses=_chart("Validation loss over the steps", "nats per token", [run.losses for run in runs]),
        deaths=_chart("Share of dead neurons over the steps", "dead neurons", [run.deaths for run in runs], True),
        table=runs_table(runs, link=True),
        settings=settings_table(runs),
    )


def _chart(title: str, unit: str, lines: Sequence[Line], shares: bool = False) -> Markup | None:
    if not any(lines):
        return None
    show = _percent if shares else formats.short
    drawn = [
        list(zip(*thinned(([s for s, _ in line], [v for _, v in line]), _MAX_POINTS), strict=True)) for line in lines
    ]
    return line_chart(title, unit, drawn, show)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _hiding(runs: int) -> Markup:
    """The rules that hide what belongs to a run whose box is not ticked."""
    return Markup("\n").join(
        Markup(
            f"body:has(#tick-{number}:not(:checked)) :is(.line-{number}, .chosen tbody tr:nth-child({number + 1}))"
            " { display: none; }"
        )
        for number in range(runs)
    )
