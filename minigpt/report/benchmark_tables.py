"""The figures of a benchmark as tables: for the terminal, as Markdown, and the scaling curves as CSV.

Reads the record that `bench --json` prints and nothing else. A figure that was not measured is a dash.
"""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from minigpt.base import formats
from minigpt.base.formats import visible

Record = dict[str, Any]
AXIS_NAMES = {"n_layer": "layers", "n_embd": "width", "block_size": "context", "batch_size": "batch"}
_BINARY = 1 << 20


@dataclass(frozen=True)
class Table:
    """Rows of text under headings, of which the first `words` columns are words, and what they mean below."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    words: int = 1


def text(record: Record) -> str:
    """Return the record as aligned tables."""
    blocks = ["\n".join([*_head(record), *record["notes"]])]
    blocks += ["\n".join([table.title, *_aligned(table), *table.notes]) for table in tables(record)]
    return "\n\n".join(blocks) + "\n"


def markdown(record: Record) -> str:
    """Return the record as Markdown, with machine, revision and command at its head."""
    machine, command, *rest = _head(record)
    blocks = [machine, f"```sh\n{command}\n```", *rest, *(f"> {note}" for note in record["notes"])]
    for table in tables(record):
        marks = [":--" if column < table.words else "--:" for column in range(len(table.headings))]
        lines = [f"| {' | '.join(_escaped(row))} |" for row in (table.headings, marks, *table.rows)]
        blocks += [f"### {table.title}", "\n".join(lines), *table.notes]
    return "\n\n".join(blocks) + "\n"


def tables(record: Record) -> list[Table]:
    """All tables for which there are figures."""
    makers: tuple[Callable[[Sequence[Record]], Iterable[Table]], ...] = (
        _gemm, _training, _training_peers, _instrument, _decoding, _decoding_peers, _start, _scaling, _parity,
    )  # fmt: skip
    return [table for make in makers for table in make(record["presets"]) if table.rows]


def scaling_csv(points: Sequence[Record]) -> str:
    """Return the points of the curves with all their digits."""
    written = io.StringIO()
    writer = csv.DictWriter(written, list(points[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(points)
    return written.getvalue()


def _head(record: Record) -> list[str]:
    """Machine, command and settings, one line each."""
    machine, options = record["machine"], record["options"]
    chip = machine["accelerator"] if machine["device"].startswith("cuda") else machine["processor"]
    threads = formats.counted(machine["threads"], "thread")
    where = f"{visible(str(chip))}, {threads}; torch {machine['torch']}, Python {machine['python']}"
    changed = " with changes" if machine["dirty"] else ""
    commit = f"; commit {machine['commit'][:10]}{changed}" if machine["commit"] else ""
    command = shlex.join(["python", "-m", "minigpt", *machine["command"][1:]])
    blocks = formats.counted(options["blocks"], "block")
    lines = [where + commit, visible(command)]
    lines.append(f"{blocks} of {formats.counted(options['steps_per_block'], 'training step')}; medians over blocks")
    return lines + [_setting(measured) for measured in record["presets"]]


def _setting(measured: Record) -> str:
    """What was measured under a preset's name."""
    shape = f"{measured['n_layer']} layers, {measured['n_head']} heads, width {measured['n_embd']}"
    batch = f"context {measured['block_size']}, {measured['batch_size']} windows"
    size = f"{formats.scaled(measured['parameters'])} parameters, {measured['activation']}"
    path = f"{measured['dtype']}, {measured['attention']} attention, compile {measured['compile']}"
    kinds = f"{measured['text']} ({measured['vocab_size']:,} kinds of token)"
    return f"{measured['preset']}: {shape}, {batch}, {size}; {path}; {kinds}"


# One function for each table


def _gemm(presets: Sequence[Record]) -> Iterable[Table]:
    headings = ["product", "shape", "count"]
    headings += [f"{kind} {form}" for kind in ("float32", "bfloat16") for form in ("forward", "∂input", "∂weight")]
    for measured in presets:
        gemm = measured.get("gemm")
        if gemm is None:
            continue
        rows = [_product_row(gemm, index, product) for index, product in enumerate(gemm["products"])]
        for label, key in (("all, weighted by operations", "ceiling"), (f"{gemm['large_side']}³", "large")):
            both = [formats.scaled(gemm[kind][key]) if gemm[kind] else formats.MISSING for kind in _KINDS]
            rows.append([label, "", "", both[0], "", "", both[1], "", ""])
        reads = [
            formats.scaled(gemm[kind]["read_bandwidth"], "B/s") if gemm[kind] else formats.MISSING for kind in _KINDS
        ]
        note = f"Weights read for one row, from memory: {reads[0]} in float32, {reads[1]} in bfloat16."
        yield Table(f"Matrix products of {measured['preset']}, FLOP/s", headings, rows, [note], words=2)


_KINDS = ("float32", "bfloat16")
_FORMS = ("forward", "grad_input", "grad_weight")


def _product_row(gemm: Record, index: int, product: Record) -> list[str]:
    shape = f"({product['rows']}×{product['inner']})({product['inner']}×{product['columns']})"
    rates = [gemm[kind]["products"][index][form] if gemm[kind] else None for kind in _KINDS for form in _FORMS]
    return [product["name"], shape, str(product["count"]), *map(formats.scaled, rates)]


def _training(presets: Sequence[Record]) -> Iterable[Table]:
    headings = [
        "preset",
        "ms a step",
        "quartiles",
        "tokens/s",
        "FLOP/s",
        "of ceiling",
        "MFU",
        "first step",
        "peak memory",
    ]
    found = [(measured, measured["train"]) for measured in presets if "train" in measured]
    rows = [
        [
            train["preset"],
            *_milliseconds(train["step_seconds"]),
            formats.whole(train["tokens_per_second"]),
            formats.scaled(train["flops_per_second"]),
            formats.percent(train["share_of_ceiling"]),
            formats.percent(train["mfu"]),
            formats.duration(train["first_step_seconds"]),
            _mebibytes(train["peak_memory_bytes"]),
        ]
        for _, train in found
    ]
    notes = [_divisors(measured) for measured, _ in found]
    yield Table("Training", headings, rows, notes)


def _divisors(measured: Record) -> str:
    """Name what the shares divide by."""
    rates, side, dtype = measured["gemm"][measured["dtype"]], measured["gemm"]["large_side"], measured["dtype"]
    return (
        f"{measured['preset']}: {formats.scaled(measured['flops_per_token'])}FLOP a token (6N + 12LCT); ceiling: its "
        f"products in {dtype}, {formats.scaled(rates['ceiling'])}FLOP/s; MFU: a {side}³ product in {dtype}, "
        f"{formats.scaled(rates['large'])}FLOP/s."
    )


def _training_peers(presets: Sequence[Record]) -> Iterable[Table]:
    headings = ["preset", "peer", "state", "how", "ms a step", "tokens/s", "ours is faster by", "95 %", "peak memory"]
    rows = [
        [
            measured["preset"],
            peer["peer"],
            peer["state"],
            peer["how"],
            formats.fixed(1000 * peer["step_seconds"], 2),
            formats.whole(peer["tokens_per_second"]),
            *_ratio(peer["ratio"]),
            _mebibytes(peer["peak_memory_bytes"]),
        ]
        for measured in presets
        for peer in measured.get("train", {}).get("peers", [])
    ]
    yield Table("Training beside other programs, block by block", headings, rows, words=4)


def _instrument(presets: Sequence[Record]) -> Iterable[Table]:
    headings = [
        "preset",
        "training, time with / without",
        "95 %",
        "evaluation, time with / without",
        "95 %",
        "with",
        "without",
    ]
    found = [measured["instrument"] for measured in presets if "instrument" in measured]
    rows = [
        [
            each["preset"],
            *_ratio(each["training_ratio"], digits=4),
            *_ratio(each["evaluation_ratio"], digits=3),
            _seconds(each["evaluation_seconds"]),
            _seconds(each["evaluation_seconds_without"]),
        ]
        for each in found
    ]
    notes = [
        f"{each['preset']}: one step in {each['log_every']} logged; evaluations of {each['evaluated_tokens']:,} tokens."
        for each in found
    ]
    yield Table("What watching the neurons costs", headings, rows, notes)


def _decoding(presets: Sequence[Record]) -> Iterable[Table]:
    headings = [
        "preset",
        "samples",
        "tokens/s",
        "ms a token",
        "quartiles",
        "first",
        "prepared in",
        "weights",
        "bytes a token",
        "of bandwidth",
    ]
    rows = [
        [
            each["preset"],
            str(each["samples"]),
            formats.whole(each["tokens_per_second"]),
            *_milliseconds(each["token_seconds"], digits=3),
            _seconds(each["first_token_seconds"]),
            _seconds(each["prepared_seconds"]),
            each["dtype"] + (", compiled" if each["compiled"] else ""),
            formats.scaled(each["bytes_per_token"], "B"),
            formats.percent(each["share_of_bandwidth"]),
        ]
        for measured in presets
        for each in measured.get("decode", [])
    ]
    note = (
        "Tokens of all samples together, from the second on; the first apart, and what was prepared or compiled once. "
        "Bandwidth: of weights read from memory for one row, in that precision."
    )
    yield Table("Decoding, one token continued to the end of the context", headings, rows, [note])


def _decoding_peers(presets: Sequence[Record]) -> Iterable[Table]:
    headings = ["preset", "samples", "peer", "state", "how", "tokens/s", "ours is faster by", "95 %"]
    rows = [
        [
            each["preset"],
            str(each["samples"]),
            peer["peer"],
            peer["state"],
            peer["how"],
            formats.whole(peer["tokens_per_second"]),
            *_ratio(peer["ratio"]),
        ]
        for measured in presets
        for each in measured.get("decode", [])
        for peer in each["peers"]
    ]
    yield Table("Decoding beside other programs, block by block", headings, rows, words=5)


def _start(presets: Sequence[Record]) -> Iterable[Table]:
    headings = ["preset", "train --help", "train, to its first step"]
    found = [measured["start"] for measured in presets if "start" in measured]
    rows = [
        [each["preset"], _seconds(each["help_seconds"]["median"]), _seconds(each["first_step_seconds"])]
        for each in found
    ]
    note = "From typing the command, text prepared; the first evaluation comes before the first step."
    yield Table("Start", headings, rows, [note])


def _scaling(presets: Sequence[Record]) -> Iterable[Table]:
    headings = ["axis", "value", "parameters", "FLOP/token", "tokens/s", "bound", "of bound"]
    for measured in presets:
        rows = [
            [
                AXIS_NAMES[point["axis"]],
                str(point["value"]),
                formats.scaled(point["parameters"]),
                formats.scaled(point["flops_per_token"]),
                formats.whole(point["tokens_per_second"]),
                formats.whole(point["bound"]),
                formats.percent(point["tokens_per_second"] / point["bound"]),
            ]
            for point in measured.get("scaling", [])
        ]
        note = "Bound: what a large product reaches, over the operations of a token (6N + 12LCT)."
        yield Table(f"Training speed around {measured['preset']}", headings, rows, [note])


def _parity(presets: Sequence[Record]) -> Iterable[Table]:
    headings = ["preset", "path", "steps", "loss", "float32, eager", "difference", "expected within"]
    rows = [
        [
            each["preset"],
            each["path"],
            str(each["steps"]),
            formats.fixed(each["loss"]),
            formats.fixed(each["reference_loss"]),
            formats.signed(each["difference"]),
            formats.fixed(each["expected_within"], 2),
        ]
        for each in (measured["parity"] for measured in presets if "parity" in measured)
    ]
    yield Table("Same seed, fast path and float32: validation loss in nats", headings, rows, words=2)


# How cells are written


def _milliseconds(seconds: Record, digits: int = 2) -> list[str]:
    median, low, high = (formats.fixed(1000 * seconds[key], digits) for key in ("median", "low", "high"))
    return [median, f"{low}–{high}"]


def _seconds(value: float | None) -> str:
    return formats.MISSING if value is None else f"{value:.3g} s"


def _ratio(ratio: Record, digits: int = 2) -> list[str]:
    low, high = ratio["low"], ratio["high"]
    interval = formats.MISSING if low is None else f"{low:.{digits}f}–{high:.{digits}f}"
    return [f"{formats.fixed(ratio['median'], digits)}×", interval]


def _mebibytes(value: int | None) -> str:
    return formats.MISSING if value is None else f"{value / _BINARY:,.0f} MiB"


def _aligned(table: Table) -> list[str]:
    rows = [table.headings, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.headings))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[: table.words], widths, strict=False)]
        cells += [cell.rjust(width) for cell, width in zip(row[table.words :], widths[table.words :], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _escaped(cells: Sequence[str]) -> list[str]:
    return [visible(cell).replace("|", "\\|") for cell in cells]
