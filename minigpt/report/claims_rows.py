"""The tables of a claim's page, in words and rounded numbers; what is said about them stands elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from minigpt.base import formats
from minigpt.base.formats import MISSING
from minigpt.report import claims_words as words
from minigpt.report.claims_words import Record
from minigpt.report.text_tables import Table


def conditions_table(entry: Record) -> Table:
    """One row a condition: what was found, and whether that is enough."""
    headings = (
        "condition", "outcome", "unit", "margin", "mean effect", "90 % interval", "median", "SD",
        "seeds", "p", "seeds to decide",
    )  # fmt: skip
    lines = tuple(_condition_row(condition) for condition in entry["conditions"])
    return Table("The conditions", headings, lines, words=3)


def _condition_row(condition: Record) -> tuple[str, ...]:
    unit = condition["unit"]
    names = (
        condition["name"],
        words.outcome(condition),
        words.unit_name(unit),
        words.value(condition["margin"], unit).removeprefix("+"),
    )
    if not words.measured(condition):
        return (*names, *[MISSING] * 7)
    return (
        *names,
        words.value(condition["mean"], unit),
        words.interval(condition),
        words.value(condition["median"], unit),
        words.value(condition["sd"], unit).removeprefix("+"),
        str(condition["n"]),
        formats.p_value(condition["p"]),
        MISSING if condition["seeds_to_decide"] is None else str(condition["seeds_to_decide"]),
    )


def seeds_table(entry: Record) -> Table:
    """One row a condition: the effect of every seed."""
    headings = ("condition", "unit", *(f"seed {seed}" for seed in entry["seeds"]))
    lines = tuple(
        (
            condition["name"],
            words.unit_name(condition["unit"]),
            *(words.value(found["effect"], condition["unit"]) for found in condition["effects"]),
        )
        for condition in entry["conditions"]
    )
    return Table("Effects, seed by seed", headings, lines, words=2)


def arms_table(entry: Record) -> Table:
    """One row an arm: what it sets, what it lost, what died in it, and the command that trains its first seed."""
    lines = tuple(
        (
            arm["name"],
            arm["settings"] or "the base",
            arm["start"] or MISSING,
            formats.fixed(words.mean(arm["losses"])),
            _range(arm["losses"]),
            formats.percent(words.mean(arm["dead"])),
            f"{arm['diverged']} DIVERGED" if arm["diverged"] else "0",
            str(len(arm["losses"])),
        )
        for arm in entry["arms"]
    )
    headings = (
        "arm", "settings over the base", "starts from", "mean loss, nats", "lowest to highest", "dead", "diverged",
        "seeds",
    )  # fmt: skip
    commands = tuple(arm["command"] for arm in entry["arms"])
    return Table("The arms, and the command of the first seed", headings, lines, words=3, commands=commands)


def losses_table(entry: Record) -> Table:
    """One row an arm: the loss of every seed, and the share of dead neurons."""
    lines = tuple((arm["name"], *map(_loss_and_dead, arm["losses"], arm["dead"])) for arm in entry["arms"])
    headings = ("arm", *(f"seed {seed}" for seed in entry["seeds"]))
    return Table("Final loss in nats, and dead neurons, of every training", headings, lines, folded=True)


def _loss_and_dead(loss: float | None, dead: float | None) -> str:
    return "DIVERGED" if loss is None else f"{formats.fixed(loss)} ({formats.percent(dead)})"


def further_tables(entry: Record) -> list[Table]:
    """The tables that a claim asks for: mean and standard deviation over seeds."""
    return [
        Table(
            table["title"],
            ("arm", *table["columns"]),
            tuple(
                (row["arm"], *(_cell(row["cells"][name], name) for name in table["columns"])) for row in table["rows"]
            ),
        )
        for table in entry["tables"]
    ]


def _cell(summary: Record, column: str) -> str:
    if summary["mean"] is None:
        return MISSING
    scale, unit = (100.0, " %") if words.is_share(column) else (1.0, "")
    spread = f" ± {scale * summary['sd']:.3g}" if summary["sd"] else ""
    missing = f" ({summary['missing']} missing)" if summary["missing"] else ""
    return f"{scale * summary['mean']:.4g}".replace("-", "−") + spread + unit + missing


def provenance_table(entry: Record) -> Table:
    """On what, and by which commit, the arms were trained."""
    made, cost = entry["provenance"], entry["cost"]
    lines = (
        *((name, words.recorded(made[name])) for name in ("commit", "torch", "processor", "accelerator")),
        ("random seeds", ", ".join(map(str, entry["seeds"]))),
        ("trainings", str(cost["cells"])),
        ("training", words.price_words(cost["training"])),
        ("measuring", words.price_words(cost["measuring"])),
    )
    return Table("Where it comes from", ("", ""), lines, words=2)


def _range(values: Sequence[float | None]) -> str:
    finite = [value for value in values if value is not None]
    return f"{formats.fixed(min(finite))} to {formats.fixed(max(finite))}" if len(finite) > 1 else MISSING
