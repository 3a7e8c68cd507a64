"""The lesson runs as it stands, and what it shows is what it computed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import execute_notebook
import pytest

ROOT = Path(__file__).parents[1]
LESSONS = ROOT / "docs/lessons"
NOTEBOOK: dict[str, Any] = json.loads((LESSONS / "dead-neurons.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_every_cell_runs(tmp_path: Path) -> None:
    """At toy size, in an empty folder, from the first cell to the last; a warning counts as a failure."""
    command = [
        sys.executable,
        "-W",
        "error",
        str(ROOT / "tools/execute_notebook.py"),
        str(LESSONS / "dead-neurons.ipynb"),
    ]
    toy = {"LESSON_FAST": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LESSON_FOLDER": str(tmp_path)}
    done = subprocess.run(command, env=os.environ | toy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_notebook_was_executed_from_top_to_bottom() -> None:
    """Every code cell has its number and an output, none is an error, and all together stay small."""
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert all(cell["outputs"] for cell in CODE[1:])
    assert not [output for cell in CODE for output in cell["outputs"] if output["output_type"] == "error"]
    assert len((LESSONS / "dead-neurons.ipynb").read_bytes()) < 500_000


def test_figures_and_page_are_the_notebooks() -> None:
    """The files for slides and the numbers on the page to print are outputs of cells, not copies by hand."""
    drawn = execute_notebook.figures(NOTEBOOK)
    assert set(drawn) == {"firing-rates", "forest"}
    for name, svg in drawn.items():
        assert (LESSONS / f"figures/{name}.svg").read_text(encoding="utf-8") == svg
        assert "CC BY 4.0" in svg
    page = (LESSONS / "one-page.md").read_text(encoding="utf-8")
    assert execute_notebook.with_figures_of(page, NOTEBOOK) == page


def test_the_prose_holds_for_the_numbers_beside_it() -> None:
    """What the lesson says happens did happen in the runs that it shows."""
    text = "".join("".join(output.get("text", [])) for cell in CODE for output in cell["outputs"])
    before, without_dead, without_living = (
        float(line.split()[-1 - line.endswith("nats")])
        for line in text.splitlines()
        if line.startswith(("as trained", "without its", "without as many living ones  "))
    )
    assert without_dead == before
    assert without_living > before
    counts = [int(line.split()[2]) for line in text.splitlines() if line.endswith("neurons never fired")]
    assert len(counts) == 4
    assert counts == sorted(counts, reverse=True)


def test_the_verdicts_shown_are_the_ledgers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lesson ends with the ledger as it is published, not as it was when the notebook was executed."""
    [cell] = [cell for cell in CODE if "ledger.json" in "".join(cell["source"])]
    monkeypatch.setenv("LESSON_ROOT", str(ROOT))
    namespace: dict[str, Any] = {"json": json, "os": os, "Path": Path}
    found = execute_notebook.outputs_of("".join(cell["source"]), "verdicts", namespace, cell["execution_count"])
    assert found == cell["outputs"]


def test_there_are_five_exercises_with_answers() -> None:
    """Each is followed by a cell that answers it."""
    kinds = [(cell["cell_type"], "".join(cell["source"])) for cell in NOTEBOOK["cells"]]
    for number in range(1, 6):
        [position] = [index for index, (_, source) in enumerate(kinds) if f"**{number}.** " in source]
        assert kinds[position + 1][0] == "code"


@pytest.mark.parametrize(
    ("source", "outputs"),
    [
        ("x = 1", []),
        ("print('a\\nb')", [["a\n", "b\n"]]),
        ("x = 2\nx + 1", [["3"]]),
        ("None", []),
    ],
)
def test_a_cell_shows_what_it_prints_and_its_last_value(source: str, outputs: list[list[str]]) -> None:
    """As in Jupyter."""
    found = execute_notebook.outputs_of(source, "cell", {}, 1)
    assert [output.get("text") or output["data"]["text/plain"] for output in found] == outputs
