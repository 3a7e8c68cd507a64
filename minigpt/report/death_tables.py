"""When neurons died: the dead share of every layer over the steps, and deaths, revivals and re-deaths from the log.

Read from the records of `metrics.jsonl` alone, which stays the place of every single event: the page shows some of many
evaluations and joins steps into intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from minigpt.base.formats import hundredths
from minigpt.base.tables import Column, Table, ragged_csv
from minigpt.report.figures import Record

MAX_STEPS = 16
MAX_ROWS = 500
MAX_INTERVALS = 6
DIED, REVIVED, RECYCLED = "neurons_died", "neurons_revived", "neurons_recycled"
_LEVELS = 8

T = TypeVar("T")


@dataclass(frozen=True)
class Shade:
    """One cell of the heatmap: its text, and how dark it is (0: no neuron is dead)."""

    text: str
    level: int


@dataclass(frozen=True)
class Heatmap:
    """Dead share by layer (rows) and step (columns); `evaluations` counts those in the log."""

    steps: list[int]
    rows: list[list[Shade]]
    evaluations: int


@dataclass
class Tally:
    """What happened to the neurons of one layer within some steps."""

    died: int = 0
    again: int = 0
    revived: int = 0

    def add(self, event: Record) -> None:
        """Count one event record."""
        if event["event"] == REVIVED:
            self.revived += len(event["neurons"])
        else:
            self.died += len(event["neurons"])
            self.again += len(event.get("again") or [])


@dataclass(frozen=True)
class LifeRow:
    """One layer of the life table; `dead` are the neurons that are dead at the end of the log."""

    layer: int
    total: Tally = field(default_factory=Tally)
    intervals: list[Tally] = field(default_factory=list)
    dead: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class LifeTable:
    """Deaths and revivals by layer and interval; `ends` are the last steps of the intervals."""

    ends: list[int]
    rows: list[LifeRow]
    recycled: int


def dead_heatmap(evaluations: list[Record]) -> Heatmap | None:
    """The dead share of every layer at a selection of evaluations, the first and the last among them; None if none."""
    if not evaluations:
        return None
    shown = evenly_picked(evaluations, MAX_STEPS)
    layers = range(len(shown[-1]["layers"]))
    rows = [[_shade(record["layers"][layer].get("dead_fraction")) for record in shown] for layer in layers]
    return Heatmap([record["step"] for record in shown], rows, len(evaluations))


def evenly_picked(found: Sequence[T], limit: int) -> list[T]:
    """At most `limit` of several things, the first and the last among them."""
    last = len(found) - 1
    return [found[index] for index in sorted({round(part * last / (limit - 1)) for part in range(limit)}) if found]


def _shade(share: float | None) -> Shade:
    if not share:
        return Shade("0" if share == 0 else hundredths(share), 0)
    return Shade(
        hundredths(share), 1 + min(_LEVELS - 1, int(_LEVELS * share**0.5))
    )  # the root keeps small shares apart


def evaluations_csv(evaluations: list[Record]) -> str:
    """The evaluations in the log as CSV, or some of very many."""
    layers = len(evaluations[-1]["layers"]) if evaluations else 0
    figures = ("step", "split", "tokens", "loss", "perplexity", "bits_per_byte", "dead_fraction")
    columns = [Column(key, key) for key in figures]
    columns += [Column(f"dead_fraction/{layer}", partial(_dead_fraction, layer)) for layer in range(layers)]
    return Table("Evaluations", tuple(columns), evenly_picked(evaluations, MAX_ROWS)).csv()


def _dead_fraction(layer: int, record: Record) -> float | None:
    share: float | None = record["layers"][layer].get("dead_fraction")
    return share


def life_events(records: list[Record]) -> list[Record]:
    """The records that say which neurons died, revived or were recycled, in their order."""
    told = (DIED, REVIVED, RECYCLED)
    return [record for record in records if record["kind"] == "event" and record.get("event") in told]


def touched(event: Record) -> Iterable[tuple[int, list[int]]]:
    """The neurons that an event is about, by layer."""
    return enumerate(event["neurons"]) if event["event"] == RECYCLED else [(event["layer"], event["neurons"])]


def watched(records: list[Record]) -> bool:
    """Whether the training looked for deaths at all; without that, no event means nothing."""
    return any("trapped" in record for record in records if record["kind"] == "train") or bool(life_events(records))


def life_table(records: list[Record]) -> LifeTable | None:
    """Count deaths, re-deaths and revivals of every layer between evaluations; None if none was logged."""
    events = life_events(records)
    if not events:
        return None
    ends = _interval_ends(records)
    rows = [LifeRow(layer, intervals=[Tally() for _ in ends]) for layer in range(_layers(records))]
    recycled = 0
    for event in events:
        for layer, neurons in touched(event):
            if layer < len(rows):
                (rows[layer].dead.update if event["event"] == DIED else rows[layer].dead.difference_update)(neurons)
        if event["event"] == RECYCLED:  # a neuron with new weights is not dead any more, and did not revive either
            recycled += sum(event["counts"])
            continue
        interval = next(index for index, end in enumerate(ends) if event["step"] <= end)
        rows[event["layer"]].total.add(event)
        rows[event["layer"]].intervals[interval].add(event)
    return LifeTable(ends, rows, recycled)


def _interval_ends(records: list[Record]) -> list[int]:
    """Where to end intervals: at evaluations, which see deaths, and at the end of the log."""
    last = max(record.get("step", 0) for record in records)
    evaluated = [record for record in records if record["kind"] == "eval" and 0 < record["step"] < last]
    return sorted({*(record["step"] for record in evenly_picked(evaluated, MAX_INTERVALS - 1)), last})


def _layers(records: list[Record]) -> int:
    """How many layers the records speak of."""
    listed = [len(record["layers"]) for record in records if record["kind"] == "eval"]
    return max([*listed, *(int(event["layer"]) + 1 for event in life_events(records) if "layer" in event)])


def shown_life(life: LifeTable) -> Table:
    """The life table as a page shows it: died (of these again) / revived."""
    columns = [Column(label, partial(_interval, k)) for k, label in enumerate(interval_labels(life.ends))]
    return Table(
        "Deaths and revivals by layer and step",
        (
            Column.name("steps", lambda row: f"layer {row.layer}"),
            *columns,
            Column("in all", "total", _tally),
            Column("dead at the end", lambda row: len(row.dead)),
        ),
        life.rows,
    )


def _interval(number: int, row: LifeRow) -> str:
    return _tally(row.intervals[number])


def _tally(tally: Tally) -> str:
    if not tally.died and not tally.revived:
        return "·"
    return f"{tally.died}{f' ({tally.again})' if tally.again else ''} / {tally.revived}"


def life_csv(life: LifeTable) -> str:
    """The life table as CSV, one row for each layer and interval."""
    return ragged_csv(
        {
            "layer": row.layer,
            "up_to_step": end,
            "died": tally.died,
            "of_these_again": tally.again,
            "revived": tally.revived,
        }
        for row in life.rows
        for end, tally in zip(life.ends, row.intervals, strict=True)
    )


def interval_labels(ends: list[int]) -> list[str]:
    """`1–100`, `101–200` and so on."""
    starts = [0, *(end + 1 for end in ends[:-1])]
    return [f"{start:,}–{end:,}" if start < end else f"{end:,}" for start, end in zip(starts, ends, strict=True)]
