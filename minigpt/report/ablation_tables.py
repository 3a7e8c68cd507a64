"""The tables of an ablation in words and rounded numbers, for its page, its Markdown and the terminal.

What is said about them is in `ablation_contents`; full precision is in the CSV files of `ablation_texts`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from minigpt.base import formats
from minigpt.base.formats import MISSING
from minigpt.base.health_columns import ABLATION, BY_KEY, TRUSTED_TOKENS, figures
from minigpt.base.tables import Column, Table, listing, lookup
from minigpt.report.breadcrumbs import PAGE
from minigpt.report.death_tables import evenly_picked

Record = dict[str, Any]
WARNING = "⚠"
SHARES = {figure.key.partition("/")[0]: figure.title for figure in figures(ABLATION) if figure.show is formats.percent}
"""Titles of the shares of every layer by their key in an analysis, which has one threshold of dormancy."""
_CURVE_COLUMNS = 6
_RELATIVE_PATH = re.compile(r"(\.\./)*\w[\w.-]*(/\w[\w.-]*)*")  # nothing else is made a link, whatever the file says
_ARM = Column.name("arm", "arm")


def ordered(comparisons: Iterable[Record]) -> list[Record]:
    """Comparisons from the best arm to the worst; those without a mean come last."""
    return sorted(comparisons, key=lambda pair: (pair["mean"] is None, pair["mean"] or 0.0))


def comparison_name(pair: Record) -> str:
    """Which arm is compared with which."""
    return f"{pair['arm']} − {pair['reference']}"


def few_tokens(analysis: Record) -> bool:
    """Whether a figure on neurons rests on fewer tokens than can be trusted."""
    return any(_are_few(layer) for arm in analysis["arms"] for layer in arm["layers"])


def _are_few(layer: Record) -> bool:
    return layer["tokens"] is not None and layer["tokens"] < TRUSTED_TOKENS


def final_loss_bounds(analysis: Record) -> tuple[Record, Record] | None:
    """The arm with the lowest and the arm with the highest mean loss."""
    arms = [arm for arm in analysis["arms"] if arm["loss"] is not None and math.isfinite(arm["loss"]["mean"])]
    ranked = sorted(arms, key=lambda arm: arm["loss"]["mean"])
    return (ranked[0], ranked[-1]) if ranked else None


# The ranking


def ranking_table(analysis: Record) -> Table:
    """The arms from the lowest mean loss to the highest, each with its verdict against its reference."""
    ranked = sorted(analysis["arms"], key=lambda arm: math.inf if arm["loss"] is None else arm["loss"]["mean"])
    verdicts: dict[str, list[str]] = {}
    for pair in analysis["comparisons"]:
        verdicts.setdefault(pair["arm"], []).append(_against(pair))
    columns = (
        Column("rank", "rank"),
        Column.words("arm", "name"),
        Column("loss, nats", "loss", _mean_loss),
        Column("perplexity", "perplexity", formats.perplexity),
        Column("dead neurons", "dead_fraction", formats.mean_percent),
        Column.words("verdict", lambda arm: "; ".join(verdicts.get(arm["name"], ["the reference"] * arm["reference"]))),
    )
    rows = [{"rank": str(place), **arm} for place, arm in enumerate(ranked, start=1)]
    return Table("The arms, from the lowest loss to the highest", columns, rows)


def _against(pair: Record) -> str:
    if pair["mean"] is None:
        return f"{pair['verdict']} ({pair['reference']})"
    return f"{pair['verdict']}, {formats.signed(pair['mean'])} against {pair['reference']}"


# Comparisons


def comparisons_table(analysis: Record) -> Table:
    """One row a comparison: effect, interval, tests, verdict, and below it the reason."""
    columns = (
        _ARM,
        Column.name("reference", "reference"),
        Column.name("verdict", "verdict"),
        Column("pairs", "n"),
        Column("mean, nats", "mean", formats.signed),
        Column("95 % interval", _interval),
        Column("in perplexity", "mean", formats.perplexity_change),
        Column("p (Holm)", lambda pair: _with_holm(pair["p_t"], pair["p_t_holm"])),
        Column("p, sign flip", "p_sign_flip", formats.p_value),
        Column("p, TOST (Holm)", lambda pair: _with_holm(pair["p_tost"], pair["p_tost_holm"])),
        SEEDS_TO_DECIDE,
    )
    return Table("The comparisons", columns, ordered(analysis["comparisons"]), reason=Column("why", "reason"))


def _about(seeds: int | None) -> str:
    return MISSING if seeds is None else f"about {seeds}"


SEEDS_TO_DECIDE = Column("seeds to decide", "seeds_to_decide", _about)


def _interval(pair: Record) -> str:
    return formats.interval(pair["low"], pair["high"])


def _with_holm(p: float | None, adjusted: float | None) -> str:
    return MISSING if p is None else f"{formats.p_value(p)} ({formats.p_value(adjusted)})"


def finding_columns() -> tuple[Column, ...]:
    """What a terminal shows of a comparison."""

    def difference(pair: Record) -> str:
        return formats.signed(pair["mean"]) + ("" if pair["low"] is None else f" {_interval(pair)}")

    return (Column("difference, 95 %", difference), Column("verdict", "verdict"), SEEDS_TO_DECIDE)


# Arms and layers


def arms_table(analysis: Record) -> Table:
    """One row an arm: loss and perplexity beside the dead, dormant and inert fractions of its layers."""
    columns = (
        *arm_columns(),
        Column("bits/byte", "bits_per_byte", lambda value: formats.fixed(value, 3)),
        *(by_layer(key) for key in ("dead_fraction", "dormant_fraction", "inert_fraction")),
    )
    return Table("The arms: perplexity, and the neurons of each layer", columns, analysis["arms"])


def arm_columns() -> tuple[Column, ...]:
    """Which arm it is, how many cells its figures rest on, what it lost."""
    return (
        Column.name("arm", lambda arm: f"{arm['name']} (reference)" if arm["reference"] else arm["name"]),
        Column("seeds", _seeds),
        Column("loss, nats", "loss", _mean_loss),
        Column("perplexity", "perplexity", formats.perplexity),
    )


def _seeds(arm: Record) -> str:
    """How many cells the figures of an arm rest on, and what became of the others."""
    others = [f"{arm[state]} {state}" for state in ("diverged", "pending") if arm[state]]
    return f"{arm['finished']} ({', '.join(others)})" if others else str(arm["finished"])


def _mean_loss(loss: Record | None) -> str:
    return MISSING if loss is None else formats.with_half_width(loss["mean"], loss["low"], loss["high"])


def by_layer(key: str) -> Column:
    """The mean of a share in every layer, with a mark if it rests on few tokens."""

    def shares(arm: Record) -> str:
        written = formats.percents([lookup(layer, f"{key}/mean") for layer in arm["layers"]])
        return f"{WARNING} {written}" if any(map(_are_few, arm["layers"])) else written

    return Column(f"{key.removesuffix('_fraction')}, by layer", shares)


def layers_table(analysis: Record) -> Table:
    """One row an arm and layer: every share with its extremes over the seeds."""
    columns = (
        _ARM,
        Column.name("activation", "activation"),
        Column("layer", "layer"),
        Column("neurons", "neurons", formats.whole),
        *(Column(title, key, formats.spread_percent) for key, title in SHARES.items()),
        BY_KEY["dead_upper"].column(),
        Column("tokens counted", lambda layer: f"{WARNING} " * _are_few(layer) + formats.whole(layer["tokens"])),
    )
    layers = [{"arm": arm["name"], **layer} for arm in analysis["arms"] for layer in arm["layers"]]
    return Table("Every layer, with the extremes over seeds", columns, layers, folded=True)


# Losses over steps and learning rates


def curves_table(analysis: Record) -> Table:
    """The loss of every arm at some steps, the first and the last among them."""
    steps = sorted({point["step"] for arm in analysis["arms"] for point in arm["curve"]})
    chosen = evenly_picked(steps, _CURVE_COLUMNS)
    columns = (_ARM, *(Column(f"step {step:,}", itemgetter(step), _curve_point) for step in chosen))
    arms = [
        {"arm": arm["name"]} | dict.fromkeys(steps) | {point["step"]: point for point in arm["curve"]}
        for arm in analysis["arms"]
    ]
    return Table("Loss in nats: mean, and lowest to highest seed", columns, arms, folded=True)


def _curve_point(point: Record | None) -> str:
    if point is None or point["mean"] is None:
        return MISSING
    spread = "" if point["low"] is None else f" ({formats.value_range(point['low'], point['high'], 3)})"
    return formats.fixed(point["mean"], 3) + spread


def sensitivity_table(analysis: Record) -> Table:
    """One row an arm and learning rate."""
    columns = (
        _ARM,
        Column("learning rate", "lr"),
        Column("seeds", "n"),
        Column("mean loss, nats", "mean", formats.fixed),
        Column("lowest to highest", lambda point: formats.value_range(point["low"], point["high"])),
        Column("diverged", "diverged"),
        Column.words("choice", lambda point: "chosen" if point["chosen"] else ""),
    )
    return Table("Loss at every learning rate", columns, analysis["sensitivity"], folded=True)


def power_table(power: Record) -> Table:
    """The chance that a true effect is found, for numbers of seeds and sizes of effect."""

    def chance(share: float | None) -> str:
        return MISSING if share is None else f"{100 * share:.0f} %"

    effects = [f"{formats.short(effect)} SD ({_nats(effect, power['paired_sd'])})" for effect in power["effects_sd"]]
    columns = [Column(effect, itemgetter(k), chance) for k, effect in enumerate(effects, start=1)]
    rows = [(seeds, *chances) for seeds, chances in zip(power["seeds"], power["power"], strict=True)]
    title = "Power: the chance of finding a true effect of this size"
    return Table(title, (Column.name("seeds", itemgetter(0)), *columns), rows)


def _nats(effect_sd: float, paired_sd: float | None) -> str:
    return MISSING if paired_sd is None else f"{formats.fixed(effect_sd * paired_sd)} nats"


# What arms were given, and every cell


def fairness_table(analysis: Record) -> Table:
    """What every arm was given, and what it cost."""
    baseline = next((arm["fairness"]["parameters"] for arm in analysis["arms"] if arm["reference"]), None)
    columns = (
        _ARM,
        Column("parameters", "parameters", lambda number: formats.whole(number) + _relative(number, baseline)),
        Column("neurons a layer", "d_ff", _widths),
        Column("FLOPs/token", "flops_per_token", formats.scaled),
        Column("steps", "steps", formats.whole),
        Column("tokens", "tokens", formats.whole),
        Column.words("same windows", "same_windows", lambda same: {True: "yes", False: "NO"}.get(same, MISSING)),
        Column.words("same start", "same_start"),
        Column("time a step", "seconds_per_step", formats.milliseconds),
        Column("peak memory", "peak_memory_bytes", lambda size: formats.scaled(size, "B")),
        Column("time in all", "seconds", formats.duration),
    )
    costs = analysis["cost"]["arms"]
    arms = [{"arm": arm["name"], **costs.get(arm["name"], {}), **arm["fairness"]} for arm in analysis["arms"]]
    return Table("What each arm was given, and what it cost", columns, arms)


def _relative(parameters: int | None, baseline: int | None) -> str:
    if not baseline or not parameters or parameters == baseline:
        return ""
    return f" ({formats.signed(100 * (parameters / baseline - 1), 2)} %)"


def _widths(d_ff: Sequence[int] | None) -> str:
    if not d_ff:
        return MISSING
    return str(d_ff[0]) if len(set(d_ff)) == 1 else ", ".join(map(str, d_ff))


def cells_table(analysis: Record) -> Table:
    """One row a training, with its command line below it."""
    purposes = {"main": "result", "tune": "tuning"}
    columns = (
        Column.name("cell", "id"),
        _ARM,
        Column.name("status", "status", lambda status: status.upper() if status == "diverged" else status),
        Column.name("purpose", "purpose", lambda purpose: purposes.get(purpose, purpose)),
        Column("seed", "seed"),
        Column("lr", "lr"),
        Column("steps", "steps", formats.whole),
        Column("loss, nats", "loss", formats.fixed),
        Column("perplexity", "perplexity", formats.perplexity),
        Column("dead", "dead_fraction", formats.percent),
        Column("dormant", "dormant_fraction", formats.percent),
        Column("inert", "inert_fraction", formats.percent),
    )
    title = "Every training, and the command that repeats it"
    return Table(title, columns, analysis["cells"], link=_link, command=Column("command", "command"))


def _link(cell: Record) -> str | None:
    """On a page to the training's page, if it has one; in Markdown to its folder."""
    path, page = cell["directory"].rstrip("/"), cell.get("page")
    if page is False or not _RELATIVE_PATH.fullmatch(path):
        return None
    return f"{path}/{PAGE if page else ''}"


def stale_table(analysis: Record) -> Table:
    """Trainings that another version of the training code left."""
    columns = (
        Column.name("cell", "id"),
        _ARM,
        Column.name("training code", "code", lambda code: formats.setting(code)[:12]),
        Column("seed", "seed"),
    )
    return Table("Stale trainings, not used", columns, analysis["stale"])


# Settings and provenance


def settings_table(analysis: Record) -> Table:
    """What was varied, and what all arms share."""
    varied = [(flag, ", ".join(map(formats.setting, values)), "varied") for flag, values in analysis["factors"].items()]
    shared = [(flag, formats.setting(value), "all arms") for flag, value in analysis["base"].items()]
    columns = (
        Column.name("flag", itemgetter(0)),
        Column.words("value", itemgetter(1)),
        Column.words("where", itemgetter(2)),
    )
    return Table("Settings that differ from the defaults", columns, (*varied, *shared))


def provenance_table(analysis: Record) -> Table:
    """On what text, with what code, on what machine."""
    corpus, made = analysis["corpus"], analysis["provenance"]
    changed = "" if not made["dirty"] else " with uncommitted changes"
    part = {"all": "the whole validation part"}.get(corpus["eval_part"], f"{corpus['eval_part']} half")
    machine = ("torch", "processor", "accelerator", "platform", "threads")
    pairs = (
        ("corpus", f"{corpus['name']}, {corpus['tokenizer']}"),
        ("corpus, SHA-256", corpus["sha256"]),
        ("evaluated on", part),
        ("training code, SHA-256", made["code"]),
        ("commit", formats.setting(made["commit"]) + changed),
        ("Python", made["python"]),
        *((key, made[key]) for key in machine),
        ("models trained as one", made["cohort"]),
        ("random seeds", ", ".join(map(str, analysis["seeds"]))),
        ("all trainings took", formats.duration(analysis["cost"]["seconds"])),
    )
    return listing("Text, code and machine", pairs)
