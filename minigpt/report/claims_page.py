"""All files that are drawn from a ledger: pages without scripts and network, Markdown, and figures.

The overview with a row for each claim is `report.html`, and as Markdown `README.md`; each claim has a page and a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from markupsafe import Markup

from minigpt.base import formats
from minigpt.report import claims_figures, claims_summary, claims_tables, pages
from minigpt.report import claims_words as words
from minigpt.report.claims_texts import claim_markdown, overview_markdown
from minigpt.report.claims_words import Record
from minigpt.report.figures import standing_alone
from minigpt.report.sections import figure_file

_OVERVIEW, _CLAIM = "claims_page.html.jinja", "claim_page.html.jinja"


def claims_pages(ledger: Record, trainings: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Return the content of every file by its name beside the ledger; `trainings` are addresses of pages of cells."""
    ledger = words.made_visible(ledger)
    entries, base = ledger["claims"], ledger["scale"]["base"]
    files = {"report.html": _overview(ledger), "README.md": overview_markdown(ledger)}
    for place, entry in enumerate(entries):
        claim = entry["id"]
        neighbours = {f"← {before['id']}": before["id"] for before in entries[:place][-1:]}
        neighbours |= {f"{after['id']} →": after["id"] for after in entries[place + 1 :][:1]}
        drawn = _figures(entry, base) if "arms" in entry else {}
        crumbs = [("the ledger of claims", f"report.html#{claim}")]
        files[f"{claim}.html"] = _render(
            _CLAIM, entry=entry, neighbours=neighbours, drawn=drawn, first=_first(entry), crumbs=crumbs,
            trainings=_by_arm(entry, trainings),
        )  # fmt: skip
        files[f"{claim}.md"] = claim_markdown(entry, neighbours)
        files |= {figure_file(name): standing_alone(figure) for name, figure in drawn.items()}
    return files


def _by_arm(entry: Record, trainings: Mapping[str, str]) -> dict[str, list[tuple[int, str]]]:
    """Of each arm the seeds whose trainings have a page, and where."""
    found = {
        arm["name"]: [
            (seed, trainings[cell])
            for seed, cell in zip(entry["seeds"], arm["cells"], strict=True)
            if cell in trainings
        ]
        for arm in entry.get("arms", ())
    }
    return {arm: seeds for arm, seeds in found.items() if seeds}


def _first(entry: Record) -> dict[str, str]:
    """The figures that a page begins with, by name, with their captions: death and loss over a dose, or the effects."""
    if "arms" not in entry:
        return {}
    if pair := claims_figures.dose_pair(entry):
        return {f"{entry['id']}-{number}": entry["series"][number]["title"] for number in pair}
    return {entry["id"]: "Effect of each seed against no effect (thin line) and the margin (dashed)"}


def _figures(entry: Record, base: Record) -> dict[str, Markup]:
    """The figures of a claim by the name of their file: its effects first, then what it draws."""
    series = {f"{entry['id']}-{k}": claims_figures.series(entry, k, base) for k in range(len(entry["series"]))}
    return {entry["id"]: claims_figures.effects(entry), **series}


def _overview(ledger: Record) -> str:
    strips = {
        entry["id"]: [claims_figures.strip(entry, k) for k in range(len(entry["conditions"]))]
        for entry in ledger["claims"]
        if "arms" in entry
    }
    return _render(_OVERVIEW, ledger=ledger, strips=strips, picture=claims_figures.all_claims(ledger["claims"]))


def _render(template: str, **content: object) -> str:
    rooms = {"formats": formats, "words": words, "summary": claims_summary, "tables": claims_tables}
    return pages.render(template, ["claims.css"], [], **{**rooms, **content})
