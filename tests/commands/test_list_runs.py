"""`minigpt runs`: the list, its page and its JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Capture, Command, tree_hash
from made_up_runs import evaluation, make_run

from minigpt.base.errors import StorageError
from minigpt.commands import list_runs


@pytest.fixture
def two_runs(workplace: Path) -> Path:
    """A folder `runs` with two runs of one evaluation each."""
    make_run(workplace / "runs/old", [evaluation(9, 3.0, 0.5)], age=5, lr=0.01)
    make_run(workplace / "runs/new", [evaluation(9, 2.0, 0.0)])
    return workplace / "runs"


def test_the_list_and_its_page(minigpt: Command, two_runs: Path, capsys: Capture) -> None:
    """Newest first, a page beside the runs, and the address at which a browser finds it."""
    assert minigpt("runs") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["new", "old"]
    assert lines[-1] == f"look:  {(two_runs / 'index.html').as_uri()}"
    assert "Runs in runs/" in (two_runs / "index.html").read_text(encoding="utf-8")


def test_json_has_the_figures_and_writes_nothing(minigpt: Command, two_runs: Path, capsys: Capture) -> None:
    """All digits, and only the settings that differ."""
    before = tree_hash(two_runs)
    assert minigpt("runs runs --json") == 0
    new, old = json.loads(capsys.readouterr().out)["runs"]
    assert (new["name"], new["loss"], new["dead"], new["settings"]) == ("new", 2.0, 0.0, {"lr": 0.001})
    assert (old["state"], old["settings"]) == ("finished", {"lr": 0.01})
    assert tree_hash(two_runs) == before


def test_a_folder_that_cannot_be_written_is_still_listed(
    minigpt: Command, two_runs: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Someone else's runs on a shared disk: the list, and a note instead of the page."""

    def refuse(*arguments: object) -> None:
        raise StorageError("cannot write; read-only")

    monkeypatch.setattr(list_runs, "write_text", refuse)
    assert minigpt("runs") == 0
    output, error = capsys.readouterr()
    assert "new" in output
    assert error == "note: no page; cannot write; read-only\n"


def test_a_page_is_opened_if_asked(minigpt: Command, two_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--open` gives the browser the page's address."""
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open_new_tab", opened.append)
    assert minigpt("runs --open") == 0
    assert opened == [(two_runs / "index.html").as_uri()]


def test_where_no_run_is(refused, workplace: Path) -> None:
    """Exit 4 with what to do, and exit 2 for a run given as a folder."""
    refused(4, "runs", says=("there is no run under runs/", "train"))
    make_run(workplace / "runs/one", [evaluation(9, 2.0, 0.0)])
    refused(2, "runs runs/one", says=("is one run", "give the folder that holds it"))
