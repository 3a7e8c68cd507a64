"""The figures of a benchmark as tables: for the terminal, as Markdown, and the scaling curves as CSV.

Reads the record that `bench --json` prints and nothing else. A figure that was not measured is a dash.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from minigpt.base import formats
from minigpt.base.formats import MISSING, visible
from minigpt.base.tables import Column, Table, lookup, ragged_csv

Record = dict[str, Any]
AXIS_NAMES = {"n_layer": "layers", "n_embd": "width", "block_size": "context", "batch_size": "batch"}
_KINDS = ("float32", "bfloat16")
_FORMS = {"forward": "forward", "grad_input": "∂input", "grad_weight": "∂weight"}
_PRESET = Column.name("preset", "preset")
_TOKENS = Column("tokens/s", "tokens_per_second", formats.whole)
_MEMORY = Column("peak memory", "peak_memory_bytes", formats.mebibytes)
_PEER = (_PRESET, Column.name("peer", "peer"), Column.words("state", "state"), Column.words("how", "how"))


def text(record: Record, width: int | None = None) -> str:
    """Return the record as aligned tables."""
    blocks = ["\n".join([*_head(record), *record["notes"]])]
    return "\n\n".join([*blocks, *(table.terminal(width) for table in tables(record))]) + "\n"


def markdown(record: Record) -> str:
    """Return the record as Markdown, with machine, revision and command at its head."""
    machine, command, *rest = _head(record)
    blocks = [machine, f"```sh\n{command}\n```", *rest, *(f"> {note}" for note in record["notes"])]
    for table in tables(record):
        blocks += [f"### {table.title}", table.markdown(), *table.notes]
    return "\n\n".join(blocks) + "\n"


def tables(record: Record) -> list[Table]:
    """All tables for which there are figures."""
    makers: tuple[Callable[[Sequence[Record]], Iterable[Table]], ...] = (
        _gemm, _training, _training_peers, _instrument, _decoding, _decoding_peers, _start, _scaling, _parity,
        _ablation, _ablation_peers, _busy, _audit,
    )  # fmt: skip
    return [table for make in makers for table in make(record["presets"]) if table.records]


def scaling_csv(points: Sequence[Record]) -> str:
    """Return the points of the curves with all their digits."""
    return ragged_csv(points)


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
    speeds = [Column(f"{kind} {name}", f"{kind}/{form}", _speed) for kind in _KINDS for form, name in _FORMS.items()]
    columns = (Column.name("product", "name"), Column.words("shape", "shape"), Column("count", "count"), *speeds)
    for measured in presets:
        if "gemm" in measured:
            gemm = measured["gemm"]
            reads = [formats.scaled(lookup(gemm, f"{kind}/read_bandwidth"), "B/s") for kind in _KINDS]
            note = f"Weights read for one row, from memory: {reads[0]} in float32, {reads[1]} in bfloat16."
            yield Table(f"Matrix products of {measured['preset']}, FLOP/s", columns, _products(gemm), (note,))


def _products(gemm: Record) -> list[Record]:
    """A record for each product with its speeds by precision and form, and one for all and for a large one."""
    products = [
        {**product, "shape": _shape(product), **{kind: gemm[kind]["products"][k] for kind in _KINDS if gemm[kind]}}
        for k, product in enumerate(gemm["products"])
    ]
    for name, key in (("all, weighted by operations", "ceiling"), (f"{gemm['large_side']}³", "large")):
        speeds = {kind: {**dict.fromkeys(_FORMS, ""), "forward": lookup(gemm, f"{kind}/{key}")} for kind in _KINDS}
        products.append({"name": name, "shape": "", "count": "", **speeds})
    return products


def _speed(value: float | str | None) -> str:
    return value if isinstance(value, str) else formats.scaled(value)


def _shape(product: Record) -> str:
    return f"({product['rows']}×{product['inner']})({product['inner']}×{product['columns']})"


def _training(presets: Sequence[Record]) -> Iterable[Table]:
    columns = (
        _PRESET,
        *_milliseconds("ms a step", "step_seconds"),
        _TOKENS,
        Column("FLOP/s", "flops_per_second", formats.scaled),
        Column("of ceiling", "share_of_ceiling", formats.percent),
        Column("MFU", "mfu", formats.percent),
        Column("first step", "first_step_seconds", formats.duration),
        _MEMORY,
    )
    found = [measured for measured in presets if "train" in measured]
    yield Table("Training", columns, [measured["train"] for measured in found], tuple(map(_divisors, found)))


def _divisors(measured: Record) -> str:
    """Name what the shares divide by."""
    rates, side, dtype = measured["gemm"][measured["dtype"]], measured["gemm"]["large_side"], measured["dtype"]
    return (
        f"{measured['preset']}: {formats.scaled(measured['flops_per_token'])}FLOP a token (6N + 12LCT); ceiling: its "
        f"products in {dtype}, {formats.scaled(rates['ceiling'])}FLOP/s; MFU: a {side}³ product in {dtype}, "
        f"{formats.scaled(rates['large'])}FLOP/s."
    )


def _training_peers(presets: Sequence[Record]) -> Iterable[Table]:
    milliseconds = Column("ms a step", lambda peer: formats.fixed(1000 * peer["step_seconds"], 2))
    columns = (*_PEER, milliseconds, _TOKENS, *_ratio("ours is faster by", "ratio"), _MEMORY)
    peers = [
        {**peer, "preset": measured["preset"]}
        for measured in presets
        for peer in measured.get("train", {}).get("peers", [])
    ]
    yield Table("Training beside other programs, block by block", columns, peers)


def _instrument(presets: Sequence[Record]) -> Iterable[Table]:
    columns = (
        _PRESET,
        *_ratio("training, time with / without", "training_ratio", digits=4),
        *_ratio("evaluation, time with / without", "evaluation_ratio", digits=3),
        Column("with", "evaluation_seconds", formats.seconds),
        Column("without", "evaluation_seconds_without", formats.seconds),
    )
    found = [measured["instrument"] for measured in presets if "instrument" in measured]
    notes = [
        f"{each['preset']}: one step in {each['log_every']} logged; evaluations of {each['evaluated_tokens']:,} tokens."
        for each in found
    ]
    yield Table("What watching the neurons costs", columns, found, tuple(notes))


def _audit(presets: Sequence[Record]) -> Iterable[Table]:
    columns = (
        Column.name("position 0", "position_0"),
        *_ratio("tokens/s, audit / plain", "ratio", digits=3),
        Column("audit", "tokens_per_second", formats.whole),
        Column("plain", "plain_tokens_per_second", formats.whole),
    )
    found = [each for measured in presets for each in measured.get("audit", [])]
    notes = [
        f"A Llama of transformers with {each['parameters']:,} random parameters in float32, without its output layer, "
        f"on batches of {each['tokens']:,} tokens."
        for each in found[:1]
    ]
    yield Table("What an audit costs beside the forward pass", columns, found, tuple(notes))


def _decoding(presets: Sequence[Record]) -> Iterable[Table]:
    columns = (
        _PRESET,
        Column("samples", "samples"),
        _TOKENS,
        *_milliseconds("ms a token", "token_seconds", digits=3),
        Column("first", "first_token_seconds", formats.seconds),
        Column("prepared in", "prepared_seconds", formats.seconds),
        Column("weights", lambda each: each["dtype"] + (", compiled" if each["compiled"] else "")),
        Column("bytes a token", "bytes_per_token", partial(formats.scaled, unit="B")),
        Column("of bandwidth", "share_of_bandwidth", formats.percent),
    )
    note = (
        "Tokens of all samples together, from the second on; the first apart, and what was prepared or compiled once. "
        "Bandwidth: of weights read from memory for one row, in that precision."
    )
    decoded = [each for measured in presets for each in measured.get("decode", [])]
    yield Table("Decoding, one token continued to the end of the context", columns, decoded, (note,))


def _decoding_peers(presets: Sequence[Record]) -> Iterable[Table]:
    preset, *peer_columns = _PEER
    columns = (preset, Column.name("samples", "samples"), *peer_columns, _TOKENS, *_ratio("ours is faster by", "ratio"))
    peers = [
        {**peer, "preset": each["preset"], "samples": each["samples"]}
        for measured in presets
        for each in measured.get("decode", [])
        for peer in each["peers"]
    ]
    yield Table("Decoding beside other programs, block by block", columns, peers)


def _start(presets: Sequence[Record]) -> Iterable[Table]:
    columns = (
        _PRESET,
        Column("train --help", "help_seconds/median", formats.seconds),
        Column("train, to its first step", "first_step_seconds", formats.seconds),
    )
    note = "From typing the command, text prepared; the first evaluation comes before the first step."
    yield Table("Start", columns, [measured["start"] for measured in presets if "start" in measured], (note,))


def _scaling(presets: Sequence[Record]) -> Iterable[Table]:
    columns = (
        Column.name("axis", lambda point: AXIS_NAMES[point["axis"]]),
        Column("value", "value"),
        Column("parameters", "parameters", formats.scaled),
        Column("FLOP/token", "flops_per_token", formats.scaled),
        _TOKENS,
        Column("bound", "bound", formats.whole),
        Column("of bound", lambda point: formats.percent(point["tokens_per_second"] / point["bound"])),
    )
    note = "Bound: what a large product reaches, over the operations of a token (6N + 12LCT)."
    for measured in presets:
        yield Table(f"Training speed around {measured['preset']}", columns, measured.get("scaling", []), (note,))


def _parity(presets: Sequence[Record]) -> Iterable[Table]:
    columns = (
        _PRESET,
        Column.words("path", "path"),
        Column("steps", "steps"),
        Column("loss", "loss", formats.fixed),
        Column("float32, eager", "reference_loss", formats.fixed),
        Column("difference", "difference", formats.signed),
        Column("expected within", "expected_within", partial(formats.fixed, digits=2)),
    )
    found = [measured["parity"] for measured in presets if "parity" in measured]
    yield Table("Same seed, fast path and float32: validation loss in nats", columns, found)


def _ablation(presets: Sequence[Record]) -> Iterable[Table]:
    columns = (
        _PRESET,
        Column("models", "models"),
        *_seconds("whole ablation", "seconds"),
        Column("models/h", "models_per_hour", formats.whole),
        Column("of ceiling", "share_of_ceiling", formats.percent),
    )
    note = "From typing the command to its exit; of ceiling: the trainings' operations over what their products allow."
    yield Table("Whole ablations", columns, [found["ablation"] for found in presets if "ablation" in found], (note,))


def _ablation_peers(presets: Sequence[Record]) -> Iterable[Table]:
    columns = (
        _PRESET,
        Column.name("peer", "peer"),
        *_seconds("one training", "seconds_each"),
        Column("models/h", "models_per_hour", formats.whole),
        *_ratio("our models per hour", "ratio"),
    )
    found = [measured["ablation"] for measured in presets if "ablation" in measured]
    peers = [{**peer, "preset": each["preset"]} for each in found for peer in each["peers"]]
    yield Table("Whole ablations beside other programs, block by block", columns, peers)


def _busy(presets: Sequence[Record]) -> Iterable[Table]:
    columns = (
        _PRESET,
        Column.name("program", "program"),
        Column.name("threads wait", "waiting"),
        Column("busy processes", "busy"),
        *_milliseconds("ms a step", "step_seconds"),
        *_ratio("time, beside the same quiet", "slower_than_quiet"),
        *_ratio("faster than as it is", "faster_than_as_it_is"),
        *_ratio("faster than the peer as it is", "faster_than_peer"),
    )
    rows = [row for measured in presets for row in measured.get("busy", [])]
    note = "As it is: without minigpt's choice. Numbers are of GOMP_SPINCOUNT. Busy processes only count."
    yield Table("Training beside busy processes, block by block", columns, rows, (note,))


# Two columns of one figure


def _milliseconds(title: str, key: str, digits: int = 2) -> tuple[Column, Column]:
    def write(seconds: float) -> str:
        return formats.fixed(1000 * seconds, digits)

    quartiles = Column("quartiles", key, lambda spread: f"{write(spread['low'])}–{write(spread['high'])}")
    return Column(title, f"{key}/median", write), quartiles


def _seconds(title: str, key: str) -> tuple[Column, Column]:
    def interval(spread: Record) -> str:
        return f"{formats.seconds(spread['low'])}–{formats.seconds(spread['high'])}"

    return Column(title, f"{key}/median", formats.seconds), Column("quartiles", key, interval)


def _ratio(title: str, key: str, digits: int = 2) -> tuple[Column, Column]:
    def interval(ratio: Record | None) -> str:
        if ratio is None or ratio["low"] is None:
            return MISSING
        return f"{ratio['low']:.{digits}f}–{ratio['high']:.{digits}f}"

    median = Column(title, f"{key}/median", lambda value: f"{formats.fixed(value, digits)}×")
    return median, Column("95 %", key, interval)
