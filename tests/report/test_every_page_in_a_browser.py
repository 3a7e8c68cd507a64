"""Each kind of page in a real Chromium: silent, as wide as its window, without network, and with the answer first."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest
from browser import BROWSER, SCHEMES, as_on_paper, axe_script, in_scheme, opened, printed, violations
from made_up_cells import answer, noisy
from made_up_ledger import SEEDS, made_up_ledger
from made_up_runs import evaluation, make_run
from neuron_files import HOSTILE, add_life, write_audit, write_neuron_files

from minigpt.report.ablation_page import ablation_page
from minigpt.report.audit_page import audit_page
from minigpt.report.claims_page import claims_pages
from minigpt.report.run_list import list_runs
from minigpt.report.run_page import read_sky, run_page
from minigpt.report.runs_page import FIRST_TICKED, runs_page
from minigpt.report.sky_drawing import sky_svg

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
KINDS = ("run", "audit", "ablation", "ledger", "claim")
MORE = ("runs", "run without neurons", "claim not run", "sky")
WINDOWS = {"desktop": (1280, 900), "telephone": (390, 844)}
MEASURE = """
const d = frames[0].document, box = (e) => e.getBoundingClientRect();
const first = [...d.querySelectorAll('header .answer, header svg')].map((e) => [e.tagName, box(e).top, box(e).height]);
document.title = JSON.stringify({wide: d.documentElement.scrollWidth, first, main: d.querySelectorAll('main').length,
  h1: d.querySelectorAll('h1').length, network: performance.getEntriesByType('resource').length,
  broken: [...d.querySelectorAll('nav a[href^="#"]')].filter((a) => !d.querySelector(a.hash)).length});
"""
SHEET = (718, 979)  # CSS pixels of A4 across and of Letter down, without Chromium's margins
ON_PAPER = """
const d = frames[0].document, box = (e) => e.getBoundingClientRect();
const bottom = (what) => Math.max(...[...d.querySelectorAll(what)].slice(0, 1).map((e) => box(e).bottom));
const seen = (e) => e.checkVisibility() && box(e).height > 0;
document.title = JSON.stringify({wide: d.documentElement.scrollWidth, answer: bottom('.answer'), picture: bottom('svg'),
  key: [...d.querySelectorAll('.ticks label')].filter(seen).length, paper: getComputedStyle(d.body).backgroundColor,
  controls: [...d.querySelectorAll('button, select, input, nav, [role=status]')].filter(seen).map((e) => e.outerHTML)});
"""


@pytest.fixture(scope="module")
def axe() -> Path:
    """axe-core, which checks whether a page can be used by everybody."""
    script = axe_script()
    if script is None:
        pytest.skip("axe-core is not installed; `npm install --no-save axe-core`, or set AXE_CORE to its axe.min.js")
    return script


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> dict[str, str]:
    """The text of a page of every kind; the run's has all that a page can have, and a hostile vocabulary."""
    ablation = tmp_path_factory.mktemp("ablation")
    analysis = answer({"relu": noisy(), "gelu": noisy(0.02), HOSTILE: noisy(-0.02)})
    (ablation / "analysis.json").write_text(json.dumps(analysis), encoding="utf-8")
    run = trained / "runs/first"
    without_neurons = run_page(run)
    write_neuron_files(run)
    add_life(run, layers=2, steps=12)
    audit = tmp_path_factory.mktemp("audit")
    write_audit(audit)
    trainings = {f"relu-{seed}": f"../cells/{seed}/report.html" for seed in SEEDS}
    ledger = claims_pages(made_up_ledger(), trainings)
    runs = tmp_path_factory.mktemp("runs")
    for number in range(FIRST_TICKED + 1):
        make_run(runs / f"run{number}", [evaluation(9, 2.0 + number, 0.1 * number)], lr=0.001 * (1 + number))
    return {
        "run": run_page(run), "audit": audit_page(audit), "ablation": ablation_page(ablation),
        "ledger": ledger["report.html"], "claim": ledger["C1.html"], "claim not run": ledger["C9.html"],
        "runs": runs_page(runs, list_runs(runs)), "run without neurons": without_neurons, "sky": _framed(run),
    }  # fmt: skip


def _framed(run: Path) -> str:
    """The picture that `minigpt sky` draws, in the least page around it."""
    sky = read_sky(run)
    assert sky is not None
    picture = sky_svg(sky, heading="first")
    return f'<!doctype html><html lang="en"><title>sky</title><body><main><h1>A sky</h1>{picture}</main></body></html>'


def measured(text: str, size: tuple[int, int], script: str, folder: Path, *flags: str) -> dict[str, Any]:
    """What a script finds in a frame of this size that holds the page."""
    frame = f'<iframe width="{size[0]}" height="{size[1]}" srcdoc="{escape(text)}"></iframe>'
    (folder / "page").mkdir()
    page = folder / "page/window.html"
    page.write_text(f'<!doctype html><title></title><body onload="{escape(script)}">{frame}</body>', encoding="utf-8")
    found = re.search(r"<title>(.*?)</title>", opened(page, "", *flags), re.DOTALL)
    assert found is not None
    return dict(json.loads(unescape(found[1])))


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_screen_answers(kind: str, window: str, pages: dict[str, str], tmp_path: Path) -> None:
    """A sentence and a picture begin within the first screen, nothing sticks out, and no console or network is used."""
    width, height = WINDOWS[window]
    seen = measured(pages[kind], (width, height), MEASURE, tmp_path)
    assert seen["wide"] <= width
    tops = {tag.lower(): top for tag, top, size in reversed(seen["first"]) if size}
    assert tops["p"] < 0.6 * height
    assert tops["svg"] < height
    assert (seen["main"], seen["h1"], seen["broken"], seen["network"]) == (1, 1, 0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_small(kind: str, pages: dict[str, str]) -> None:
    """Below 3 MB, and it asks for nothing from elsewhere."""
    assert len(pages[kind].encode("utf-8")) < 3_000_000
    assert not re.search(r'(?:src|href)="https?:', pages[kind])
    assert "default-src 'none'" in pages[kind]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", [*KINDS, *MORE])
def test_axe_finds_nothing(kind: str, scheme: str, axe: Path, pages: dict[str, str], tmp_path: Path) -> None:
    """No rule of axe-core is broken: names, roles, order of headings, contrast in the light and in the dark."""
    assert violations(pages[kind], axe, scheme, tmp_path) == []


@pytest.mark.parametrize("kind", [*KINDS, "runs", "run without neurons"])
def test_the_first_sheet_answers(kind: str, pages: dict[str, str], tmp_path: Path) -> None:
    """On paper: the sentence and the whole picture are on the first sheet, which is white; nothing asks for a click."""
    seen = measured(as_on_paper(pages[kind]), SHEET, ON_PAPER, tmp_path, in_scheme("dark"))
    assert seen["wide"] <= SHEET[0]
    assert seen["answer"] < seen["picture"] < SHEET[1]
    assert seen["controls"] == []
    assert seen["key"] == (FIRST_TICKED if kind == "runs" else 0)  # which colour is whose, without the boxes
    assert seen["paper"] == "rgb(255, 255, 255)"


@pytest.mark.skipif(not shutil.which("pdftotext"), reason="no pdftotext here (poppler-utils), to read a PDF")
@pytest.mark.parametrize("kind", KINDS)
def test_a_pdf_begins_with_the_answer(kind: str, pages: dict[str, str], tmp_path: Path) -> None:
    """What `--print-to-pdf` makes of the page has the finding on its first sheet."""
    (tmp_path / "page").mkdir()
    page = tmp_path / "page/report.html"
    page.write_text(pages[kind], encoding="utf-8")
    answer = re.search(r'<p class="answer">(.*?)</p>', pages[kind], re.DOTALL)
    assert answer is not None
    reading = ["pdftotext", "-f", "1", "-l", "1", str(printed(page)), "-"]
    sheet = subprocess.run(reading, capture_output=True, text=True, check=True).stdout
    assert "".join(unescape(answer[1]).split()) in "".join(sheet.split())
