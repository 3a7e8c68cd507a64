"""The ledger as text: a short list and a single claim for the terminal, and all of it as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from minigpt.base import formats
from minigpt.base.formats import MISSING
from minigpt.report import claims_rows as rows
from minigpt.report import claims_summary
from minigpt.report import claims_words as words
from minigpt.report.claims_figures import CAPTIONS
from minigpt.report.claims_words import Record
from minigpt.report.text_tables import Table, aligned, fenced, markdown_table, plain

FIGURES = "figures"
"""The folder of the Markdown's figures, beside it."""
_TERMINAL_WIDTH = 100
_LONGEST_EFFECT = 50
_LONGEST_NAME = 20
_LEGEND = "effect: of several conditions the one that decides; ✓✗: whether the forecast came true"
_GAP = "  "

# Terminal


def terminal_list(ledger: Record) -> str:
    """Return a line for each claim: verdict or status, effect against margin, forecast, statement cut to the width."""
    entries = words.made_visible(ledger["claims"])
    known = [
        [entry["id"], words.finding(entry), _deciding_effect(entry), words.forecast_mark(entry)] for entry in entries
    ]
    table = [["claim", "verdict", "effect [90 %] vs margin", "✓✗", "statement"]]
    width = sum(
        max(map(len, column)) + len(_GAP) for column in zip(*[line[:4] for line in (*table, *known)], strict=True)
    )
    table += [
        [*line, _cut(entry["statement"], _TERMINAL_WIDTH - width)] for line, entry in zip(known, entries, strict=True)
    ]
    found = ", ".join(f"{number} {name}" for name, number in claims_summary.counts({"claims": entries}))
    forecasts = claims_summary.forecasts_sentence({"claims": entries})
    return "\n".join([aligned(table, words=5), _LEGEND, _wrapped(f"{found}. {forecasts}")])


def _deciding_effect(entry: Record) -> str:
    """The effect of the condition that decides, and of how many it is one."""
    condition = words.deciding(entry)
    if condition is None:
        return MISSING
    others = f", 1 of {len(entry['conditions'])}" if len(entry["conditions"]) > 1 else ""
    return _cut(f"{words.effect(condition)} vs {words.margin(condition)}", _LONGEST_EFFECT - len(others)) + others


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def terminal_claim(entry: Record) -> str:
    """Return all about one claim, wrapped to the terminal."""
    entry = words.made_visible(entry)
    parts = [_wrapped(f"{entry['id']}  {words.finding(entry)}  ({entry['where']}, {entry['family']} family)")]
    parts.append(_described(_described_by(entry)))
    if entry["conditions"]:
        parts.append("Conditions\n" + _described((c["name"], _condition(c)) for c in entry["conditions"]))
    if "arms" in entry:
        parts += [_terminal_table(rows.seeds_table(entry)), _terminal_table(rows.losses_table(entry))]
        parts.append("Arms\n" + _described((arm["name"], _arm(arm)) for arm in entry["arms"]))
        parts += [_terminal_table(table) for table in rows.further_tables(entry)]
        made = entry["provenance"]
        trained = [("trained by", f"{words.recorded(made['commit'])} on {words.recorded(made['processor'])}")]
        parts.append(_described([("price", words.price(entry)), *trained]))
    return "\n\n".join([*parts, *([f"repeat:  {entry['command']}"] if "command" in entry else [])])


def _described_by(entry: Record) -> list[tuple[str, str]]:
    """What a claim says, how it is judged and why, by name."""
    said = [
        ("quote", f"“{entry['quote']}”"),
        ("statement", entry["statement"]),
        ("meaning", entry["meaning"]),
        ("kind", words.TAGS[entry["tag"]]),
        ("forecast", f"{entry['forecast']} ({words.forecast_words(entry)})"),
    ]
    if entry["conditions"]:
        said.append(("rule", words.rule(entry)))
    if entry["obstacle"]:
        said.append(("obstacle", entry["obstacle"]))
    return [*said, *(("why", reason) for reason in words.reasons(entry))]


def _condition(condition: Record) -> str:
    if not words.measured(condition):
        return f"margin {words.margin(condition)}"
    return f"{words.against_margin(condition)}; {words.outcome(condition)}"


def _arm(arm: Record) -> str:
    start = f", continues from {arm['start']}" if arm["start"] else ""
    diverged = f"; {arm['diverged']} of {len(arm['losses'])} DIVERGED" if arm["diverged"] else ""
    return f"{arm['settings'] or 'the base'}{start}; mean loss {formats.fixed(words.mean(arm['losses']))}{diverged}"


def _described(pairs: Iterable[tuple[str, str]]) -> str:
    """Names on the left, wrapped words on the right."""
    pairs = list(pairs)
    width = min(_LONGEST_NAME, max(len(name) for name, _ in pairs)) + 3
    return "\n".join(
        _wrapped(f"{name}:".ljust(width) + " " * (len(name) >= width) + said, " " * width) for name, said in pairs
    )


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, _TERMINAL_WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _terminal_table(table: Table) -> str:
    """A table whose columns run on below, so many as fit at a time."""
    lines = [list(table.headings), *map(list, table.rows)]
    fixed, blocks, begin = table.words, [], table.words
    while begin < len(table.headings):
        end = begin + 1
        while end < len(table.headings) and _fits([line[:fixed] + line[begin : end + 1] for line in lines]):
            end += 1
        blocks.append(aligned([line[:fixed] + line[begin:end] for line in lines], words=fixed))
        begin = end
    return "\n".join([table.title, *blocks])


def _fits(lines: list[list[str]]) -> bool:
    return max(map(len, aligned(lines).splitlines())) <= _TERMINAL_WIDTH


# Markdown


def overview_markdown(ledger: Record) -> str:
    """Return what the ledger says as a whole, and a row for each claim, as Markdown."""
    ledger = words.made_visible(ledger)
    blocks = ["# The ledger of claims", plain(claims_summary.INTRODUCTION)]
    for part in claims_summary.summary(ledger):
        points = "\n".join(f"- {_point(point)}" for point in part.points)
        blocks += [f"## {plain(part.title)}", points or plain(part.nothing)]
    blocks += ["## How sure, and at what price", *map(plain, claims_summary.general_sentences(ledger))]
    blocks += ["## Every claim", *map(plain, claims_summary.reading_sentences(ledger))]
    for group in claims_summary.groups(ledger):
        blocks += [f"### {plain(group.title)}", markdown_table(_group_table(group.entries))]
    return "\n\n".join(blocks) + "\n"


def _point(point: claims_summary.Point) -> str:
    where = ", ".join(filter(None, [f"[{point.claim}]({point.claim}.md)" if point.claim else "", point.remark]))
    return plain(point.text) + (f" ({where})" if where else "")


def _group_table(entries: Iterable[Record]) -> Table:
    entries = list(entries)
    headings = (
        "claim", "where", "quote", "statement", "verdict", "effect [90 % interval] against margin", "seeds",
        "p, adjusted", "forecast", "came true", "cost", "command",
    )  # fmt: skip
    cells = tuple(
        (
            entry["id"],
            entry["where"],
            f"“{entry['quote']}”",
            entry["statement"],
            words.finding(entry),
            entry["obstacle"] or "; ".join(f"{c['name']}: {_condition(c)}" for c in entry["conditions"]),
            words.seeds(entry),
            formats.p_value(entry.get("p_adjusted")),
            entry["forecast"],
            words.forecast_mark(entry),
            words.price(entry),
            entry.get("command", MISSING),
        )
        for entry in entries
    )
    links = tuple(f"{entry['id']}.md" for entry in entries)
    return Table("", headings, cells, words=12, links=links)


def claim_markdown(entry: Record, before: str | None, after: str | None) -> str:
    """Return one claim as Markdown: its words, conditions, figures, arms and command; links lead to its neighbours."""
    entry = words.made_visible(entry)
    neighbours = [f"[{claim}]({claim}.md)" for claim in (before, after) if claim]
    blocks = [
        f"# {plain(entry['id'])}: {plain(entry['statement'])}",
        " · ".join(["[all claims](README.md)", *neighbours]),
    ]
    blocks.append(f"**{plain(words.finding(entry))}** · {plain(entry['where'])}")
    blocks.append("\n".join(f"- {plain(name)}: {plain(said)}" for name, said in _described_by(entry)))
    if entry["conditions"]:
        blocks.append(_titled(rows.conditions_table(entry)))
    if "arms" in entry:
        blocks += _measured_blocks(entry)
    return "\n\n".join(blocks) + "\n"


def _measured_blocks(entry: Record) -> list[str]:
    blocks = [f"![Effects of {entry['id']} by seed]({FIGURES}/{entry['id']}.svg)", plain(CAPTIONS["effects"])]
    for number, picture in enumerate(entry["series"]):
        blocks += [
            f"**{plain(picture['title'])}**",
            f"![{plain(picture['title'])}]({FIGURES}/{entry['id']}-{number}.svg)",
        ]
    if entry["series"]:
        blocks.append(plain(CAPTIONS["series"]))
    tables = [rows.seeds_table(entry), rows.arms_table(entry), rows.losses_table(entry), *rows.further_tables(entry)]
    blocks += [_titled(table) for table in (*tables, rows.provenance_table(entry)) if table.rows]
    return [*blocks, fenced([entry["command"]])]


def _titled(table: Table) -> str:
    return f"**{plain(table.title)}**\n\n{markdown_table(table)}"
