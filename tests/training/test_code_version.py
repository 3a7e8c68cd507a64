"""What a result is the result of: the code hash sees what changes a result and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import Command

from minigpt.training import run_directory
from minigpt.training.code_version import BEGINNINGS, PACKAGE, WITHOUT_INFLUENCE, code_hash, imported_by, substance

SOURCE = '''"""Docstring."""

# a comment
def double(x: int) -> int:
    """Twice."""
    return 2 * x
'''


def test_words_about_the_code_do_not_count() -> None:
    """A comment mended must not make hours of finished training stale."""
    bare = "def double(x: int) -> int:\n    return 2*x   # two times\n"
    assert substance(SOURCE) == substance(bare)


def test_every_version_of_python_says_the_same() -> None:
    """Else the cells of one host would be stale on another; spelled out, since only one version runs here."""
    name = "targets=[Name(id='x',ctx=Store())]"
    value = "Dict(keys=[None],values=[Name(id='y',ctx=Load())])"
    assert substance("x = {**y}\n") == f"Module(body=[Assign({name},value={value})])"
    assert substance("def f(): return None\n") != substance("def f(): return\n")


def test_what_the_code_does_counts() -> None:
    """One constant changed is another version."""
    assert substance(SOURCE) != substance(SOURCE.replace("2 * x", "3 * x"))


def test_only_what_would_count_is_excepted() -> None:
    """A module renamed would count again, and hours of finished training would be stale for nothing."""
    assert imported_by(*BEGINNINGS) >= WITHOUT_INFLUENCE


def test_whatever_the_loop_loads_is_seen() -> None:
    """Against the interpreter itself: every module of ours that importing the loop loads is among those considered."""
    program = "import sys, minigpt.training.loop; print(*[name for name in sys.modules if name.startswith('minigpt.')])"
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    named = {f"{name.removeprefix('minigpt.').replace('.', '/')}.py" for name in done.stdout.split()}
    modules = {name for name in named if (PACKAGE / name).is_file()}
    assert len(modules) > 20
    assert modules <= imported_by(*BEGINNINGS)


def test_a_run_records_it_and_an_altered_summary_is_noticed(minigpt: Command, tiny_run: Path) -> None:
    """A result that somebody edited by hand is not taken for one that was measured."""
    assert run_directory.read_summary(tiny_run)["identity"]["code"] == code_hash()
    path = tiny_run / run_directory.SUMMARY
    path.write_text(path.read_text().replace('"steps": 12', '"steps": 13'))
    assert minigpt("verify run") == 4


def test_an_altered_log_is_noticed(minigpt: Command, tiny_run: Path) -> None:
    """The figures of a summary are those of its log."""
    path = tiny_run / run_directory.METRICS
    path.write_text(path.read_text().replace('"kind": "train", "step": 3,', '"kind": "train", "step": 3 ,'))
    assert minigpt("verify run") == 4
