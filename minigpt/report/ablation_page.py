"""The page of an ablation, `report.html`: one file without scripts or network, drawn from its directory alone."""

from __future__ import annotations

from pathlib import Path

from minigpt.report.ablation_contents import VERDICTS, read_analysis, sections, subtitle, unfinished, warnings
from minigpt.report.ablation_figures import FIGURES
from minigpt.report.pages import environment

TEMPLATE = "ablation_page.html.jinja"


def ablation_page(directory: Path) -> str:
    """Return the page of an ablation, finished or not, as HTML.

    Raises:
        CheckpointError: there is no analysis that can be read.
    """
    analysis = read_analysis(directory)
    contents = sections(analysis)
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            analysis=analysis,
            subtitle=subtitle(analysis),
            warnings=[warning for warning in (unfinished(analysis), *warnings(analysis)) if warning],
            sections=contents,
            verdicts=VERDICTS,
            figures={
                section.figure: FIGURES[section.figure](analysis) for section in contents if section.figure is not None
            },
        )
    )
