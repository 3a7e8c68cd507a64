"""The page of a run: drawn from files alone, self-contained, and inert whatever text it shows."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from html_whitelist import Page
from neuron_files import HOSTILE, add_life, write_neuron_files

from minigpt.base.errors import CheckpointError
from minigpt.report import layer_tables
from minigpt.report.explorer_page import explorer_data
from minigpt.report.run_page import run_page

OWN_LINKS = {"metrics.jsonl", "neurons.csv"}


@pytest.fixture
def measured_run(haste: None, tiny_run: Path) -> Path:
    """The finished run with the files of `minigpt neurons`, and a life table in its log."""
    write_neuron_files(tiny_run)
    add_life(tiny_run, layers=2, steps=12)
    return tiny_run


def change_neurons(run: Path, **changes: Any) -> None:
    """Overwrite keys of every layer in `neurons.json`."""
    whole = json.loads((run / "neurons.json").read_text())
    for layer in whole["layers"]:
        layer.update(changes)
    (run / "neurons.json").write_text(json.dumps(whole))


# What it says


def test_a_finished_run_has_its_page(tiny_run: Path) -> None:
    """The figures on it are those of the summary."""
    page = Page((tiny_run / "report.html").read_text(encoding="utf-8"))
    val = json.loads((tiny_run / "summary.json").read_text())["val"]
    assert f"{val['loss']:.3f}" in page.text
    assert f"{val['perplexity']:.2f}" in page.text
    assert f"{100 * val['layers'][1]['dead_fraction']:.1f} %" in page.text
    assert "take these figures as hints" in page.text  # 2,029 tokens are few


def test_what_is_not_measured_says_how_to_measure_it(tiny_run: Path) -> None:
    """Without the files of `neurons`, three parts name the command that makes them, and no table is empty."""
    page = Page(run_page(tiny_run))
    assert page.text.count("python -m minigpt neurons ") == 3
    assert "certified" not in page.text
    log = tiny_run / "metrics.jsonl"
    unwatched = [line for line in log.read_text().splitlines() if '"trapped"' not in line and '"neurons_' not in line]
    log.write_text("\n".join([*unwatched, ""]))
    assert "this training did not watch" in Page(run_page(tiny_run)).text


def test_the_figures_are_those_of_the_files(measured_run: Path) -> None:
    """What the instrument found is on the page, in words as well."""
    text = " ".join(Page(run_page(measured_run)).text.split())
    assert "python -m minigpt neurons" not in text
    assert "3.9 % of the neurons are dead, most in layer 1 (6.2 %): 5 of 128 never fired on 161,316 tokens." in text
    assert "one token in 18,000, it would have been seen (95 %); the weights alone prove it of 1; by estimate 4" in text
    assert "Setting them to zero changes nothing: no output moves." in text
    for shown in (
        "5.7e-5",
        "1.9e-5",
        "3.7e-3",
        "28.0 %",
        "39.0",
        "set to zero, the largest change of any logit is 0",
    ):
        assert shown in text, shown
    assert "saturated, layer 0–1: relu has no flat part but zero" in text


def test_what_is_undefined_is_a_dash(measured_run: Path) -> None:
    """A null is neither zero nor an error, and a share that is not zero does not read as zero."""
    change_neurons(measured_run, dead_fraction=None, expendable_random=None, chao1=None, density=1e-5)
    page = run_page(measured_run)
    assert re.search(r'<th scope="row" class="words">0</th><td class="words">relu</td><td>64</td><td>–</td>', page)
    assert page.count("<td>&lt;0.1 %</td>") == 2
    assert "<td>–</td><td>–</td><td>–</td></tr>" in page


def test_what_a_file_lacks_is_a_dash(measured_run: Path) -> None:
    """A key that another version does not write is missing, not zero."""
    whole = json.loads((measured_run / "neurons.json").read_text())
    kept = ("layer", "activation", "neurons", "tokens")
    whole["layers"] = [{key: layer[key] for key in kept} for layer in whole["layers"]]
    (measured_run / "neurons.json").write_text(json.dumps({**whole, "model": {}}))
    text = run_page(measured_run)
    page = text.partition('id="health"')[2].partition('id="explorer"')[0]
    cells = re.findall(r"<td>([^<]*)</td>", page)
    assert {cell for cell in cells if cell != "64"} == {"–"}
    assert len(cells) > 50


def test_deaths_are_counted_by_layer_and_step(measured_run: Path) -> None:
    """Of the three that died one came back and died again; so three are dead at the end."""
    page = run_page(measured_run)
    table = page.partition("dead at the end")[2]
    row = table.partition('<th scope="row" class="words">layer 1</th>')[2].partition("</tr>")[0]
    cells = re.findall(r"<td>([^<]*)", row)
    assert [cell for cell in cells if cell != "·"] == ["3 / 0", "0 / 1", "1 (1) / 0", "4 (1) / 1", "3"]
    life = Page(page).table("life.csv")
    counts = [[int(row[key]) for key in ("up_to_step", "died", "of_these_again", "revived")] for row in life]
    happened = [[4, 3, 0, 0], [8, 0, 0, 1], [12, 1, 1, 0]]
    assert [row for row in counts if any(row[1:])] == happened * 2


def test_recycled_neurons_are_not_dead_at_the_end(measured_run: Path) -> None:
    """New weights end a death without a revival: of three dead neurons two were recycled."""
    counts = {"counts": [0, 2], "neurons": [[], [3, 8]]}
    with (measured_run / "metrics.jsonl").open("a") as log:
        log.write(json.dumps({"kind": "event", "event": "neurons_recycled", "step": 12, **counts}) + "\n")
    page = run_page(measured_run)
    table = page.partition("dead at the end")[2]
    rows = re.findall(r'<th scope="row" class="words">layer (\d)</th>(.*?)</tr>', table)
    assert [(layer, re.findall(r"<td>(\d+)</td>", row)[-1]) for layer, row in rows[:2]] == [("0", "3"), ("1", "1")]
    assert "new weights were given to 2 neurons" in " ".join(Page(page).text.split())


def test_the_csv_has_every_digit(measured_run: Path) -> None:
    """The tables read back to the numbers of the files, with nulls as empty fields."""
    page = Page(run_page(measured_run))
    layers = json.loads((measured_run / "neurons.json").read_text())["layers"]
    for row, layer in zip(page.table("layers.csv"), layers, strict=True):
        assert float(row["dead_fraction"]) == layer["dead_fraction"]
        assert float(row["dormant_fraction/0.025"]) == layer["dormant_fraction"]["0.025"]
        assert float(row["chao1/truly_dead"]) == layer["chao1"]["truly_dead"]
        assert row["linear_fraction"] == ""
    curves = [row for row in page.table("curves.csv") if row["curve"] == "contribution_curve" and row["layer"] == "1"]
    assert [float(row["y"]) for row in curves] == [
        point["share_of_contribution"] for point in layers[1]["contribution_curve"]
    ]
    losses = [row["loss"] for row in page.table("evaluations.csv")]
    log = map(json.loads, (measured_run / "metrics.jsonl").read_text().splitlines())
    assert list(map(float, losses)) == [record["loss"] for record in log if record["kind"] == "eval"]


def test_figures_of_an_earlier_step_say_so(measured_run: Path) -> None:
    """A run that went on training after its neurons were measured must not pass them off as its own."""
    assert "measures them again" not in run_page(measured_run)
    write_neuron_files(measured_run, step=8)
    assert "measured at step 8; the training has since reached step\n12" in run_page(measured_run)


# That it is inert


def test_the_page_needs_nothing_from_outside(tiny_run: Path) -> None:
    """Without a sky to point at no script at all; no image but the drawing itself; and the page forbids the rest."""
    log = tiny_run / "metrics.jsonl"
    kept = [line for line in log.read_text().splitlines(keepends=True) if '"kind": "eval"' not in line]
    log.write_text("".join(kept))
    text = run_page(tiny_run)
    page = Page(text)
    page.assert_whitelisted()
    assert "script-src" not in text
    assert "default-src 'none'" in text


def test_links_stay_in_the_page_or_beside_it(measured_run: Path) -> None:
    """Fragments that exist, tables in the page itself, and two files of the same directory."""
    page = Page(run_page(measured_run))
    page.assert_whitelisted(explorer=True)
    ids = page.values("id")
    for address in page.values("href", "xlink:href"):
        kept = address.startswith("data:text/csv") or address in OWN_LINKS
        assert kept or (address.startswith("#") and address[1:] in ids), address
    assert all((measured_run / name).exists() for name in OWN_LINKS)


def test_only_our_own_scripts_may_run(measured_run: Path) -> None:
    """The policy admits two scripts by their hashes: the files of the package, to the byte."""
    text = run_page(measured_run)
    scripts = [script for kind, script in Page(text).scripts if kind is None]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(digests) == 2
    policy = text.partition("script-src ")[2].partition('"')[0]
    assert policy.split() == [f"'sha256-{digest}'" for digest in digests]


def test_text_is_escaped(measured_run: Path) -> None:
    """A configuration that holds markup is shown as its characters."""
    clean = Page(run_page(measured_run)).tags
    config = json.loads((measured_run / "config.json").read_text())
    (measured_run / "config.json").write_text(json.dumps({**config, "corpus": HOSTILE, "tokenizer": "a\u202eb\x00"}))
    change_neurons(measured_run, activation=HOSTILE, undefined={HOSTILE: HOSTILE})
    page = Page(run_page(measured_run))
    assert HOSTILE in page.text
    assert r"a\u202eb\x00" in page.text
    assert page.tags == clean


def test_tokens_are_inert(measured_run: Path) -> None:
    """A token that closes the script's element is characters in it; marks that steer a display are escapes."""
    text = run_page(measured_run)
    data = next(script for kind, script in reversed(Page(text).scripts) if kind)
    assert "<" not in data
    tokens = json.loads(data)["layers"][0]["neurons"][2]["passages"][0]["tokens"]
    assert tokens[0] == HOSTILE
    assert tokens[1] == r" \u202e\x1b[31m\u2028\ud800"
    assert not set("\u202e\x1b\u2028\ud800") & set(text)


def test_the_page_is_reproducible(measured_run: Path) -> None:
    """The same files give the same bytes."""
    assert run_page(measured_run) == run_page(measured_run)


# What it is drawn from


def test_a_half_written_log_is_drawn(minigpt: Command, tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that is still going, or was cut off in a line, has a page; an empty one says so."""
    log = tiny_run / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:-40])
    (tiny_run / "summary.json").unlink()
    assert minigpt("report run") == 0
    log.write_bytes(b"")
    assert minigpt("report run") == 4
    assert "nothing to report yet" in capsys.readouterr().err
    with pytest.raises(CheckpointError):
        run_page(tiny_run / "elsewhere")


def test_an_altered_file_is_refused(measured_run: Path) -> None:
    """Nothing is guessed from a file that is not what its writer leaves."""
    alterations = {
        "neurons.json": ("{", '{"format": 2, "layers": []}', '{"format": 1}', "[]", '{"format": 1, "layers": [NaN]}'),
        "explorer.json": ("", '{"format": 2, "layers": []}', "\xff"),
        "summary.json": ("{", "NaN"),
        "metrics.jsonl": ("{\n", "[]\n", '{"step": 1}\n', '{"kind": NaN}\n'),
    }
    for name, contents in alterations.items():
        path = measured_run / name
        whole = path.read_bytes()
        for content in contents:
            path.write_bytes(content.encode("latin-1"))
            with pytest.raises(CheckpointError, match=re.escape(str(path))):
                run_page(measured_run)
        path.write_bytes(whole)
    run_page(measured_run)


def test_a_run_without_evaluations_is_drawn(measured_run: Path) -> None:
    """Neither the heatmap nor a table is needed for the curves."""
    log = measured_run / "metrics.jsonl"
    kept = [line for line in log.read_text().splitlines(keepends=True) if '"kind": "eval"' not in line]
    log.write_text("".join(kept))
    assert "no evaluation in the log yet" in run_page(measured_run)
    for name in ("neurons.json", "explorer.json"):
        (measured_run / name).unlink()
    assert "No evaluation has counted dead neurons yet" in run_page(measured_run)


def test_a_diverged_run_is_drawn(tiny_run: Path) -> None:
    """Figures that are not finite are gaps and dashes."""
    log = tiny_run / "metrics.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    for record in records[len(records) // 2 :]:
        record |= {"loss": None, "perplexity": None} if record["kind"] == "eval" else {"loss": None}
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    summary = json.loads((tiny_run / "summary.json").read_text())
    (tiny_run / "summary.json").write_text(json.dumps({**summary, "status": "diverged"}))
    text = run_page(tiny_run)
    assert "<b>–</b>perplexity" in text
    assert "This training diverged" in text


@pytest.mark.parametrize(("layers", "steps"), [(1, 1), (48, 50_000)])
def test_any_size_is_drawn(tiny_run: Path, layers: int, steps: int) -> None:
    """One layer or 48, one logged step or many: the page stays small enough to open at once."""
    log = tiny_run / "metrics.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    step = next(record for record in records if record["kind"] == "train")
    evaluation = next(record for record in records if record["kind"] == "eval")
    evaluation["layers"] = [{**evaluation["layers"][0], "layer": layer} for layer in range(layers)]
    rows = [{**step, "step": number} for number in range(1, steps + 1, 10)]
    rows += [{**evaluation, "step": number} for number in range(0, steps + 1, 500)]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_neuron_files(tiny_run, layers=layers, step=steps, kept=100)
    add_life(tiny_run, layers, steps)
    text = run_page(tiny_run)
    assert text.count("neurons never fired") >= layers
    assert len(text.encode()) < 3_000_000


@pytest.mark.parametrize(
    ("limit", "passages", "numbers"),
    [(100_000, 12, list(range(20))), (25_000, 7, list(range(20))), (10_000, 3, list(range(0, 20, 2)))],
)
def test_an_explorer_that_is_too_large_is_trimmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, passages: int, numbers: list[int]
) -> None:
    """The weakest passages go first, down to three, then neurons, evenly; and it is said."""
    write_neuron_files(tmp_path, layers=1, kept=20)
    explorer = json.loads((tmp_path / "explorer.json").read_text())
    for neuron in explorer["layers"][0]["neurons"]:
        neuron["passages"] = [{"tokens": ["x" * 100], "values": [rank], "peak": 0} for rank in range(12)]
    monkeypatch.setattr("minigpt.report.explorer_page.MAX_BYTES", limit)
    data = explorer_data(explorer, 0, None)
    assert len(json.dumps(data)) < 1.2 * limit
    neurons = data["layers"][0]["neurons"]
    assert [neuron["neuron"] for neuron in neurons] == numbers
    assert [passage["values"] for passage in neurons[0]["passages"]] == [[rank] for rank in range(passages)]
    assert data["trimmed"] == (passages < 12)


def test_the_page_says_that_its_explorer_was_trimmed(measured_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a neuron that is looked for in vain would seem not to exist."""
    assert "only some of the neurons" not in run_page(measured_run)
    monkeypatch.setattr("minigpt.report.explorer_page.MAX_BYTES", 5_000)
    assert "only some of the neurons" in run_page(measured_run)


def test_a_wholly_expendable_layer_carries_a_warning() -> None:
    """A weak model can do without any of its neurons, which says little of these."""
    rows = [{"layer": 0, "expendable_fraction": 0.3}, {"layer": 1, "expendable_fraction": 1.0}]
    (note,) = layer_tables.expendable_table(rows, {"expendable_fraction": 0.4}).table.notes
    assert note.startswith("Wholly expendable: 1. ")
    assert layer_tables.expendable_table(rows[:1], {"expendable_fraction": 0.4}).table.notes == ()


def test_a_cell_leads_to_what_names_it(tiny_run: Path) -> None:
    """Of a cell the ablation beside its folder; of another run none, whose name may be an arm's; and what cannot be
    read says nothing.
    """
    cell, place = tiny_run.parent / "cells" / "0123456789abcdef", tiny_run.parent
    cell.parent.mkdir()
    tiny_run.rename(cell)
    for folder in ("ablation", "other"):
        (place / folder).mkdir()
    (place / "ablation/analysis.json").write_text('{"arms": ["relu"], "cells": [{"id": "0123456789abcdef"}]}')
    (place / "other/analysis.json").mkdir()
    assert '<nav class="crumbs"' not in run_page(cell)  # its page is not drawn yet
    (place / "ablation/report.html").touch()
    assert '<a href="../../ablation/report.html">ablation</a></nav>' in run_page(cell)
    assert '<nav class="crumbs"' not in run_page(cell.rename(cell.parent / "relu"))
