"""Each guard taken away in a copy of the project: the test that is named for it must turn red."""

from __future__ import annotations

import ast
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

from child_processes import PROJECT

from battery.guards import GUARDS, Guard
from battery.tallies import Figure, Tally

RED, GREEN = 1, 0  # exit codes of pytest; any other is an accident of the test run itself
PATIENCE = 300


def run(count: int, seed: int, place: Path) -> list[Figure]:
    """Take away all guards in turn, or `count` of them drawn at random."""
    tally = Tally("mutants", "a guard taken away: the test that is named for it fails", seed)
    chosen = GUARDS if count >= len(GUARDS) else random.Random(seed).sample(GUARDS, count)
    copy = place / "project"
    for name in ("minigpt", "tests"):
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "train.py", "sample.py"):
        shutil.copy(PROJECT / file, copy)
    ended = _pytest(copy, sorted({guard.test for guard in chosen}))
    if ended.returncode != GREEN:
        tally.complain(f"with every guard in place: {ended.stdout[-500:]}")
    for guard in chosen:
        file, whole, changed = without(guard, copy / "minigpt")
        file.write_text(changed, encoding="utf-8")
        ended = _pytest(copy, [guard.test])
        tally.judge(ended.returncode == RED, f"{guard.name}: {guard.test} ends with {ended.returncode}")
        file.write_text(whole, encoding="utf-8")
    tally.note = f"of {len(GUARDS)}"
    return [tally.figure()]


def without(guard: Guard, package: Path) -> tuple[Path, str, str]:
    """The file that holds a guard, its source, and its source without the guard."""
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py"))}
    places = [(path, span) for path, source in sources.items() for span in _spans(guard.old, source)]
    assert len(places) == 1, f"{guard.name}: {guard.old} is found {len(places)} times"
    file, (start, end) = places[0]
    whole = sources[file]
    changed = whole[:start] + _fitting(guard, whole, start) + whole[end:]
    for old, new in guard.also:
        changed, count = re.subn(old, new, changed)
        assert count == 1, f"{guard.name}: {old} is found {count} times in {file}"
    return file, whole, changed


def _spans(old: str, source: str) -> list[tuple[int, int]]:
    """Where a source has what a mutant replaces: a piece of text, or the body of a function."""
    if not old.startswith("def "):
        return [match.span() for match in re.finditer(old, source)]
    if f"{old}(" not in source:
        return []
    starts = [0, *itertools.accumulate(map(len, source.splitlines(keepends=True)))]
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    named = [node for node in functions if node.name == old.removeprefix("def ")]
    return [(starts[node.body[0].lineno - 1], starts[node.end_lineno or 0]) for node in named]


def _fitting(guard: Guard, source: str, start: int) -> str:
    """The replacement; that of a body is indented as the body was."""
    if not guard.old.startswith("def "):
        return guard.new
    indent = re.match(r" *", source[start:])
    return f"{indent[0] if indent else ''}{guard.new}\n"


def _pytest(project: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "pytest", "-x", "-q", "--numprocesses=0", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        words, cwd=project, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
