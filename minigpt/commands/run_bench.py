"""`minigpt bench`: how fast this machine is, how fast minigpt is on it, and how much faster than other programs."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from minigpt.base.errors import UsageError
from minigpt.base.flags import Parser, add_fields, check_fields, given, user_path
from minigpt.base.help_text import Introduction
from minigpt.base.storage import json_document, new_directory, to_json, write_bytes, write_text
from minigpt.benchmarks.bench_options import (
    DEFAULT_PARTS,
    PARTS,
    PEER_ACTIVATION,
    PRESET,
    BenchOptions,
    check_parts,
    check_peer,
    check_trains,
)
from minigpt.training.config import RunConfig, with_preset

Record = dict[str, Any]

INTRODUCTION = Introduction(
    examples=(
        ("train --preset tiny", "how fast training is, against what the machine can do"),
        ("train decode --peer hf --json", "the same beside Hugging Face, as JSON"),
    ),
    common=("--preset", "--peer", "--activation", "--out", "--json", "--markdown", "--device", "--threads"),
)


def add_flags(parser: Parser) -> None:
    """What to measure, how long, beside whom, and every training flag."""
    parser.introduction = INTRODUCTION
    parser.with_preset = with_preset
    parser.description = (
        f"{parser.description}. Here --preset is {PRESET} unless given, and may name several (A,B). "
        f"Beside a peer --activation is {PEER_ACTIVATION} unless given, as the peers have it."
    )
    parts = f"{', '.join(PARTS)} [{' '.join(DEFAULT_PARTS)}]"
    parser.add_argument("parts", nargs="*", metavar="PART", help=parts)
    add_fields(parser, BenchOptions)
    group = parser.add_argument_group("what is done")
    group.add_argument("--all", action="store_true", help="measure every part")
    group.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="PEER",
        help="hf, x-transformers, or the path of a nanoGPT, whose model.py is executed; may be repeated",
    )
    group.add_argument(
        "--out", type=user_path, metavar="DIR", help="also write bench.json, bench.md and scaling curves there"
    )
    group.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    group.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    add_fields(parser, RunConfig)
    parser.show_default("preset", PRESET)


def run(values: argparse.Namespace) -> int:
    """Measure and print; returns 0."""
    parts = check_parts(values.parts, values.all)
    options = BenchOptions(**given(values, BenchOptions))
    check_fields(options)
    if values.json and values.markdown:
        raise UsageError("--json and --markdown print two forms; got both; choose one, or --out for all")
    peers = [check_peer(text) for text in dict.fromkeys(values.peer)]
    for peer in peers if "ablation" in parts else ():
        check_trains(peer)
    asked = given(values, RunConfig)
    presets = dict.fromkeys(str(asked.pop("preset", PRESET)).split(","))
    from minigpt.benchmarks.suite import resolve_preset, run_benchmarks

    configs = [resolve_preset(preset, asked, peers) for preset in presets]
    with contextlib.nullcontext() if values.out is None else new_directory(values.out):
        record = run_benchmarks(parts, configs, asked, peers, options, _track)
    _show(record, values)
    if values.out is not None:
        _write(record, values.out)
    return 0


def _show(record: Record, values: argparse.Namespace) -> None:
    from minigpt.report import benchmark_tables

    if values.json:
        print(to_json(record))
    elif values.markdown:
        print(benchmark_tables.markdown(record), end="")
    else:
        print(benchmark_tables.text(record), end="")


def _write(record: Record, directory: Path) -> None:
    """Leave the figures, the tables and, where there are curves, those as CSV and as a drawing."""
    from minigpt.report import benchmark_tables
    from minigpt.report.benchmark_figures import scaling_curves

    write_bytes(directory / "bench.json", json_document(record))
    write_text(directory / "bench.md", benchmark_tables.markdown(record))
    for measured in record["presets"]:
        if "scaling" in measured:
            name = f"scaling-{measured['preset']}"
            write_text(directory / f"{name}.csv", benchmark_tables.scaling_csv(measured["scaling"]))
            write_text(directory / f"{name}.svg", scaling_curves(measured["scaling"]))
    print(f"wrote {directory}/", file=sys.stderr)


def _track(blocks: Iterable[int], label: str) -> Iterable[int]:
    """Show a bar on stderr, unless that is no terminal."""
    from tqdm import tqdm

    bar: Iterable[int] = tqdm(blocks, desc=label, disable=None, file=sys.stderr, leave=False, dynamic_ncols=True)
    return bar
