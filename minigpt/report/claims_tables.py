"""The tables and pictures of one claim in their order, in words and rounded numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from minigpt.base import formats
from minigpt.base.formats import MISSING
from minigpt.base.tables import Column, Table, listing
from minigpt.report import claims_words as words
from minigpt.report.claims_words import Record
from minigpt.report.sections import Section

CAPTIONS = {
    "effects": (
        "Small dots: the effect of each seed, positive in the direction of the claim. Large mark and bar: their mean "
        "and its 90 % interval. Thin line: no effect. Dashed line: the margin, the smallest effect that matters; the "
        "effects in the tinted area are large enough."
    ),
    "series": (
        "Faint dots: single seeds. Lines and marks: means over seeds, bars one standard deviation each way. A cross "
        "with a number at the upper edge: that many seeds have no value, mostly because the training diverged."
    ),
}


def sections(entry: Record) -> list[Section]:
    """What is shown of a claim below its words: only its conditions if it was not run, nothing if it cannot be."""
    if not entry["conditions"]:
        return []
    if "arms" not in entry:
        return [Section("What would decide", tables=(gates_table(entry), conditions_table(entry)))]
    claim, arms = entry["id"], (arms_table(entry), losses_table(entry), *further_tables(entry))
    effects = ((claim, f"Effects of {claim} by seed"),)
    series = tuple((f"{claim}-{number}", picture["title"]) for number, picture in enumerate(entry["series"]))
    return [
        *([Section("The gates", tables=(gates_table(entry),))] if entry["gates"] else []),
        Section(
            "The effects",
            figures=effects,
            caption=CAPTIONS["effects"],
            tables=(conditions_table(entry), seeds_table(entry)),
        ),
        *([Section("In detail", figures=series, caption=CAPTIONS["series"])] if series else []),
        Section("The arms", tables=arms),
        Section("Provenance and cost", tables=(provenance_table(entry),)),
    ]


def gates_table(entry: Record) -> Table:
    """One row a gate: what must hold before the claim is judged, and what was found."""
    columns = (
        Column.name("gate", "name"),
        Column.words("kind", "kind"),
        Column.words("outcome", words.gate_outcome),
        Column.words("unit", words.unit_name),
        Column("at least", lambda gate: words.size(gate["least"], gate["unit"])),
        Column("found", lambda gate: words.value(gate.get("mean"), gate["unit"])),
        Column("lowest seed", lambda gate: words.value(_lowest(gate), gate["unit"])),
    )
    return Table("What must hold before there is a verdict", columns, entry["gates"])


def _lowest(gate: Record) -> float | None:
    known = [seed["value"] for seed in gate.get("values", ()) if seed["value"] is not None]
    return min(known, default=None)


def conditions_table(entry: Record) -> Table:
    """One row a condition: what was found, and whether that is enough."""
    columns = (
        Column.name("condition", "name"),
        Column.words("outcome", words.outcome),
        Column.words("unit", words.unit_name),
        _in_unit("margin", "margin", words.size),
        _in_unit("mean effect", "mean"),
        Column("90 % interval", words.interval),
        _in_unit("median", "median"),
        _in_unit("SD", "sd", words.size),
        Column("seeds", "n"),
        Column("p", "p", formats.p_value),
        Column("seeds to decide", "seeds_to_decide"),
    )
    return Table("The conditions", columns, entry["conditions"])


def _in_unit(title: str, key: str, show: Callable[[float | None, str], str] = words.value) -> Column:
    return Column(title, lambda condition: show(condition.get(key), condition["unit"]))


def seeds_table(entry: Record) -> Table:
    """One row a condition: the effect of every seed."""
    columns = (Column.name("condition", "name"), Column.words("unit", words.unit_name), *_by_seed(entry, _effect))
    return Table("Effects by seed", columns, entry["conditions"])


def _effect(place: int, condition: Record) -> str:
    return words.value(condition["effects"][place]["effect"], condition["unit"])


def arms_table(entry: Record) -> Table:
    """One row an arm: what it sets, what it lost, what died in it, and the command that trains its first seed."""
    columns = (
        Column.name("arm", "name"),
        Column.words("settings over the base", lambda arm: arm["settings"] or "the base"),
        Column.words("starts from", "start"),
        Column("mean loss, nats", lambda arm: mean(arm["losses"]), formats.fixed),
        Column("lowest to highest", "losses", _range),
        Column("dead on validation text", lambda arm: mean(arm["dead"]), formats.percent),
        Column("diverged", "diverged", lambda number: f"{number} DIVERGED" if number else "0"),
        Column("seeds", "losses", lambda losses: str(len(losses))),
    )
    title = "Arms, with the command of the first seed"
    return Table(title, columns, entry["arms"], command=Column("command", "command"))


def losses_table(entry: Record) -> Table:
    """One row an arm: the loss of every seed, and the share of dead neurons."""
    columns = (Column.name("arm", "name"), *_by_seed(entry, _loss_and_dead))
    return Table("Final loss in nats, and dead neurons, by seed", columns, entry["arms"], folded=True)


def _loss_and_dead(place: int, arm: Record) -> str:
    loss, dead = arm["losses"][place], arm["dead"][place]
    return "DIVERGED" if loss is None else f"{formats.fixed(loss)} ({formats.percent(dead)})"


def _by_seed(entry: Record, show: Callable[[int, Record], str]) -> list[Column]:
    """A column for each seed, which finds its value by the seed's place."""
    return [Column(f"seed {seed}", partial(show, place)) for place, seed in enumerate(entry["seeds"])]


def further_tables(entry: Record) -> list[Table]:
    """The tables that a claim asks for: mean and standard deviation over seeds."""
    return [
        Table(
            table["title"],
            (Column.name("arm", "arm"), *(Column(name, partial(_mean_and_spread, name)) for name in table["columns"])),
            table["rows"],
        )
        for table in entry["tables"]
    ]


def _mean_and_spread(column: str, row: Record) -> str:
    cell = row["cells"][column]
    if cell["mean"] is None:
        return MISSING
    scale, unit = (100.0, " %") if words.is_share(column) else (1.0, "")
    missing = f" ({cell['missing']} missing)" if cell["missing"] else ""
    return formats.with_deviation(scale * cell["mean"], scale * (cell["sd"] or 0.0), unit) + missing


def provenance_table(entry: Record) -> Table:
    """On what, and by which commit, the arms were trained."""
    made, cost = entry["provenance"], entry["cost"]
    pairs: list[tuple[str, Any]] = [
        *((name, words.recorded(found)) for name, found in made.items()),
        ("random seeds", ", ".join(map(str, entry["seeds"]))),
        ("trainings", cost["cells"]),
        ("training", words.core_seconds(cost["training"])),
        ("measuring", words.core_seconds(cost["measuring"])),
    ]
    return listing("The trainings behind this verdict", pairs)


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of what exists."""
    finite = [value for value in values if value is not None]
    return fmean(finite) if finite else None


def _range(values: Sequence[float | None]) -> str:
    finite = [value for value in values if value is not None]
    return formats.value_range(min(finite), max(finite)) if len(finite) > 1 else MISSING
