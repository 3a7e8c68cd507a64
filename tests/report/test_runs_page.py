"""The list of a folder's runs: what it says of each, the order, and the page that compares any of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import BROWSER, opened, width_on_a_phone
from html_whitelist import ATTRIBUTES, TAGS, Page
from made_up_runs import evaluation, make_run, train_step

from minigpt.base.errors import CheckpointError, UsageError
from minigpt.base.storage import lock_directory
from minigpt.report.line_chart import line_chart
from minigpt.report.run_list import answer, differing, list_runs, read_run, runs_table, unusual_settings
from minigpt.report.runs_page import FIRST_TICKED, runs_page

RECORDS = [evaluation(0, 4.0, 0.0), train_step(50, 900.0), train_step(90, 1100.0), evaluation(100, 2.5, 0.25)]


def folder_of(place: Path, number: int) -> Path:
    for index in range(number):
        make_run(place / f"run-{index}", RECORDS, age=index, seed=index)
    return place


def test_the_figures_are_those_of_the_files(tmp_path: Path) -> None:
    """Loss and dead of the last evaluation, inert over all neurons of both layers, the median speed."""
    run = read_run(make_run(tmp_path / "a", RECORDS))
    assert (run.state, run.step, run.steps, run.loss, run.dead) == ("finished", 100, 100, 2.5, 0.25)
    assert run.inert == pytest.approx(0.4 * 100 / 400)
    assert run.tokens_per_second == 1000
    assert run.losses == ((0, 4.0), (100, 2.5))


def test_the_state_of_a_run(tmp_path: Path) -> None:
    """Who holds it trains it; without a summary and a holder it was interrupted, whatever an older summary says."""
    stopped = make_run(tmp_path / "stopped", RECORDS[:2], status="stopped")
    cut = make_run(tmp_path / "cut", RECORDS[:2], status="")
    assert (read_run(stopped).state, read_run(cut).state) == ("stopped", "interrupted")
    assert read_run(cut).progress == "interrupted, 50 of 100"
    for run in (stopped, cut):
        with lock_directory(run):
            assert read_run(run).state == "training"
    assert read_run(make_run(tmp_path / "new", [], status="")).progress == "interrupted, 0 of 100"


def test_a_damaged_run_is_listed_with_the_reason_and_hides_no_other(tmp_path: Path) -> None:
    """Configuration, log or summary altered: the line says so, the list goes on."""
    for name, file in (("c", "config.json"), ("m", "metrics.jsonl"), ("s", "summary.json")):
        (make_run(tmp_path / name, RECORDS) / file).write_text('{"kind": "lie"}\n')
    (tmp_path / "c/config.json").write_text("[]")
    make_run(tmp_path / "good", RECORDS)
    runs = {run.name: run for run in list_runs(tmp_path)}
    assert {name for name, run in runs.items() if run.state == "damaged"} == {"c", "m", "s"}
    assert runs["good"].loss == 2.5
    text = runs_table(list(runs.values())).terminal(200)
    assert text.count("altered") == 3


def test_the_newest_is_first_and_what_is_no_run_is_left_out(tmp_path: Path) -> None:
    """By the moment the training began; files, other folders and half-prepared runs do not count."""
    folder_of(tmp_path, 3)
    (make_run(tmp_path / "half", RECORDS) / "unfinished.json").write_text("{}")
    (tmp_path / "notes").mkdir()
    assert [run.name for run in list_runs(tmp_path)] == ["run-0", "run-1", "run-2"]
    with pytest.raises(CheckpointError, match="train one first"):
        list_runs(tmp_path / "notes")
    with pytest.raises(UsageError, match="is one run"):
        list_runs(tmp_path / "run-0")


def test_only_what_differs_is_said(tmp_path: Path) -> None:
    """A setting of most runs is left out; where no value has a majority all say theirs."""
    make_run(tmp_path / "a", RECORDS, lr=0.003)
    make_run(tmp_path / "b", RECORDS)
    make_run(tmp_path / "c", RECORDS, threads=7)
    runs = {run.name: run for run in list_runs(tmp_path)}
    everyone = list(runs.values())
    assert differing(everyone) == ["lr"]
    assert [unusual_settings(runs[name], everyone) for name in "abc"] == ["lr 0.003", "", ""]
    pair = [runs["a"], runs["b"]]
    assert [unusual_settings(run, pair) for run in pair] == ["lr 0.003", "lr 0.001"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_list_fits_the_window(tmp_path: Path, width: int) -> None:
    """No line is wider, and no name is broken."""
    make_run(tmp_path / "nanogpt-cpu-fast-swiglu-s1337-2", RECORDS, schedule="constant", optimizer="muon")
    make_run(tmp_path / "tiny", RECORDS, corpus="a-text", seed=3, n_layer=8)
    text = runs_table(list_runs(tmp_path)).terminal(width)
    assert max(map(len, text.splitlines())) <= width
    assert "nanogpt-cpu-fast-swiglu-s1337-2" in text


def test_the_answer_is_computed(tmp_path: Path) -> None:
    """States counted, the lowest loss and the most dead named; nothing is said of what was not measured."""
    make_run(tmp_path / "a", [evaluation(9, 2.0, 0.0)])
    make_run(tmp_path / "b", [evaluation(9, 3.0, 0.5)], age=1)
    make_run(tmp_path / "c", [], status="", age=2)
    a, b, c = list_runs(tmp_path)
    assert answer([a, b, c]) == (
        "3 runs: 2 finished and 1 interrupted. The lowest loss is 2.000 nats per token (a); "
        "b has the most dead neurons, 50.0 %."
    )
    assert answer([a]).endswith("(a); no neuron is dead.")
    assert answer([c]) == "1 run: all interrupted."


def test_the_page_is_self_contained_and_inert(tmp_path: Path) -> None:
    """Nothing but what pages consist of, no network, hostile names as characters."""
    make_run(tmp_path / "<b onclick=x>\u202e", RECORDS, activation="<script>alert(1)</script>")
    make_run(tmp_path / "other", RECORDS)
    text = runs_page(tmp_path, list_runs(tmp_path))
    page = Page(text)
    assert page.tags <= TAGS | {"fieldset", "legend", "label", "input"}
    assert {name for name, _ in page.attributes} <= ATTRIBUTES | {"type", "checked"}
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text
    assert "\u202e" not in text
    assert not [address for address in page.values("href", "src") if ":" in address or address.startswith("//")]


def test_the_newest_are_ticked(tmp_path: Path) -> None:
    """A hundred curves show nothing; the others wait for a tick."""
    text = runs_page(tmp_path, list_runs(folder_of(tmp_path, FIRST_TICKED + 2)))
    assert text.count(" checked>") == FIRST_TICKED
    assert text.count('type="checkbox"') == FIRST_TICKED + 2


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_tick_decides_what_is_shown(tmp_path: Path) -> None:
    """In a real browser the row and the curve of a run without a tick take no room; a phone needs no scrolling."""
    folder = folder_of(tmp_path / "runs", FIRST_TICKED + 1)
    text = runs_page(folder, list_runs(folder))
    measure = "[...document.querySelectorAll('.chosen tbody tr, g')].filter((e) => e.getClientRects().length).length"
    policy = text.index("<meta http-equiv")
    without_policy = text[:policy] + text[text.index("\n", policy) :]
    (folder / "index.html").write_text(f"{without_policy}<script>document.title = 'shown: ' + {measure}</script>")
    assert f"shown: {4 * FIRST_TICKED}<" in opened(folder / "index.html")
    assert width_on_a_phone(text, 390, folder) <= 390


@pytest.mark.parametrize("values", [[], [(0, 0.0)], [(0, 2.0), (5, 2.0)], [(0, -1.0), (10, 1e9)]])
def test_any_line_can_be_drawn(values: list[tuple[float, float]]) -> None:
    """No line, one point, a level one: a picture each, without a number that is none."""
    drawn = line_chart("t", "u", [values], str)
    assert "nan" not in drawn
    assert "inf" not in drawn
