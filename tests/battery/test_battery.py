"""A little of each group of the battery; more of each with -m slow, all of it with `python -m tests.battery`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from child_processes import PROJECT, needs_fork

from battery.cases import CASES
from battery.command import read_figures, record_of, write_figures
from battery.groups import GROUPS
from battery.guards import GUARDS
from battery.mutants import without
from battery.tallies import Figure, Tally, percentile

SEED = 7
A_LITTLE = {
    "kills": 6, "errnos": 60, "power_loss": 50, "bit_flips": 600, "fuzz_checkpoints": 200, "fuzz_inputs": 150,
    "cuts": 3, "observers": 2, "ablation_kills": 4, "stop_latency": 2, "overhead": 10,
}  # fmt: skip


def nothing_failed(name: str, count: int, place: Path) -> None:
    figures = GROUPS[name].run(count, SEED, place / name)
    if name == "stop_latency":  # its time is a figure of a full run on a quiet machine; here every stop must commit
        figures = figures[:1]
    assert sum(figure.count for figure in figures) >= count
    assert [(figure.line(), figure.examples) for figure in figures if figure.failures] == []


@needs_fork
@pytest.mark.parametrize("name", A_LITTLE)
def test_a_little_of_each_group(tmp_path: Path, name: str) -> None:
    """Nothing fails; the message of a failure has the seed that repeats it."""
    nothing_failed(name, A_LITTLE[name], tmp_path)


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("name", GROUPS)
def test_more_of_each_group(tmp_path: Path, name: str) -> None:
    """As much as a quick run of the battery."""
    nothing_failed(name, GROUPS[name].quick, tmp_path)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_every_guard_can_be_taken_away(guard) -> None:  # type: ignore[no-untyped-def]
    """Its source is there once, what replaces it is Python, and the test that must notice exists."""
    _, whole, changed = without(guard, PROJECT / "minigpt")
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(whole))
    assert exists(guard.test)


def test_there_are_25_guards() -> None:
    """As many as the figure says, no two of one name."""
    assert len({guard.name for guard in GUARDS}) == len(GUARDS) == 25


def exists(node: str) -> bool:
    """Whether a test of this name is in the file that is named."""
    file, _, name = node.partition("::")
    path = PROJECT / file
    functions = ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path.is_file() else ()
    return any(isinstance(entry, ast.FunctionDef) and entry.name == name.partition("[")[0] for entry in functions)


@pytest.mark.parametrize("number", range(1, 59))
def test_every_case_has_its_test(number: int) -> None:
    """58 cases, each held by tests that exist; a parameter is the name of a group."""
    assert [node for node in CASES[number] if not exists(node)] == []
    groups = {node.partition("[")[2].rstrip("]") for node in CASES[number]} - {""}
    assert groups <= set(A_LITTLE)


def test_a_failure_is_counted_and_shown() -> None:
    """A tally that is always content would prove nothing."""
    tally = Tally("group", "thing", 3)
    tally.judge(True, "")
    tally.judge(False, "case 1 of seed 3: lost")
    figure = tally.figure()
    assert (figure.count, figure.failures, figure.examples) == (2, 1, ("case 1 of seed 3: lost",))
    assert "1 failures" in figure.line()
    assert "seed 3" in figure.line()


@pytest.mark.parametrize(("share", "value"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0)])
def test_percentiles(share: float, value: float) -> None:
    """Of 1 to 100 they are what they are called."""
    assert percentile([float(number) for number in range(100, 0, -1)], share) == value


def test_the_page_holds_what_was_kept(tmp_path: Path) -> None:
    """Figures of groups that were run at different times are on one page, and the file they are kept in repeats it."""
    page = tmp_path / "not there yet" / "page.md"
    first = record_of([Figure("cuts", "a cut", 1100, 0, 12.3, 1, "22 activations")], "full", 13.0)
    second = record_of([Figure("kills", "a kill", 30, 2, 4.0, 1)], "quick", 5.0)
    write_figures(page, {"cuts": first})
    write_figures(page, {**read_figures(page.with_suffix(".json")), "kills": second})
    text = page.read_text(encoding="utf-8")
    assert "| cuts | a cut | 1,100 | 0 | 12 | 22 activations |" in text
    assert "| kills | a kill | 30 | 2 | 4 | quick run |" in text
    assert text.index("| kills |") < text.index("| cuts |")
