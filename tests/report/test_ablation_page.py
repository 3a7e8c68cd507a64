"""The page of an ablation and its texts: everything in the analysis is said, nothing is made up, nothing executes."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from ablation_examples import EFFECTS, Record, analysis_of
from browser import BROWSER, opened, width_on_a_phone
from html_whitelist import Page

from minigpt.base import formats
from minigpt.base.errors import CheckpointError
from minigpt.report import ablation_figures
from minigpt.report.ablation_contents import title
from minigpt.report.ablation_page import ablation_page
from minigpt.report.ablation_texts import (
    ablation_markdown,
    arms_csv,
    cells_csv,
    comparisons_csv,
    fairness_csv,
    terminal_table,
)

HOSTILE = '"><script>alert(1)</script>'


def arms(*names: str) -> dict[str, tuple[float, float]]:
    return {name: EFFECTS[name] for name in names}


def written(analysis: Record, directory: Path) -> Path:
    """The directory of an ablation with this answer."""
    (directory / "analysis.json").write_text(json.dumps(analysis), encoding="utf-8")
    return directory


def grid() -> Record:
    """Three activations at three learning rates, one arm diverged in every cell."""
    rates = {f"{name}, lr={lr:g}": (name, lr) for name in ("relu", "gelu", "silu") for lr in (0.001, 0.003, 0.01)}
    effects = {arm: (abs(lr - 0.003) * 20, 0.01) for arm, (_, lr) in rates.items()}
    return analysis_of(effects, 3, rates=rates, diverged=("gelu, lr=0.01",))


def unstarted() -> Record:
    """Every cell is pending and no machine is known yet."""
    analysis = analysis_of(arms("relu", "gelu"), 2, pending=4)
    nothing: dict[str, Any] = dict.fromkeys(("noise_floor", "pairing", "power"))
    for arm in analysis["arms"]:
        arm |= {"curve": [], "bits_per_byte": None}
        arm["fairness"] |= dict.fromkeys(("parameters", "d_ff", "flops_per_token", "same_windows", "same_start"))
    provenance = dict.fromkeys(analysis["provenance"]) | {"mixed": []}
    costs = {"arms": {"relu": dict.fromkeys(("seconds_per_step", "peak_memory_bytes")) | {"seconds": 0}}, "seconds": 0}
    return analysis | nothing | {"provenance": provenance, "cost": costs, "conclusion": [], "family": 0}


EXAMPLES = {
    "usual": lambda: analysis_of(arms("relu", "gelu", "swiglu"), 3),
    "one seed": lambda: analysis_of(arms("relu", "gelu"), 1, tokens=20_000),
    "one arm": lambda: analysis_of(arms("relu"), 3),
    "all pairs, incomplete": lambda: analysis_of(arms("relu", "gelu", "swiglu"), 3, compare="all", pending=2),
    "ten arms": lambda: analysis_of(EFFECTS, 3),
    "grid": grid,
    "all diverged": lambda: analysis_of(arms("relu", "gelu"), 2, diverged=("relu", "gelu")),
    "unstarted": unstarted,
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_ablation_has_a_page_and_texts(example: str, tmp_path: Path) -> None:
    """Whatever is missing, all are written: with a dash where a figure lacks, never `None` or `nan`."""
    analysis = EXAMPLES[example]()
    directory = written(analysis, tmp_path)
    page = Page(ablation_page(directory))
    for text in (page.text, ablation_markdown(directory), terminal_table(analysis, 160)):
        assert not re.search(r"\b(None|nan|inf|null)\b", text)
        for arm in analysis["arms"]:
            assert arm["name"] in text
    page.assert_whitelisted()
    assert ("Incomplete" in page.text) == (not analysis["complete"])


@pytest.mark.parametrize("example", ["usual", "all pairs, incomplete", "grid"])
def test_every_number_of_the_comparisons_is_shown(example: str, tmp_path: Path) -> None:
    """Mean, interval, p-values and verdict are on the page and in the Markdown, and the forest draws them."""
    analysis = EXAMPLES[example]()
    directory = written(analysis, tmp_path)
    shown = (Page(ablation_page(directory)).text, ablation_markdown(directory).replace("\\", ""))
    drawn = Page(ablation_figures.forest(analysis)).text
    for pair in analysis["comparisons"]:
        numbers = [formats.signed(pair["mean"]), formats.interval(pair["low"], pair["high"]), pair["verdict"]]
        numbers += [formats.p_value(pair[key]) for key in ("p_t", "p_t_holm", "p_sign_flip", "p_tost", "p_tost_holm")]
        for text in shown:
            assert all(number in text for number in numbers)
            assert pair["reason"] in text
        assert pair["arm"] in drawn
        assert (pair["verdict"] if pair["mean"] is None else f"{numbers[0]}, {pair['verdict']}") in drawn


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    """No script, and links only within the page and to cells that have a page; the page forbids the rest to itself."""
    analysis = EXAMPLES["usual"]()
    directories = ["javascript:alert(1)", "a//elsewhere.example", "cells/a", "cells/b"]
    for cell, directory in zip(analysis["cells"], directories, strict=False):
        cell["directory"] = directory
    for directory in directories[:3]:
        (tmp_path / directory).mkdir(parents=True)
        (tmp_path / directory / "report.html").touch()
    text = ablation_page(written(analysis, tmp_path))
    page = Page(text)
    links = set(page.values("href", "src", "xlink:href"))
    assert {link for link in links if link and not link.startswith("#")} == {"cells/a/report.html"}
    anchors = set(page.values("id"))
    assert {str(link)[1:] for link in links if link and link.startswith("#")} <= anchors
    assert "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'" in text


def test_text_is_inert(tmp_path: Path) -> None:
    """Markup and formulas in names, texts and environment are shown as their characters, in figures too."""
    name = f"{HOSTILE} $\\frac$ | ``` _x_"
    analysis = analysis_of({"relu": (0.0, 0.01), name: (0.02, 0.0)}, 3, corpus=HOSTILE)
    analysis |= {"name": HOSTILE, "command": HOSTILE, "conclusion": [HOSTILE], "base": {HOSTILE: HOSTILE}}
    analysis["provenance"] |= {"processor": HOSTILE, "mixed": [HOSTILE]}
    analysis["comparisons"][0]["reason"] = HOSTILE
    analysis["stale"] = [{"id": HOSTILE, "arm": HOSTILE, "seed": 1, "code": HOSTILE}]
    directory = written(analysis, tmp_path)
    page = Page(ablation_page(directory))
    page.assert_whitelisted()
    assert page.text.count(HOSTILE) > 20
    outside_code = re.sub(r"^(`{3,})sh\n.*?^\1$", "", ablation_markdown(directory), flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside_code.replace("\\<", "")
    assert "````sh" in ablation_markdown(directory)  # a fence that the backticks of the name cannot close


def test_the_same_analysis_gives_the_same_bytes(tmp_path: Path) -> None:
    """Page and Markdown repeat; times change only them and the fairness table."""
    analysis = EXAMPLES["grid"]()
    directory = written(analysis, tmp_path)
    assert ablation_page(directory) == ablation_page(directory)
    assert ablation_markdown(directory) == ablation_markdown(directory)
    slower = json.loads(json.dumps(analysis))
    for cost in slower["cost"]["arms"].values():
        cost |= {"seconds_per_step": 7.7, "seconds": 99.0}
    for text in (cells_csv, comparisons_csv, arms_csv, terminal_table):
        assert text(analysis) == text(slower)
    assert fairness_csv(analysis) != fairness_csv(slower)


def test_csv_keeps_every_number_exactly() -> None:
    """Read back by another parser, floats are the same bits, missing ones empty, and any text survives quoting."""
    name = 'a "quoted", name\nof two lines'
    analysis = analysis_of({"relu": (0.0, 0.01), name: (0.02, 0.0), "gelu": (0.0, 0.0)}, 3, diverged=("gelu",))
    cells = read_csv(cells_csv(analysis))
    assert len(cells) == 9
    for line, cell in zip(cells, analysis["cells"], strict=True):
        assert line["arm"] == cell["arm"]
        assert line["command"] == cell["command"]
        assert (float(line["loss"]) if line["loss"] else None) == cell["loss"]
    for line, pair in zip(read_csv(comparisons_csv(analysis)), analysis["comparisons"], strict=True):
        for key in ("mean", "low", "high", "p_t", "p_t_holm"):
            assert (float(line[key]) if line[key] else None) == pair[key]
        for entry in pair["differences"]:
            field = line[f"difference_seed_{entry['seed']}"]
            assert (float(field) if field else None) == entry["difference"]
    for line, arm in zip(read_csv(arms_csv(analysis)), analysis["arms"], strict=True):
        assert json.loads(line["settings"]) == arm["settings"]
        for layer in arm["layers"]:
            assert float(line[f"layer_{layer['layer']}_inert_fraction_max"]) == layer["inert_fraction"]["max"]
    for line, arm in zip(read_csv(fairness_csv(analysis)), analysis["arms"], strict=True):
        assert [int(width) for width in line["d_ff"].split()] == arm["fairness"]["d_ff"]
        assert line["same_windows"] == "true"


def read_csv(text: str) -> list[dict[str, str]]:
    assert text.endswith("\r\n")
    header, *lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    return [dict(zip(header, line, strict=True)) for line in lines]


@pytest.mark.parametrize("example", ["usual", "grid"])
def test_markdown_tables_are_whole(example: str, tmp_path: Path) -> None:
    """Every row has the cells of its heading, and there is a row for every cell with its figures and command."""
    analysis = EXAMPLES[example]()
    text = ablation_markdown(written(analysis, tmp_path))
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    for cell in analysis["cells"]:
        row = next(line for line in text.splitlines() if line.startswith(f"| [{cell['id']}]({cell['directory']}/)"))
        assert formats.fixed(cell["loss"]) in row
        assert cell["command"] in text.splitlines()
        assert ("DIVERGED" in row) == (cell["status"] == "diverged")


def test_the_terminal_shows_the_answer_in_short() -> None:
    """A line for each arm: loss, half-width, perplexity, dead shares, difference, verdict; then the conclusion."""
    analysis = EXAMPLES["usual"]()
    lines = terminal_table(analysis, 160).splitlines()
    for line, arm in zip(lines[1:4], analysis["arms"], strict=True):
        half = (arm["loss"]["high"] - arm["loss"]["low"]) / 2
        assert line.startswith(arm["name"])
        assert f"{arm['loss']['mean']:.4f} ± {half:.4f}" in line
        assert f"{arm['perplexity']:.3f}" in line
        assert " ".join(f"{100 * layer['dead_fraction']['mean']:.1f}" for layer in arm["layers"]) + " %" in line
    for pair in analysis["comparisons"]:
        line = next(line for line in lines if line.startswith(pair["arm"]))
        assert formats.interval(pair["low"], pair["high"]) in line
        assert pair["verdict"] in line
    assert lines[-2:] == analysis["conclusion"]
    every_pair = terminal_table(EXAMPLES["all pairs, incomplete"](), 160)
    assert len(re.findall(r"^\w+ − \w+  ", every_pair, flags=re.MULTILINE)) == 1 + 3


def test_few_tokens_carry_a_mark(tmp_path: Path) -> None:
    """Shares of neurons from too few tokens are hints, in every form in which they are shown."""
    few, enough = EXAMPLES["one seed"](), EXAMPLES["usual"]()
    assert "⚠ 0.0" in terminal_table(few)
    assert "⚠" not in terminal_table(enough)
    assert "Counted on fewer than 65,536 tokens" in Page(ablation_page(written(few, tmp_path))).text
    assert "Counted on fewer" not in ablation_markdown(written(enough, tmp_path))


def test_stale_cells_are_said_not_to_be_used(tmp_path: Path) -> None:
    """Results of an older training code are named and set apart."""
    analysis = EXAMPLES["usual"]()
    analysis["stale"] = [{"id": "0ff1ce", "arm": "relu", "seed": 1337, "code": "9" * 64}]
    text = Page(ablation_page(written(analysis, tmp_path))).text
    assert "another version of the training code left 1 cell, listed below and not used" in text
    assert "0ff1ce" in text


def test_the_forest_is_logarithmic_only_where_it_must_be() -> None:
    """Beside a difference of 0.3 nats, one of 0.01 would be a hair on a linear axis; the caption says which it is."""
    near, far = EXAMPLES["usual"](), EXAMPLES["ten arms"]()
    assert not ablation_figures.reaches_far(near)
    assert ablation_figures.reaches_far(far)
    assert "+0.10" in Page(ablation_figures.forest(far)).text


@pytest.mark.parametrize("content", [None, "", "[]", '{"format": 99}', '{"format": 1, "margin": NaN}'])
def test_what_is_no_analysis_is_refused(content: str | None, tmp_path: Path) -> None:
    """One line says which file and what to do."""
    if content is not None:
        (tmp_path / "analysis.json").write_text(content)
    for draw in (ablation_page, ablation_markdown):
        with pytest.raises(CheckpointError, match=r"^[^\n]*analysis\.json[^\n]*; [^\n]*$"):
            draw(tmp_path)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_shows_it_without_complaint_and_within_a_phone(tmp_path: Path) -> None:
    """In headless Chromium, where there is one: a silent console, and at 360 pixels nothing sticks out sideways."""
    page = ablation_page(written(EXAMPLES["grid"](), tmp_path))
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    assert f"<h1>{title(EXAMPLES['grid']())}</h1>" in opened(tmp_path / "report.html")
    assert width_on_a_phone(page, 360, tmp_path) <= 360
