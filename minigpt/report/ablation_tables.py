"""The answer of an ablation as text: Markdown, CSV files for other programs, and a short table for the terminal.

The Markdown has the sections of the page, with tables where the page has figures. CSV files follow RFC 4180 and keep
full precision; a figure that does not exist is an empty field. Of these texts only the Markdown and `fairness_csv`
show times: the others are the same bytes whenever the results are.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from minigpt.base import formats
from minigpt.report.ablation_contents import Section, read_analysis, sections, subtitle, unfinished, warnings
from minigpt.report.ablation_rows import (
    TRUSTED_TOKENS,
    WARNING,
    Record,
    about_seeds,
    arm_loss,
    arm_name,
    by_layer,
    comparison_name,
    few_tokens,
    ordered,
    seeds,
)
from minigpt.report.text_tables import aligned, fenced, markdown_table, plain

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
        blocks += _markdown_section(section)
    blocks.append(fenced([analysis["command"]]))
    return "\n\n".join(blocks) + "\n"


def _markdown_section(section: Section) -> list[str]:
    blocks = [f"## {plain(section.title)}", *map(plain, section.sentences)]
    if section.caption:
        blocks.append(f"*Figure (see the page):* {plain(section.caption)}")
    for table in section.tables:
        if table.rows:
            blocks += [f"### {plain(table.title)}", markdown_table(table)]
        if table.commands:
            blocks.append(fenced(table.commands))
    return blocks


# CSV

_CELL_COLUMNS = (
    "id", "arm", "seed", "lr", "purpose", "status", "steps", "loss", "perplexity", "bits_per_byte", "dead_fraction",
    "dormant_fraction", "inert_fraction", "parameters", "parameters_sha256", "directory", "command",
)  # fmt: skip
_COMPARISON_COLUMNS = (
    "arm", "reference", "factor", "verdict", "n", "mean", "sd", "low", "high", "low90", "high90", "p_t", "p_t_holm",
    "p_sign_flip", "p_tost", "p_tost_holm", "seeds_to_decide",
)  # fmt: skip
_SUMMARY = ("mean", "sd", "low", "high", "n")
_LAYER_SHARES = ("dead_fraction", "dormant_fraction", "inert_fraction", "density", "never_positive_fraction")


def cells_csv(analysis: Record) -> str:
    """One line a cell."""
    return _csv({column: cell[column] for column in _CELL_COLUMNS} for cell in analysis["cells"])


def comparisons_csv(analysis: Record) -> str:
    """One line a comparison, with the difference of every seed."""
    return _csv(_comparison_line(pair, analysis["seeds"]) for pair in analysis["comparisons"])


def _comparison_line(pair: Record, all_seeds: Iterable[int]) -> Record:
    differences = {entry["seed"]: entry["difference"] for entry in pair["differences"]}
    return {
        **{column: pair[column] for column in _COMPARISON_COLUMNS},
        "diverged_arm": pair["diverged"]["arm"],
        "diverged_reference": pair["diverged"]["reference"],
        "reason": pair["reason"],
        **{f"difference_seed_{seed}": differences.get(seed) for seed in all_seeds},
    }


def arms_csv(analysis: Record) -> str:
    """One line an arm, with the neurons of every layer."""
    return _csv(_arm_line(arm) for arm in analysis["arms"])


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
        for share in _LAYER_SHARES:
            line |= _spread(f"{prefix}_{share}", layer[share], ("mean", "min", "max"))
    return line


def fairness_csv(analysis: Record) -> str:
    """One line an arm: what it was given, and what it cost."""
    return _csv(_fairness_line(arm, analysis["cost"]["arms"].get(arm["name"], {})) for arm in analysis["arms"])


def _fairness_line(arm: Record, cost: Record) -> Record:
    given = arm["fairness"]
    return {
        "arm": arm["name"],
        "parameters": given["parameters"],
        "d_ff": None if given["d_ff"] is None else " ".join(map(str, given["d_ff"])),
        **{key: given[key] for key in ("flops_per_token", "steps", "tokens", "same_windows", "same_start")},
        **{key: cost.get(key) for key in ("seconds_per_step", "peak_memory_bytes", "seconds")},
    }


def _spread(name: str, values: Record | None, keys: Iterable[str]) -> Record:
    return {f"{name}_{key}": None if values is None else values[key] for key in keys}


def _csv(lines: Iterable[Record]) -> str:
    """Lines under the headings of all of them; a line that lacks one has an empty field there."""
    lines = list(lines)
    headings = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, headings)
    writer.writeheader()
    writer.writerows({key: _field(value) for key, value in line.items()} for line in lines)
    return text.getvalue()


def _field(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


# Terminal

_ARM_HEADINGS = ("arm", "seeds", "loss", "perplexity", "dead by layer")
_FINDING_HEADINGS = ("difference, 95 %", "verdict", "seeds to decide")
_NO_FINDING = ["", "", ""]


def terminal_table(analysis: Record) -> str:
    """Return the answer in short: arms, differences and verdicts, then the conclusion."""
    arms, comparisons = analysis["arms"], analysis["comparisons"]
    of_arm = {pair["arm"]: pair for pair in comparisons}
    rows = [[*_ARM_HEADINGS], *map(_arm_cells, arms)]
    if comparisons and len(of_arm) == len(comparisons):
        findings = [_finding(of_arm[arm["name"]]) if arm["name"] in of_arm else _NO_FINDING for arm in arms]
        rows = [row + more for row, more in zip(rows, [[*_FINDING_HEADINGS], *findings], strict=True)]
    parts = [aligned(rows)]
    if len(of_arm) < len(comparisons):
        named = [[comparison_name(pair), *_finding(pair)] for pair in ordered(comparisons)]
        parts.append(aligned([["arm − reference", *_FINDING_HEADINGS], *named]))
    if few_tokens(analysis):
        parts.append(f"{WARNING} counted on fewer than {TRUSTED_TOKENS:,} tokens: take these shares as hints")
    return "\n".join([*parts, *warnings(analysis), *analysis["conclusion"]])


def _arm_cells(arm: Record) -> list[str]:
    return [
        arm_name(arm),
        seeds(arm),
        arm_loss(arm),
        formats.perplexity(arm["perplexity"]),
        by_layer(arm, "dead_fraction"),
    ]


def _finding(pair: Record) -> list[str]:
    span = "" if pair["low"] is None else f" {formats.interval(pair['low'], pair['high'])}"
    return [formats.signed(pair["mean"]) + span, pair["verdict"], about_seeds(pair)]
