"""The ledger as text: a short list and a single claim for the terminal, an overview and each claim as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minigpt.base import formats
from minigpt.base.formats import MISSING
from minigpt.base.tables import Column, Table, fenced, listing, plain, terminal_width, wrapped
from minigpt.report import claims_summary as summary
from minigpt.report import claims_tables as tables
from minigpt.report import claims_words as words
from minigpt.report.claims_words import Record

_LONGEST_EFFECT = 50
_LEAST_STATEMENT = 20
_LEGEND = "effect: of the deciding condition, if there are several; ✓✗: whether the forecast came true"

# Terminal


def terminal_list(ledger: Record, width: int | None = None) -> str:
    """Return a line for each claim: verdict or status, effect against margin, forecast, statement cut to the width."""
    width = width or terminal_width()
    entries = words.made_visible(ledger["claims"])
    columns = (
        Column.name("claim", "id"),
        Column.words("verdict", words.finding),
        Column.words("effect [90 %] vs margin", _deciding_effect),
        Column.words("✓✗", words.forecast_mark),
    )
    taken = max(map(len, Table("", columns, entries).terminal(10 * width).splitlines()))
    room = max(_LEAST_STATEMENT, width - taken - 2)
    statement = Column.words("statement", "statement", lambda text: _cut(text, room))
    found = ", ".join(f"{number} {name}" for name, number in summary.counts({"claims": entries}))
    notes = (_LEGEND, f"{found}. {summary.forecasts_sentence({'claims': entries})}")
    return Table("", (*columns, statement), entries, notes).terminal(width)


def _deciding_effect(entry: Record) -> str:
    """The effect of the condition that decides, and of how many it is one."""
    condition = words.deciding(entry)
    if condition is None:
        return MISSING
    others = f", 1 of {len(entry['conditions'])}" if len(entry["conditions"]) > 1 else ""
    return _cut(f"{words.effect(condition)} vs {words.margin(condition)}", _LONGEST_EFFECT - len(others)) + others


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def terminal_claim(entry: Record, width: int | None = None) -> str:
    """Return all about one claim, wrapped to the terminal."""
    width = width or terminal_width()
    entry = words.made_visible(entry)
    heading = f"{entry['id']}  {words.finding(entry)}  ({entry['where']}, {entry['family']} family)"
    shown = [listing("", _described(entry))]
    if headline := words.headline(entry):
        shown.insert(0, listing("", [("found", headline[0])]))
    if entry["gates"]:
        shown.append(tables.gates_table(entry))
    if entry["conditions"]:
        found = (Column.words("", "name"), Column.words("", words.comparison))
        shown.append(Table("Conditions", found, entry["conditions"]))
    if "arms" in entry:
        arms = (Column.name("", "name"), Column.words("", _arm))
        shown += [tables.seeds_table(entry), tables.losses_table(entry), Table("Arms", arms, entry["arms"])]
        shown += [*tables.further_tables(entry), listing("", _made(entry))]
    texts = [wrapped(heading, width), *(table.terminal(width) for table in shown)]
    return "\n\n".join([*texts, *([f"repeat  {entry['command']}"] if "command" in entry else [])])


def _described(entry: Record) -> list[tuple[str, str]]:
    """What a claim says, how it is judged and why, by name."""
    said = [
        ("quote", f"“{entry['quote']}”"),
        ("statement", entry["statement"]),
        ("meaning", entry["meaning"]),
        ("kind", words.TAGS[entry["tag"]]),
        ("forecast", f"{entry['forecast']} ({words.forecast_outcome(entry)})"),
    ]
    if entry["conditions"]:
        said.append(("rule", words.rule(entry)))
    if entry["obstacle"]:
        said.append(("obstacle", entry["obstacle"]))
    return [*said, *(("why", reason) for reason in words.reasons(entry))]


def _made(entry: Record) -> list[tuple[str, str]]:
    made = entry["provenance"]
    machine = made["processor"] if made["accelerator"] == ["None"] else made["accelerator"]
    trained_by = f"{words.recorded(made['commit'])} on {words.recorded(machine)}"
    return [("cost", words.cost(entry)), ("trained by", trained_by)]


def _arm(arm: Record) -> str:
    start = f", continues from {arm['start']}" if arm["start"] else ""
    diverged = f"; {arm['diverged']} of {len(arm['losses'])} DIVERGED" if arm["diverged"] else ""
    return f"{arm['settings'] or 'the base'}{start}; mean loss {formats.fixed(tables.mean(arm['losses']))}{diverged}"


# Markdown


def overview_markdown(ledger: Record) -> str:
    """Return what the ledger says as a whole, and a row for each claim, as Markdown."""
    ledger = words.made_visible(ledger)
    blocks = ["# The ledger of claims", plain(summary.INTRODUCTION)]
    for part in summary.parts(ledger):
        points = "\n".join(f"- {_point(point)}" for point in part.points)
        blocks += [f"## {plain(part.title)}", points or plain(part.nothing)]
    blocks += [f"## {plain(summary.GENERAL)}", *map(plain, summary.general_sentences(ledger))]
    blocks += ["## Every claim", *map(plain, summary.reading_sentences(ledger))]
    for group in summary.groups(ledger):
        blocks += [f"### {plain(group.title)}", plain(group.note), _overview_table(group.entries).markdown()]
    return "\n\n".join(blocks) + "\n"


def _point(point: summary.Point) -> str:
    where = ", ".join(filter(None, [point.claim and _link(point.claim), point.remark]))
    return plain(point.text) + (f" ({where})" if where else "")


def _link(claim: str, label: str = "") -> str:
    return f"[{label or claim}]({claim}.md)"


def _overview_table(entries: Sequence[Record]) -> Table:
    columns = (
        Column.name("claim", "id"),
        Column.words("where", "where"),
        Column.words("quote", lambda entry: f"“{entry['quote']}”"),
        Column.words("statement", "statement"),
        Column.words("verdict", words.finding),
        Column.words("effect [90 % interval] against margin", _all_effects),
        Column.words("seeds", words.seeds),
        Column.words("p, adjusted", "p_adjusted", formats.p_value),
        Column.words("forecast", "forecast"),
        Column.words("came true", words.forecast_mark),
        Column.words("cost", words.cost),
        Column.words("command", "command"),
    )
    return Table("", columns, entries, link=lambda entry: f"{entry['id']}.md")


def _all_effects(entry: Record) -> str:
    found = (f"{condition['name']}: {words.comparison(condition)}" for condition in entry["conditions"])
    return str(entry["obstacle"] or "; ".join(found))


def claim_markdown(entry: Record, neighbours: Mapping[str, str]) -> str:
    """Return one claim as Markdown: its words, figures, tables and command; labelled links lead to its neighbours."""
    entry = words.made_visible(entry)
    blocks = [f"# {plain(entry['id'])}: {plain(entry['statement'])}"]
    blocks.append(
        " · ".join(["[all claims](README.md)", *(_link(claim, label) for label, claim in neighbours.items())])
    )
    blocks.append(f"**{plain(words.finding(entry))}** · {plain(entry['where'])}")
    if headline := words.headline(entry):
        blocks.insert(1, plain(headline[0]))
    said = [(name, said) for name, said in _described(entry) if name != "statement"]
    blocks.append("\n".join(f"- {plain(name)}: {plain(said)}" for name, said in said))
    for section in tables.sections(entry):
        blocks += section.markdown()
    if "command" in entry:
        blocks += ["## To repeat it", words.REPEAT, fenced([entry["command"]])]
    return "\n\n".join(blocks) + "\n"
