"""The page of an ablation, `report.html`: one file without scripts or network, drawn from its directory alone."""

from __future__ import annotations

from pathlib import Path

from minigpt.report.ablation_contents import VERDICTS, read_analysis, sections, subtitle, unfinished, warnings
from minigpt.report.ablation_figures import FIGURES

TEMPLATE = Path(__file__).with_name("ablation_page.html.jinja")


def ablation_page(directory: Path) -> str:
    """Return the page of an ablation, finished or not, as HTML.

    Raises:
        CheckpointError: there is no analysis that can be read.
    """
    import jinja2
    from markupsafe import Markup

    analysis = read_analysis(directory)
    contents = sections(analysis)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        analysis=analysis,
        subtitle=subtitle(analysis),
        warnings=[warning for warning in (unfinished(analysis), *warnings(analysis)) if warning],
        sections=contents,
        verdicts=VERDICTS,
        figures={
            section.figure: Markup(FIGURES[section.figure](analysis))  # figures escape what they are given
            for section in contents
            if section.figure is not None
        },
    )
