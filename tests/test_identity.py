"""What a result is the result of: the code hash sees what changes a result and nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

from conftest import Command

from minigpt.training import identity, run_directory
from minigpt.training.identity import PACKAGE, WITHOUT_INFLUENCE, code_hash, substance

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


def test_what_the_code_does_counts() -> None:
    """One constant changed is another version."""
    assert substance(SOURCE) != substance(SOURCE.replace("2 * x", "3 * x"))


def test_the_listed_modules_exist() -> None:
    """A module renamed would drop out of the list of those without influence, or worse, stay on it unnoticed."""
    assert all((PACKAGE / name).is_file() for name in WITHOUT_INFLUENCE)
    assert all((PACKAGE / name).is_file() for name in identity.SHAPING_FILES)


def imported(path: Path) -> set[Path]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("minigpt"):
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                file = (PACKAGE.parent / name.replace(".", "/")).with_suffix(".py")
                found |= {file} if file.is_file() else set()
    return found


def test_whatever_the_loop_reaches_is_counted() -> None:
    """Every module that a training imports is hashed, is on the list, or only stores, parses and complains."""
    reached, frontier = set(), {PACKAGE / "training/loop.py"}
    while frontier:
        reached |= frontier
        frontier = {file for path in frontier for file in imported(path)} - reached
    names = {path.relative_to(PACKAGE).as_posix() for path in reached}
    shaping = {name for name in names if name.split("/")[0] in identity.SHAPING_FOLDERS} | set(identity.SHAPING_FILES)
    assert names - shaping <= {"errors.py", "storage.py"}


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
