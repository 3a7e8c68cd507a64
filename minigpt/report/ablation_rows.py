"""The tables of an ablation in words and rounded numbers, as its page and its Markdown show them.

What a table is called and what is said about it stands in `ablation_contents`; full precision in the CSV files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from minigpt.base import formats
from minigpt.base.formats import MISSING
from minigpt.report.text_tables import Table

Record = dict[str, Any]
TRUSTED_TOKENS = 65_536
WARNING = "⚠"
_CURVE_COLUMNS = 6
_RELATIVE_PATH = re.compile(r"(\.\./)*\w[\w.-]*(/\w[\w.-]*)*")  # nothing else is made a link, whatever the file says


def ordered(comparisons: Iterable[Record]) -> list[Record]:
    """Comparisons from the best arm to the worst; those without a mean stand last."""
    return sorted(comparisons, key=lambda pair: (pair["mean"] is None, pair["mean"] or 0.0))


def comparison_name(pair: Record) -> str:
    """Which arm is compared with which."""
    return f"{pair['arm']} − {pair['reference']}"


def about_seeds(pair: Record) -> str:
    """How many seeds would decide, if that can be said."""
    return MISSING if pair["seeds_to_decide"] is None else f"about {pair['seeds_to_decide']}"


def comparisons_table(analysis: Record) -> Table:
    """One row a comparison: effect, interval, tests, verdict, and below it the reason."""
    headings = (
        "arm", "reference", "verdict", "pairs", "mean, nats", "95 % interval", "in perplexity", "p (Holm)",
        "p, sign flip", "p, TOST (Holm)", "seeds to decide",
    )  # fmt: skip
    pairs = ordered(analysis["comparisons"])
    rows = tuple(
        (
            pair["arm"],
            pair["reference"],
            pair["verdict"],
            str(pair["n"]),
            formats.signed(pair["mean"]),
            formats.interval(pair["low"], pair["high"]),
            formats.perplexity_change(pair["mean"]),
            _with_holm(pair["p_t"], pair["p_t_holm"]),
            formats.p_value(pair["p_sign_flip"]),
            _with_holm(pair["p_tost"], pair["p_tost_holm"]),
            about_seeds(pair),
        )
        for pair in pairs
    )
    return Table("The comparisons", headings, rows, words=3, reasons=tuple(pair["reason"] for pair in pairs))


def _with_holm(p: float | None, adjusted: float | None) -> str:
    return MISSING if p is None else f"{formats.p_value(p)} ({formats.p_value(adjusted)})"


def arms_table(analysis: Record) -> Table:
    """One row an arm: loss and perplexity beside the dead, dormant and inert fractions of its layers."""
    headings = (
        "arm", "seeds", "loss, nats", "perplexity", "bits/byte", "dead, by layer", "dormant, by layer",
        "inert, by layer",
    )  # fmt: skip
    rows = tuple(
        (
            arm_name(arm),
            seeds(arm),
            arm_loss(arm),
            formats.perplexity(arm["perplexity"]),
            formats.fixed(arm["bits_per_byte"], 3),
            *(by_layer(arm, key) for key in ("dead_fraction", "dormant_fraction", "inert_fraction")),
        )
        for arm in analysis["arms"]
    )
    return Table("The arms: perplexity, and the neurons of each layer", headings, rows)


def arm_name(arm: Record) -> str:
    """The name of an arm, and whether it is what the others are compared with."""
    return f"{arm['name']} (reference)" if arm["reference"] else str(arm["name"])


def seeds(arm: Record) -> str:
    """How many cells the figures of an arm rest on, and what became of the others."""
    others = [f"{arm[state]} {state}" for state in ("diverged", "pending") if arm[state]]
    return f"{arm['finished']} ({', '.join(others)})" if others else str(arm["finished"])


def arm_loss(arm: Record) -> str:
    """Mean loss and the half-width of its interval."""
    loss = arm["loss"]
    return MISSING if loss is None else formats.with_half_width(loss["mean"], loss["low"], loss["high"])


def by_layer(arm: Record, key: str) -> str:
    """The mean of a share in every layer, with a mark if it rests on few tokens."""
    shares = formats.percents([layer[key] and layer[key]["mean"] for layer in arm["layers"]])
    return f"{WARNING} {shares}" if any(_are_few(layer["tokens"]) for layer in arm["layers"]) else shares


def few_tokens(analysis: Record) -> bool:
    """Whether a figure on neurons rests on fewer tokens than can be trusted."""
    return any(_are_few(layer["tokens"]) for arm in analysis["arms"] for layer in arm["layers"])


def _are_few(tokens: int | None) -> bool:
    return tokens is not None and tokens < TRUSTED_TOKENS


def layers_table(analysis: Record) -> Table:
    """One row an arm and layer: every share with its extremes over the seeds."""
    shares = {
        "dead_fraction": "dead", "dormant_fraction": "dormant 0.025", "inert_fraction": "inert",
        "density": "h ≠ 0", "never_positive_fraction": "never open",
    }  # fmt: skip
    headings = ("arm", "activation", "layer", "neurons", *shares.values(), "bound", "tokens counted")
    rows = tuple(
        (
            arm["name"],
            layer["activation"],
            str(layer["layer"]),
            formats.whole(layer["neurons"]),
            *(formats.spread_percent(layer[key]) for key in shares),
            MISSING if layer["dead_upper"] is None else f"{layer['dead_upper']:.1e}".replace("e-0", "e-"),
            (f"{WARNING} " if _are_few(layer["tokens"]) else "") + formats.whole(layer["tokens"]),
        )
        for arm in analysis["arms"]
        for layer in arm["layers"]
    )
    return Table("Every layer, with the extremes over seeds", headings, rows, words=2, folded=True)


def curves_table(analysis: Record) -> Table:
    """The loss of every arm at some steps, the first and the last among them."""
    steps = sorted({point["step"] for arm in analysis["arms"] for point in arm["curve"]})
    chosen = [steps[round(k * (len(steps) - 1) / (_CURVE_COLUMNS - 1))] for k in range(_CURVE_COLUMNS)] if steps else []
    chosen = list(dict.fromkeys(chosen))
    rows = []
    for arm in analysis["arms"]:
        points = {point["step"]: point for point in arm["curve"]}
        rows.append((arm["name"], *(_curve_point(points.get(step)) for step in chosen)))
    headings = ("arm", *(f"step {step:,}" for step in chosen))
    return Table("Loss in nats: mean, and lowest to highest seed", headings, tuple(rows), folded=True)


def _curve_point(point: Record | None) -> str:
    if point is None or point["mean"] is None:
        return MISSING
    spread = "" if point["low"] is None else f" ({formats.fixed(point['low'], 3)} to {formats.fixed(point['high'], 3)})"
    return formats.fixed(point["mean"], 3) + spread


def sensitivity_table(analysis: Record) -> Table:
    """One row an arm and learning rate."""
    rows = tuple(
        (
            point["arm"],
            formats.setting(point["lr"]),
            str(point["n"]),
            formats.fixed(point["mean"]),
            _range(point["low"], point["high"]),
            str(point["diverged"]),
            "chosen" if point["chosen"] else "",
        )
        for point in analysis["sensitivity"]
    )
    headings = ("arm", "learning rate", "seeds", "mean loss, nats", "lowest to highest", "diverged", "")
    return Table("Loss at every learning rate", headings, rows, prose=frozenset({6}), folded=True)


def _range(low: float | None, high: float | None) -> str:
    return MISSING if low is None or high is None else f"{formats.fixed(low)} to {formats.fixed(high)}"


def power_table(power: Record) -> Table:
    """The chance that a true effect is found, for numbers of seeds and sizes of effect."""
    effects = [f"{formats.short(effect)} SD ({_nats(effect, power['paired_sd'])})" for effect in power["effects_sd"]]
    rows = tuple(
        (str(seeds), *(MISSING if chance is None else f"{100 * chance:.0f} %" for chance in chances))
        for seeds, chances in zip(power["seeds"], power["power"], strict=True)
    )
    return Table("Power: the chance of finding a true effect of this size", ("seeds", *effects), rows)


def _nats(effect_sd: float, paired_sd: float | None) -> str:
    return MISSING if paired_sd is None else f"{formats.fixed(effect_sd * paired_sd)} nats"


def fairness_table(analysis: Record) -> Table:
    """What every arm was given, and what it cost."""
    costs = analysis["cost"]["arms"]
    first = next((arm for arm in analysis["arms"] if arm["reference"]), None)
    rows = tuple(_fairness_row(arm, costs.get(arm["name"], {}), first) for arm in analysis["arms"])
    headings = (
        "arm", "parameters", "neurons a layer", "FLOPs/token", "steps", "tokens", "same windows", "same start",
        "time a step", "peak memory", "time in all",
    )  # fmt: skip
    return Table("What each arm was given, and what it cost", headings, rows, prose=frozenset({6, 7}))


def _fairness_row(arm: Record, cost: Record, reference: Record | None) -> tuple[str, ...]:
    given = arm["fairness"]
    seconds = cost.get("seconds_per_step")
    windows = MISSING if given["same_windows"] is None else ("yes" if given["same_windows"] else "NO")
    return (
        arm["name"],
        formats.whole(given["parameters"]) + _relative(given["parameters"], reference),
        _widths(given["d_ff"]),
        formats.scaled(given["flops_per_token"]),
        formats.whole(given["steps"]),
        formats.whole(given["tokens"]),
        windows,
        formats.setting(given["same_start"]),
        MISSING if seconds is None else f"{1000 * seconds:.1f} ms",
        formats.scaled(cost.get("peak_memory_bytes"), "B"),
        formats.duration(cost.get("seconds")),
    )


def _relative(parameters: int | None, reference: Record | None) -> str:
    baseline = reference["fairness"]["parameters"] if reference else None
    if not baseline or not parameters or parameters == baseline:
        return ""
    return f" ({formats.signed(100 * (parameters / baseline - 1), 2)} %)"


def _widths(d_ff: Sequence[int] | None) -> str:
    if not d_ff:
        return MISSING
    return str(d_ff[0]) if len(set(d_ff)) == 1 else ", ".join(map(str, d_ff))


def cells_table(analysis: Record) -> Table:
    """One row a training, with its command line below it."""
    cells = analysis["cells"]
    headings = (
        "cell", "arm", "status", "purpose", "seed", "lr", "steps", "loss, nats", "perplexity", "dead", "dormant",
        "inert",
    )  # fmt: skip
    rows = tuple(
        (
            cell["id"],
            cell["arm"],
            cell["status"].upper() if cell["status"] == "diverged" else cell["status"],
            {"main": "result", "tune": "tuning"}.get(cell["purpose"], cell["purpose"]),
            str(cell["seed"]),
            formats.setting(cell["lr"]),
            formats.whole(cell["steps"]),
            formats.fixed(cell["loss"]),
            formats.perplexity(cell["perplexity"]),
            *(formats.percent(cell[key]) for key in ("dead_fraction", "dormant_fraction", "inert_fraction")),
        )
        for cell in cells
    )
    links = tuple(_link(cell["directory"]) for cell in cells)
    commands = tuple(cell["command"] for cell in cells)
    return Table("Every training, and the command that repeats it", headings, rows, 4, links=links, commands=commands)


def _link(directory: str) -> str | None:
    path = directory.rstrip("/")
    return f"{path}/" if _RELATIVE_PATH.fullmatch(path) else None


def stale_table(analysis: Record) -> Table:
    """Trainings that another version of the training code left."""
    rows = tuple(
        (cell["id"], cell["arm"], formats.setting(cell["code"])[:12], str(cell["seed"])) for cell in analysis["stale"]
    )
    return Table("Stale trainings, not used", ("cell", "arm", "training code", "seed"), rows, words=3)


def settings_table(analysis: Record) -> Table:
    """What was varied, and what all arms share."""
    varied = [
        (flag, ", ".join(formats.setting(value) for value in values), "varied")
        for flag, values in analysis["factors"].items()
    ]
    shared = [(flag, formats.setting(value), "all arms") for flag, value in analysis["base"].items()]
    return Table("Settings that differ from the defaults", ("flag", "value", ""), (*varied, *shared), words=3)


def provenance_table(analysis: Record) -> Table:
    """On what text, with what code, on what machine."""
    corpus, made = analysis["corpus"], analysis["provenance"]
    changed = "" if not made["dirty"] else " with uncommitted changes"
    rows = (
        ("corpus", f"{corpus['name']}, {corpus['tokenizer']}"),
        ("corpus, SHA-256", formats.setting(corpus["sha256"])),
        ("evaluated on", {"all": "the whole validation part"}.get(corpus["eval_part"], f"{corpus['eval_part']} half")),
        ("training code, SHA-256", formats.setting(made["code"])),
        ("commit", formats.setting(made["commit"]) + changed),
        ("Python", formats.setting(made["python"])),
        ("torch", formats.setting(made["torch"])),
        ("processor", formats.setting(made["processor"])),
        ("accelerator", formats.setting(made["accelerator"])),
        ("platform", formats.setting(made["platform"])),
        ("threads", formats.setting(made["threads"])),
        ("random seeds", ", ".join(map(str, analysis["seeds"]))),
        ("all trainings took", formats.duration(analysis["cost"]["seconds"])),
    )
    return Table("Text, code and machine", ("", ""), rows, words=2)


def final_loss_bounds(analysis: Record) -> tuple[Record, Record] | None:
    """The arm with the lowest and the arm with the highest mean loss."""
    arms = [arm for arm in analysis["arms"] if arm["loss"] is not None and math.isfinite(arm["loss"]["mean"])]
    ranked = sorted(arms, key=lambda arm: arm["loss"]["mean"])
    return (ranked[0], ranked[-1]) if ranked else None
