"""Ablations from the command line, end to end: rates tuned, time matched, what to expect, answers for all readers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from child_processes import PROJECT, Start, needs_fork
from conftest import TINY_MODEL, Capture, Command

from minigpt.experiments import record
from minigpt.experiments.cells import read_result

BASE = f"--corpus text.txt {TINY_MODEL} --eval-every 10 --checkpoint-every 10 --log-every 5"
SMALL = f"ablate --activations relu,gelu --seeds 2 --workers 2 {BASE} --out a --cells-dir cells"

pytestmark = needs_fork


def analysis_of(place: Path) -> dict:
    return json.loads((place / record.ANALYSIS).read_text())


def test_rates_are_tuned_and_confirmed_apart(start: Start, workplace: Path) -> None:
    """The grid grows at its edges, the best rate is judged on other seeds and windows, and cells are found again."""
    command = f"{SMALL} --steps 20 --tune-lr --tune-rates 1e-4,1e-3 --tune-seeds 1"
    assert start(command).wait() == 0
    analysis = analysis_of(workplace / "a")
    tuning = analysis["tuning"]
    assert set(tuning["extended"]) <= {"relu", "gelu"} != set()
    rows = {(row["arm"], row["lr"]): row for row in analysis["sensitivity"]}
    for arm, rate in tuning["chosen"].items():
        rivals = [row["mean"] for (name, _), row in rows.items() if name == arm]
        assert rows[arm, rate]["mean"] == min(rivals)
    main = [cell for cell in analysis["cells"] if cell["purpose"] == "main"]
    assert {(cell["arm"], cell["lr"]) for cell in main} == set(tuning["chosen"].items())
    assert {cell["seed"] for cell in main} == set(analysis["seeds"])
    assert not set(analysis["seeds"]) & set(tuning["seeds"])
    configs = [json.loads((workplace / "a" / cell["directory"] / "config.json").read_text()) for cell in main]
    assert {config["eval_part"] for config in configs} == {"odd"}
    shutil.rmtree(workplace / "a")
    assert start(command).wait() == 0
    assert not (workplace / "a/logs").exists()


def test_arms_can_be_given_equal_time(start: Start, workplace: Path) -> None:
    """Steps follow from measured durations, are kept in the plan, and are taken from there the next time."""
    command = "ablate --match time --vary n-layer=1,6 --seeds 1 --workers 1 --corpus text.txt --steps 60 --out a"
    command += " --eval-every 50 --threads 1 --n-head 2 --n-embd 16 --block-size 16 --batch-size 4 --dtype float32"
    assert start(f"{command} --cells-dir cells").wait() == 0
    plan = record.read_plan(workplace / "a")
    shallow, deep = plan["steps"].values()
    assert shallow == 60
    assert deep < shallow
    (workplace / "a/analysis.json").unlink()
    before = sorted((workplace / "cells").glob("*"))
    assert start(f"{command} --cells-dir cells").wait() == 0
    assert record.read_plan(workplace / "a")["steps"] == plan["steps"]
    assert sorted((workplace / "cells").glob("*")) == before


def test_what_to_expect_is_measured_and_nothing_is_trained(start: Start, workplace: Path) -> None:
    """A dry run lists every cell with its state and time, and leaves no cell behind."""
    assert start(f"{SMALL} --steps 20 --dry-run").wait() == 0
    shown = (workplace / "child.out").read_text().splitlines()
    assert len(shown) == 6
    assert shown[0].split() == ["cell", "arm", "seed", "state", "time"]
    assert all("to do" in line for line in shown[1:5])
    assert shown[5].startswith("4 cells, 4 to train; about ")
    assert not (workplace / "a").exists()
    assert not (workplace / "cells").exists()
    assert start(f"{SMALL} --steps 20").wait() == 0
    assert start(f"{SMALL} --steps 20 --dry-run --json").wait() == 0
    expected = json.loads((workplace / "child.out").read_text())
    assert [cell["state"] for cell in expected["cells"]] == ["done"] * 4
    assert expected["seconds"] == 0


def test_one_seed_runs_and_says_why_there_is_no_verdict(start: Start, workplace: Path) -> None:
    """A single run for each arm shows its losses, no interval, and the reason."""
    assert start(f"{SMALL} --seeds 1 --steps 10").wait() == 0
    shown = (workplace / "child.out").read_text()
    assert "no verdict" in shown
    assert "±" not in shown
    assert analysis_of(workplace / "a")["comparisons"][0]["low"] is None


@pytest.fixture
def finished(start: Start, workplace: Path) -> Path:
    """An ablation of four cells that came to its end."""
    assert start(f"{SMALL} --steps 10").wait() == 0
    return workplace / "a"


def test_a_finished_ablation_answers_without_torch(finished: Path, workplace: Path) -> None:
    """The same command prints the same table, trains nothing, and waits for no library it does not need."""
    first = (workplace / "child.out").read_text()
    program = (
        "import sys; from minigpt.cli import main; code = main(sys.argv[1:]);"
        "print(*sorted({'torch', 'scipy', 'matplotlib', 'datasets'} & set(sys.modules)), file=sys.stderr);"
        "sys.exit(code)"
    )
    words = [sys.executable, "-c", program, *f"{SMALL} --steps 10".split()]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(PROJECT)})
    assert (done.stdout, done.stderr.strip()) == (first, "")


def test_the_answer_for_programs(finished: Path, start: Start, workplace: Path) -> None:
    """--json prints one object, the analysis, and where it lies."""
    assert start(f"{SMALL} --steps 10 --json").wait() == 0
    printed = json.loads((workplace / "child.out").read_text())
    assert printed == {**analysis_of(finished), "directory": "a"}


def test_another_question_does_not_replace_an_answer(finished: Path, refused: Command) -> None:
    """The place of one ablation is not taken by another unless that is asked for."""
    refused(2, f"{SMALL} --steps 20", says=("holds another ablation", "--overwrite"))


def test_cells_of_another_version_are_shown_and_not_used(
    finished: Path, start: Start, workplace: Path, minigpt: Command, capsys: Capture
) -> None:
    """After a change of the code every cell is trained again; the old ones are listed as stale."""
    old = {path.name for path in (workplace / "cells").glob("*")}
    assert start(f"{SMALL} --steps 10", change_the_code=["another version"]).wait() == 0
    analysis = analysis_of(finished)
    assert {cell["id"] for cell in analysis["stale"]} == old
    assert not {cell["id"] for cell in analysis["cells"]} & old
    assert "stale" in (finished / "report.md").read_text().lower()


def test_a_cell_is_a_run_as_any_other(finished: Path, workplace: Path, minigpt: Command, capsys: Capture) -> None:
    """It verifies, samples and has a page; only its last checkpoint is kept."""
    cell = min((workplace / "cells").glob("*"))
    assert read_result(cell) is not None
    for command in ("verify", "sample --max-new-tokens 3", "evaluate", "report"):
        name, *flags = command.split()
        assert minigpt(f"{name} {cell}", *flags) == 0, capsys.readouterr().err
    assert len(list(cell.glob("checkpoints/*"))) == 1


def test_the_page_can_be_drawn_again(finished: Path, minigpt: Command) -> None:
    """`minigpt report` knows an ablation from a run, and writes the same bytes."""
    before = {name: (finished / name).read_bytes() for name in ("report.md", "cells.csv", "comparisons.csv")}
    assert minigpt("report a") == 0
    assert {name: (finished / name).read_bytes() for name in before} == before


def test_an_altered_plan_is_refused(finished: Path, refused: Command) -> None:
    """A margin widened by hand would turn undecided into equivalent."""
    path = finished / record.PLAN
    path.write_text(path.read_text().replace('"margin": 0.01', '"margin": 0.9'))
    refused(4, "report a", says=("was altered",))
