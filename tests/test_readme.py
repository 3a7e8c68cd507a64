"""The README is true: its commands run, its map is the tree, its table is the registry."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import draw_map
import pytest
from conftest import Command
from processes import Start, needs_fork

from minigpt.activations import init_gain, list_activations

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Flags that shrink a README command to toy size; what the command itself says comes later and wins, but for `--steps`.
TOY = (
    "--n-layer 2 --n-head 2 --n-embd 16 --block-size 16 --batch-size 2 --device cpu --threads 1 "
    "--eval-every 2 --eval-tokens 64 --checkpoint-every 2"
)


def commands() -> list[str]:
    """Every line of a `sh` block that calls Python, without comments and line continuations."""
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    calls = [call.split("  #")[0].strip() for line in lines for call in line.split("&&")]
    return [call for call in calls if call.startswith("python ")]


def as_argv(call: str) -> list[str]:
    """Turn `python train.py …`, `python sample.py …` or `python -m minigpt …` into what the command line gets."""
    words = shlex.split(call)[1:]
    if words[:2] == ["-m", "minigpt"]:
        return words[2:]
    return [words[0].removesuffix(".py"), *words[1:]]


def toy_flags() -> list[str]:
    return ["--corpus", "my-texts", *TOY.split()]


@needs_fork
def test_every_command_runs(
    minigpt: Command, start: Start, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of the README, at toy size, in an empty folder with a text of one's own."""
    (workplace / "my-texts").mkdir()
    text = (workplace / "text.txt").read_text(encoding="utf-8")
    (workplace / "my-texts" / "one.txt").write_text("The beginning.\n" + text, encoding="utf-8")
    calls = [call for call in commands() if "pytest" not in call]
    assert len(calls) >= 8
    for call in calls:
        name, *flags = as_argv(call)
        if name == "ablate":
            assert start(" ".join([name, *toy_flags(), *flags, "--seeds", "2", "--steps", "4"])).wait() == 0, call
            continue
        toy = [*toy_flags(), *flags, "--steps", "4"] if name == "train" else flags
        if name == "train" and "--resume" in flags:
            toy = flags
        assert minigpt(name, *toy) == 0, (call, capsys.readouterr().err)


def test_the_two_commands_are_those_of_continuous_integration() -> None:
    """Installing and testing is written down twice; both must be the same."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install -e . && python train.py" in README
    assert "pip install -e '.[test]' && python -m pytest" in README
    assert "-e '.[test]' && python -m pytest" in script


def test_the_map_is_the_tree() -> None:
    """Every source file is on the map of docs/architecture.md with what it says of itself, and nothing else is."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert draw_map.with_map(page) == page, "run python tools/draw_map.py --write"
    files = {path.name for path in (ROOT / "minigpt").rglob("*.py") if path.name != "__init__.py"}
    assert {word for word in draw_map.the_map().split() if word in files} == files


def test_the_table_is_the_registry() -> None:
    """Each activation has its row, with the figures that the code computes."""
    section = README.split("## Activations")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)`(.*)$", section, flags=re.MULTILINE)
    entries = {entry.name: entry for entry in list_activations()}
    assert [name for name, _ in rows] == list(entries)
    for name, row in rows:
        cells = [cell.strip() for cell in row.split(" | ")]
        entry = entries[name]
        assert cells[1].replace("\\|", "|") == entry.summary
        assert cells[2] == entry.source
        assert cells[3] == ("yes" if entry.gated else "")
        if entry.elementwise:
            assert cells[-1].removesuffix(" |") == f"{init_gain(name, 512):.4g}"
