"""The page of an ablation, `report.html`: one file without scripts or network, drawn from its directory alone."""

from __future__ import annotations

from pathlib import Path

from minigpt.report.ablation_contents import VERDICTS, read_analysis, sections, subtitle, title, unfinished, warnings
from minigpt.report.ablation_figures import FIGURES
from minigpt.report.ablation_tables import ranking_table
from minigpt.report.breadcrumbs import PAGE
from minigpt.report.pages import render

TEMPLATE = "ablation_page.html.jinja"


def ablation_page(directory: Path, alone: bool = False) -> str:
    """Return the page of an ablation, finished or not, as HTML; `alone`, it will be elsewhere, without its cells.

    Raises:
        CheckpointError: there is no analysis that can be read.
    """
    analysis = read_analysis(directory)
    for cell in analysis["cells"]:
        cell["page"] = not alone and (directory / str(cell["directory"]) / PAGE).is_file()
    contents = sections(analysis)
    return render(
        TEMPLATE,
        ["ablation.css"],
        analysis=analysis,
        title=title(analysis),
        subtitle=subtitle(analysis),
        warnings=[warning for warning in (unfinished(analysis), *warnings(analysis)) if warning],
        first=contents[0],
        ranking=ranking_table(analysis),
        sections=contents,
        verdicts=VERDICTS,
        drawn={name: FIGURES[name](analysis) for section in contents for name, _ in section.figures},
    )
