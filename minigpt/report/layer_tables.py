"""The tables of a run's page: the health of each layer with what each column means, and the same figures as CSV.

A layer is a record as `neurons.json` or an evaluation in the log has it; what a record lacks is `None` here and "–" on
the page. Formats and explains; measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from minigpt.base.formats import count, fixed, percent, rate
from minigpt.report.figures import Record

# Lists of points in a layer's record, each with its coordinates.
CURVES = {
    "never_versus_tokens": ("tokens", "never"),
    "contribution_curve": ("share_of_neurons", "share_of_contribution"),
    "dormancy_curve": ("tau", "fraction"),
}


@dataclass(frozen=True)
class Column:
    """One figure of every layer; `key` leads into nested records by slashes."""

    key: str
    title: str
    meaning: str
    show: Callable[[float | None], str] = percent

    def cell(self, record: Record) -> str:
        """What stands in this column for one layer."""
        return self.show(lookup(record, self.key))


@dataclass(frozen=True)
class Table:
    """Columns that answer one question."""

    question: str
    columns: tuple[Column, ...]


HEALTH = (
    Table(
        "Dead, and how sure is that?",
        (
            Column("dead_fraction", "dead", "h was exactly 0 on every token"),
            Column(
                "dead_upper_one",
                "bound, one neuron",
                "a neuron picked in advance and seen silent may still fire this often: more often, and it would "
                "have been seen (at 95 %)",
                rate,
            ),
            Column("dead_upper", "bound, layer", "the same for all neurons of the layer at once", rate),
            Column(
                "dead_upper_sequences",
                "bound, sequences",
                "the same with whole sequences counted instead of tokens, because neighbouring tokens resemble each "
                "other: the share of sequences in which it may fire",
                rate,
            ),
            Column(
                "certified_dead_fraction",
                "proven dead",
                "silent whatever the input: the weights alone prove it, since normalisation limits what can arrive",
            ),
            Column(
                "never_positive_fraction",
                "never open",
                "z ≤ 0 on every token; for a smooth activation a closed gate, not death",
            ),
        ),
    ),
    Table(
        "How many neurons?",
        (
            Column("verdicts/certified", "certified", "dead, and proven to be by the weights", count),
            Column("verdicts/dead", "dead", "silent on every token looked at, but not proven", count),
            Column("verdicts/rare", "rare", "fire, but on fewer than one token in 10,000", count),
            Column("verdicts/alive", "alive", "fire more often than that", count),
            Column("chao1/never", "fired never", "as counted: both kinds of dead", count),
            Column("chao1/once", "once", "fired on exactly one token", count),
            Column("chao1/twice", "twice", "fired on exactly two tokens", count),
            Column(
                "chao1/truly_dead",
                "truly dead, estimated",
                "those that never fired less those that more text would wake, guessed from how many fired only once "
                "or twice (Chao1)",
                count,
            ),
        ),
    ),
    Table(
        "Alive, but at work?",
        (
            Column(
                "density",
                "h ≠ 0",
                "mean share of tokens on which a neuron is not zero; the rest is sparsity, not death",
            ),
            Column("rare_fraction", "rare", "fires, but on fewer than one token in 10,000"),
            Column("always_fraction", "always", "not zero on every token"),
            Column("dormant_fraction/0", "dormant 0", "mean |h| is zero"),
            Column("dormant_fraction/0.025", "dormant 0.025", "mean |h| is at most 2.5 % of the layer's"),
            Column("dormant_fraction/0.1", "dormant 0.1", "mean |h| is at most 10 % of the layer's"),
            Column(
                "inert_fraction",
                "inert",
                "what it writes varies by at most 2.5 % of the layer's mean; compare activations by this",
            ),
            Column(
                "effective_width",
                "effective width",
                "so many neurons of equal strength would spread the contribution as evenly",
                lambda value: fixed(value, 1),
            ),
        ),
    ),
    Table(
        "Stuck?",
        (
            Column("saturated_fraction", "saturated", "on the flat part of the activation on at least 99 % of tokens"),
            Column("linear_fraction", "linear", "on a straight part: the slope hardly varies over the tokens"),
            Column("saturated_and_linear_fraction", "both", "saturated and linear: flat throughout"),
            Column(
                "trapped_fraction", "trapped", "no gradient reaches its incoming weights, so training cannot move it"
            ),
        ),
    ),
)

EXPENDABLE = Table(
    "Expendable",
    (
        Column(
            "expendable_fraction",
            "expendable",
            "the largest set of least contributing neurons that can all be held at their means for at most 1 % more "
            "perplexity",
        ),
        Column("expendable_random/mean", "of random ones", "the same with neurons drawn at random, on average"),
        Column("expendable_random/low", "lowest", "the lowest of the random draws"),
        Column("expendable_random/high", "highest", "the highest of the random draws"),
    ),
)


def lookup(record: Record, key: str) -> Any:
    """The value at a path such as `chao1/never`; None if any part of it is missing or null."""
    value: Any = record
    for part in key.split("/"):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def known_columns(layers: list[Record]) -> tuple[Table, ...]:
    """The tables without the columns that no layer has a figure for."""
    tables = []
    for table in HEALTH:
        known = [column for column in table.columns if any(lookup(layer, column.key) is not None for layer in layers)]
        if known:
            tables.append(Table(table.question, tuple(known)))
    return tuple(tables)


def verdict(neurons: Record) -> str | None:
    """What was found, in one sentence; None if the neurons were not judged one by one."""
    layers = neurons["layers"]
    counts = [layer.get("verdicts") for layer in layers]
    if None in counts:
        return None
    certified, dead, rare = (sum(verdicts[kind] for verdicts in counts) for kind in ("certified", "dead", "rare"))
    never, neurons_in_all = certified + dead, sum(layer["neurons"] for layer in layers)
    parts = [f"{never:,} of {neurons_in_all:,} neurons never fired on {neurons['tokens']:,} tokens"]
    if never:
        parts.append(f"of these proven dead by the weights: {certified:,}")
        estimates = [lookup(layer, "chao1/truly_dead") for layer in layers]
        if None not in estimates:
            parts.append(f"truly dead by estimate: {sum(estimates):,.0f}")
    return "; ".join([*parts, f"others that fire rarely: {rare:,}"]) + "."


def undefined_reasons(layers: list[Record]) -> list[tuple[str, str, str]]:
    """(title of the column, layers, why) for every figure that a layer's activation leaves undefined."""
    titles = {column.key: column.title for table in (*HEALTH, EXPENDABLE) for column in table.columns}
    concerned: dict[tuple[str, str], list[int]] = {}
    for layer in layers:
        for key, why in (layer.get("undefined") or {}).items():
            concerned.setdefault((key, why), []).append(layer["layer"])
    return [(titles.get(key, key), ranges(numbers), why) for (key, why), numbers in concerned.items()]


def ranges(numbers: list[int]) -> str:
    """Ascending whole numbers in words, neighbours joined: `0–2, 5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def layer_rows(layers: list[Record]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of a CSV with every single figure of every layer."""
    flat = [dict(_single_figures(layer)) for layer in layers]
    header = list(dict.fromkeys(key for row in flat for key in row))
    return header, [[row.get(key) for key in header] for row in flat]


def _single_figures(record: Record, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, dict) and key != "undefined":
            yield from _single_figures(value, f"{prefix}{key}/")
        elif not isinstance(value, dict | list):
            yield prefix + key, value


def curve_rows(layers: list[Record]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of a CSV with every point of every curve of every layer."""
    rows = []
    for layer in layers:
        for curve, (x, y) in CURVES.items():
            rows += [[layer["layer"], curve, point[x], point[y]] for point in layer.get(curve) or []]
        histogram = layer.get("firing_rate_histogram")
        if histogram:
            lower = histogram["log10_edges"]  # one more than there are counts
            pairs = zip(lower, histogram["counts"], strict=False)
            rows += [[layer["layer"], "firing_rates_from_log10", edge, number] for edge, number in pairs]
    return ["layer", "curve", "x", "y"], rows
