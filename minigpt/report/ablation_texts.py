"""The answer of an ablation as text: Markdown, CSV files for other programs, and a short table for the terminal.

The Markdown has the sections of the page, its drawings as files beside it. CSV files follow RFC 4180 and keep
full precision; a figure that does not exist is an empty field. Of these texts only the Markdown and `fairness_csv`
show times: the others are the same bytes whenever the results are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from minigpt.base.health_columns import TRUSTED_TOKENS
from minigpt.base.tables import Column, Table, fenced, plain, ragged_csv
from minigpt.report import ablation_tables
from minigpt.report.ablation_contents import read_analysis, sections, subtitle, unfinished, warnings
from minigpt.report.ablation_figures import FIGURES
from minigpt.report.ablation_tables import SHARES, WARNING, Record, comparison_name, few_tokens, ordered
from minigpt.report.figures import standing_alone
from minigpt.report.sections import figure_file

# Markdown


def ablation_markdown(directory: Path) -> str:
    """Return the contents of the page as Markdown (GitHub's tables).

    Raises:
        CheckpointError: there is no analysis that can be read.
    """
    analysis = read_analysis(directory)
    blocks = [f"# {plain(analysis['name'])}", plain(subtitle(analysis))]
    blocks += [f"> {plain(warning)}" for warning in (unfinished(analysis), *warnings(analysis)) if warning]
    blocks.append("\n".join(f"- {plain(sentence)}" for sentence in analysis["conclusion"]))
    for section in sections(analysis):
        blocks += section.markdown()
    blocks.append(fenced([analysis["command"]]))
    return "\n\n".join(blocks) + "\n"


def figure_files(analysis: Record) -> dict[str, str]:
    """The drawings of the page as files beside the Markdown, which shows them."""
    names = [name for section in sections(analysis) for name, _ in section.figures]
    return {figure_file(name): standing_alone(FIGURES[name](analysis)) for name in names}


# CSV

_LINE_END = "\r\n"
_CELL_KEYS = (
    "id", "arm", "seed", "lr", "purpose", "status", "steps", "loss", "perplexity", "bits_per_byte", "dead_fraction",
    "dormant_fraction", "inert_fraction", "parameters", "parameters_sha256", "directory", "command",
)  # fmt: skip
_COMPARISON_KEYS = (
    "arm", "reference", "factor", "verdict", "n", "mean", "sd", "low", "high", "low90", "high90", "p_t", "p_t_holm",
    "p_sign_flip", "p_tost", "p_tost_holm", "seeds_to_decide",
)  # fmt: skip
_GIVEN_KEYS = ("flops_per_token", "steps", "tokens", "same_windows", "same_start")
_COST_KEYS = ("seconds_per_step", "peak_memory_bytes", "seconds")
_SUMMARY = ("mean", "sd", "low", "high", "n")


def cells_csv(analysis: Record) -> str:
    """One line a cell."""
    return ragged_csv(({key: cell[key] for key in _CELL_KEYS} for cell in analysis["cells"]), _LINE_END)


def comparisons_csv(analysis: Record) -> str:
    """One line a comparison, with the difference of every seed."""
    return ragged_csv((_comparison_line(pair, analysis["seeds"]) for pair in analysis["comparisons"]), _LINE_END)


def _comparison_line(pair: Record, all_seeds: Iterable[int]) -> Record:
    differences = {entry["seed"]: entry["difference"] for entry in pair["differences"]}
    return {
        **{key: pair[key] for key in _COMPARISON_KEYS},
        "diverged_arm": pair["diverged"]["arm"],
        "diverged_reference": pair["diverged"]["reference"],
        "reason": pair["reason"],
        **{f"difference_seed_{seed}": differences.get(seed) for seed in all_seeds},
    }


def arms_csv(analysis: Record) -> str:
    """One line an arm, with the neurons of every layer."""
    return ragged_csv(map(_arm_line, analysis["arms"]), _LINE_END)


def _arm_line(arm: Record) -> Record:
    line = {
        "arm": arm["name"],
        "settings": json.dumps(arm["settings"], ensure_ascii=False, sort_keys=True),
        **{key: arm[key] for key in ("reference", "cells", "finished", "diverged", "pending")},
        **_spread("loss", arm["loss"], _SUMMARY),
        **{key: arm[key] for key in ("perplexity", "bits_per_byte")},
        **_spread("dead_fraction", arm["dead_fraction"], _SUMMARY),
    }
    for layer in arm["layers"]:
        prefix = f"layer_{layer['layer']}"
        line |= {f"{prefix}_{key}": layer[key] for key in ("activation", "neurons", "tokens", "dead_upper")}
        for share in SHARES:
            line |= _spread(f"{prefix}_{share}", layer[share], ("mean", "min", "max"))
    return line


def fairness_csv(analysis: Record) -> str:
    """One line an arm: what it was given, and what it cost."""
    costs = analysis["cost"]["arms"]
    return ragged_csv((_fairness_line(arm, costs.get(arm["name"], {})) for arm in analysis["arms"]), _LINE_END)


def _fairness_line(arm: Record, cost: Record) -> Record:
    given = arm["fairness"]
    return {
        "arm": arm["name"],
        "parameters": given["parameters"],
        "d_ff": None if given["d_ff"] is None else " ".join(map(str, given["d_ff"])),
        **{key: given[key] for key in _GIVEN_KEYS},
        **{key: cost.get(key) for key in _COST_KEYS},
    }


def _spread(name: str, values: Record | None, keys: Iterable[str]) -> Record:
    return {f"{name}_{key}": None if values is None else values[key] for key in keys}


# Terminal


def terminal_table(analysis: Record, width: int | None = None) -> str:
    """Return the answer in short: arms, differences and verdicts, then the conclusion."""
    parts = [table.terminal(width) for table in _short_tables(analysis)]
    if few_tokens(analysis):
        parts.append(f"{WARNING} counted on fewer than {TRUSTED_TOKENS:,} tokens: take these shares as hints")
    return "\n".join([*parts, *warnings(analysis), *analysis["conclusion"]])


def _short_tables(analysis: Record) -> list[Table]:
    """One table of arms, with the findings beside them if each arm has one; otherwise the findings below."""
    arms, comparisons = analysis["arms"], analysis["comparisons"]
    of_arm = {pair["arm"]: pair for pair in comparisons}
    columns = (*ablation_tables.arm_columns(), ablation_tables.by_layer("dead_fraction"))
    if len(of_arm) < len(comparisons):
        names = Column.name("arm − reference", comparison_name)
        findings = Table("", (names, *ablation_tables.finding_columns()), ordered(comparisons))
        return [Table("", columns, arms), findings]
    if comparisons:
        columns += tuple(_beside(column, of_arm) for column in ablation_tables.finding_columns())
    return [Table("", columns, arms)]


def _beside(column: Column, of_arm: Record) -> Column:
    """What a column shows of an arm's comparison; nothing for an arm that is compared with none."""

    def cell(arm: Record) -> str:
        return column.cell(of_arm[arm["name"]]) if arm["name"] in of_arm else ""

    return Column(column.title, cell)
