"""The ledger's pages: an overview with a row for each claim, and a page for each; no scripts, no network.

Everything is drawn from the ledger alone. The overview is `report.html`, and as Markdown `README.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from minigpt.base import formats
from minigpt.report import claims_figures, claims_summary, pages
from minigpt.report import claims_rows as rows
from minigpt.report import claims_words as words
from minigpt.report.claims_tables import FIGURES, claim_markdown, overview_markdown
from minigpt.report.claims_words import Record
from minigpt.report.text_tables import Table

_OVERVIEW, _CLAIM = "claims_page.html.jinja", "claim_page.html.jinja"


@dataclass(frozen=True)
class Section:
    """A heading with figures, each with its title, a caption, and tables."""

    title: str
    figures: tuple[tuple[str, Markup], ...] = ()
    caption: str = ""
    tables: tuple[Table, ...] = ()


def claims_pages(ledger: Record) -> dict[str, str]:
    """Return all files that are drawn from a ledger, pages and Markdown and figures, by their names beside it."""
    ledger = words.made_visible(ledger)
    entries = ledger["claims"]
    names = [entry["id"] for entry in entries]
    files = {"report.html": _overview(ledger), "README.md": overview_markdown(ledger)}
    for entry, before, after in zip(entries, [None, *names], [*names[1:], None], strict=False):
        figures = _figures(entry) if "arms" in entry else {}
        files[f"{entry['id']}.html"] = _claim(entry, figures, before, after)
        files[f"{entry['id']}.md"] = claim_markdown(entry, before, after)
        files |= {f"{FIGURES}/{name}.svg": claims_figures.standing_alone(figure) for name, figure in figures.items()}
    return files


def _figures(entry: Record) -> dict[str, Markup]:
    """The figures of a claim by the name of their file: its effects first, then what it draws."""
    series = {f"{entry['id']}-{k}": claims_figures.series(entry, k) for k in range(len(entry["series"]))}
    return {entry["id"]: claims_figures.effects(entry), **series}


def _style() -> Markup:
    return pages.resource("page.css") + pages.resource("claims.css")


def _overview(ledger: Record) -> str:
    environment = pages.environment()
    environment.filters["p_value"] = formats.p_value
    strips = {
        entry["id"]: [claims_figures.strip(entry, k) for k in range(len(entry["conditions"]))]
        if "arms" in entry
        else []
        for entry in ledger["claims"]
    }
    return environment.get_template(_OVERVIEW).render(
        style=_style(),
        introduction=claims_summary.INTRODUCTION,
        counts=claims_summary.counts(ledger),
        forecasts=claims_summary.forecasts(ledger),
        summary=claims_summary.summary(ledger),
        general=claims_summary.general_sentences(ledger),
        reading=claims_summary.reading_sentences(ledger),
        caption=claims_figures.CAPTIONS["effects"],
        groups=claims_summary.groups(ledger),
        verdicts=words.VERDICTS,
        strips=strips,
        missing=formats.MISSING,
        seeds=words.seeds,
        margin=words.margin,
        effect=words.effect,
        mark=words.forecast_mark,
        forecast_words=words.forecast_words,
        price=words.price,
    )


def _claim(entry: Record, figures: dict[str, Markup], before: str | None, after: str | None) -> str:
    return (
        pages.environment()
        .get_template(_CLAIM)
        .render(
            style=_style(),
            entry=entry,
            before=before,
            after=after,
            tag=words.TAGS[entry["tag"]],
            verdicts=words.VERDICTS,
            reasons=words.reasons(entry),
            sections=claims_summary.SECTIONS,
            rule=words.rule(entry) if entry["conditions"] else None,
            forecast=words.forecast_words(entry),
            price=words.price(entry),
            sections_drawn=_sections(entry, figures),
        )
    )


def _sections(entry: Record, figures: dict[str, Markup]) -> list[Section]:
    """What is shown of a claim below its words: only its conditions if it was not run, nothing if it cannot be."""
    if not entry["conditions"]:
        return []
    if "arms" not in entry:
        return [Section("The conditions", tables=(rows.conditions_table(entry),))]
    effects, *series = figures.values()
    titles = [picture["title"] for picture in entry["series"]]
    found = [
        Section(
            "The effects",
            (("", effects),),
            claims_figures.CAPTIONS["effects"],
            (rows.conditions_table(entry), rows.seeds_table(entry)),
        ),
        Section("The arms", tables=(rows.arms_table(entry), rows.losses_table(entry), *rows.further_tables(entry))),
        Section("Provenance", tables=(rows.provenance_table(entry),)),
    ]
    if series:
        pictures = tuple(zip(titles, series, strict=True))
        found.insert(1, Section("More closely", pictures, claims_figures.CAPTIONS["series"]))
    return found
