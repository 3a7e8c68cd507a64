"""Configurations, command lines and texts as nobody should write them: help, or one line; never a bug, never code."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import socket
from pathlib import Path

import pytest

from battery.fuzzing import fuzz
from battery.grounds import quietly, workplace
from battery.hostile import RAW, VALUES, altered_bytes
from battery.tallies import Figure, Tally
from minigpt.base.errors import UsageError
from minigpt.cli import COMMANDS
from minigpt.training import loop
from minigpt.training.config import RunConfig

FIELDS = [item.name for item in dataclasses.fields(RunConfig)]
FLAGS = sorted(
    {f"--{name.replace('_', '-')}" for name in FIELDS}
    | {"--config", "--out", "--resume", "--overwrite", "--prompt", "--top-k", "--temperature", "--json", "--split"}
    | {"--checkpoint", "--num-samples", "--max-new-tokens", "--skip-unknown", "-h", "--", "-", "--no-bias"}
)
WORDS = (
    "", " ", "-", "--", "=", "a=b", ".", "..", "/", "~", "1", "0", "-1", "1e400", "nan", "inf", "0x10", "1_0",
    "9" * 30, "9" * 400, "relu", "swiglu", "leaky_relu:nan", "0=relu", "0-9999999=relu", "os.system",
    "{0.__class__}", "%s", "$(true)", "`true`", "\ud800", "\x1b[2J", "\u202e", "é", "🙂", "\x00", "text.txt",
    "hf:x/y/z", "grammar:", "bpe:-1", "cuda:99", "x" * 5000,
)  # fmt: skip
TEXTS = (
    "The cat sat.\n", "\r\n", "\r", "\x00", "\ufeff", "\u200d", "\u202e", "🙂", "é", "e\u0301", "\U0010ffff",
    " " * 500, "\n" * 500, "word" * 300, '{"text": "a"}\n', '{"text": null}\n', "[1, 2]\n", "<script>",
    "\x1b]0;x\x07", "\u2028", "\x85",
)  # fmt: skip
EXITS = (0, 2, 3, 4, 5, 8)
SAID_BEFORE = ("note: ", "warning: ", "preparing ", "read ")


def run(count: int, seed: int, place: Path) -> list[Figure]:
    """A third of each kind; what would train or measure for long is refused at its door."""
    third = count // 3
    kinds = {
        "configuration": (_configuration, third),
        "command line": (_command_line, third),
        "text": (_text, count - 2 * third),
    }
    figures = []
    for name, (case, number) in kinds.items():
        with workplace(place / name.replace(" ", "-")) as patch:
            _refuse_work(patch, prepares=case is _text)
            tally = Tally("fuzz_inputs", f"a {name} that nobody should write", seed)
            fuzz(tally, number, case)
            figures.append(tally.figure())
    return figures


def _refuse_work(patch: pytest.MonkeyPatch, prepares: bool) -> None:
    """Train nothing, measure nothing, ask no other machine; at most prepare the text."""

    def not_here(config: RunConfig, *arguments: object, **options: object) -> None:
        if prepares:
            loop.prepare_text(config)
        raise UsageError("training is not what is tested here")

    def unreachable(*arguments: object, **options: object) -> None:
        raise OSError("no network is what is tested here")

    patch.setattr(loop, "train", not_here)
    patch.setattr(socket, "create_connection", unreachable)


def _judged(code: int, printed: str, what: str) -> str:
    """What is wrong with how a command ended: nothing, if it said one error, after notes at most."""
    *before, last = printed.splitlines() or [""]
    said = code == 0 or (last.startswith("error: ") and all(line.startswith(SAID_BEFORE) for line in before))
    fits = code in EXITS and said and "Traceback" not in printed
    return "" if fits else f"{what} ends with {code}: {printed[-300:]}"


def _configuration(chance: random.Random) -> str:
    """A file of settings, in TOML: some sane, some hostile, the bytes altered in one of three."""
    lines = []
    for _ in range(chance.randrange(1, 6)):
        name = chance.choice([*FIELDS, "x", "model.n_layer", '"a b"'])
        value = json.dumps(chance.choice(VALUES)).encode()
        lines.append(name.encode() + b" = " + (chance.choice(RAW) if chance.random() < 0.2 else value))
    data = b"\n".join(lines)
    data = altered_bytes(data, chance) if chance.random() < 0.3 else data
    file = Path(chance.choice(("c.toml", "c.toml", "c.py", "c.json")))
    file.write_bytes(data)
    return _judged(*quietly(f"train --config {file}"), f"train with {data[:200]!r}")


COMMANDS_TO_TRY = sorted(set(COMMANDS) - {"ablate", "bench", "claims", "doctor"})  # these measure if nothing is wrong


def _command_line(chance: random.Random) -> str:
    words = [chance.choice([*COMMANDS_TO_TRY, "x", ""])]
    for _ in range(chance.randrange(6)):
        flag, word = chance.choice(FLAGS), chance.choice(WORDS)
        words += chance.choice(([flag, word], [f"{flag}={word}"], [word], [flag]))
    return _judged(*quietly("", *words), f"{words!r:.300}")


def _text(chance: random.Random) -> str:
    """A corpus: pieces of text in some encoding and under some ending, the bytes altered in one of four."""
    pieces = "".join(chance.choice(TEXTS) for _ in range(chance.randrange(1, 30)))
    data = pieces.encode(chance.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-16-le", "utf-32", "utf-7")))
    data = altered_bytes(data, chance) if chance.random() < 0.25 else data
    name = "t" + chance.choice((".txt", ".jsonl", ".md", ".json", ".parquet", ".csv", ".gz", ""))
    Path(name).write_bytes(data)
    tokenizer = chance.choice(("char", "byte", "bpe:280"))
    flags = f"--corpus {name} --tokenizer {tokenizer} --block-size {chance.choice((1, 4, 64))}"
    try:
        return _judged(*quietly(f"train {flags}"), f"a text of {data[:200]!r} with {flags}")
    finally:
        Path(name).unlink()
        shutil.rmtree("data", ignore_errors=True)
