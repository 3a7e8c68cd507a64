"""Ablation, ledger, claim and training lead to each other, and no link on any page is dead."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import TINY_RUN, Command
from html_whitelist import Page
from made_up_ledger import made_up_ledger, written

ABLATION = f"ablate {TINY_RUN} --activations relu,gelu --seeds 1 --out runs/ablation --cells-dir runs/cells --workers 1"


@pytest.fixture
def place(minigpt: Command, workplace: Path) -> Path:
    """`runs/` with an ablation of two trainings, and a ledger of which one claim names both and one was not run."""
    assert minigpt(ABLATION) == 0
    relu, gelu = sorted(path.name for path in (workplace / "runs/cells").iterdir())
    ledger = made_up_ledger()
    ledger["claims"] = [entry for entry in ledger["claims"] if entry["id"] in ("C1", "C9")]
    for arm, cell in zip(ledger["claims"][0]["arms"], (relu, gelu), strict=False):
        arm["cells"][:2] = [cell, "0" * 16]  # the second was trained on another machine
    (workplace / "runs/claims").mkdir()
    written(ledger, workplace / "runs/claims")
    return workplace / "runs"


def links(page: Path) -> set[str]:
    """The addresses of files that a page leads to."""
    found = Page(page.read_text(encoding="utf-8")).values("href", "src", "xlink:href")
    return {urlsplit(address).path for address in found if address and not address.startswith(("#", "data:"))}


def dead_links(place: Path) -> list[tuple[str, str]]:
    """Every address on a page below a place that is not that of a file."""
    pages = place.rglob("*.html")
    return [(page.name, to) for page in pages for to in links(page) if not (page.parent / unquote(to)).is_file()]


def test_no_link_is_dead(minigpt: Command, place: Path) -> None:
    """Whatever is drawn, in whichever order, and when a training and an ablation are gone."""
    drawing = ("report runs/claims", "runs runs/cells", "report runs/ablation", "report runs/claims")
    for command in drawing:
        assert minigpt(command) == 0
        assert dead_links(place) == []
    assert len(list(place.rglob("*.html"))) == 7
    first, second = sorted((place / "cells").iterdir())[:2]
    shutil.rmtree(second)
    for command in drawing:
        assert minigpt(command) == 0
    assert dead_links(place) == []
    shutil.rmtree(place / "ablation")
    assert minigpt(f"report {first}") == 0
    assert dead_links(place) == []


def test_a_site_is_closed(minigpt: Command, place: Path) -> None:
    """Its pages lead to each other alone: the trainings are not published with it."""
    assert minigpt("report runs --site site") == 0
    pages = list((place.parent / "site").rglob("*.html"))
    assert {to for page in pages for to in links(page)} == {"report.html", "C1.html", "C9.html"}


def test_up_and_down(minigpt: Command, place: Path) -> None:
    """A claim leads to the trainings of its arms that have a page; each of them to all that name it."""
    first, second = sorted((place / "cells").iterdir())
    assert minigpt("report runs/claims") == 0
    assert links(place / "claims/C1.html") == {
        "report.html", "C9.html", *(f"../cells/{cell.name}/report.html" for cell in (first, second))
    }  # fmt: skip
    assert links(place / "ablation/report.html") == {f"../cells/{cell.name}/report.html" for cell in (first, second)}
    assert minigpt("runs runs/cells") == 0
    assert minigpt(f"report {first}") == 0
    up = {"../index.html", "../../ablation/report.html", "../../claims/report.html", "../../claims/C1.html"}
    assert up < links(first / "report.html")


def test_a_damaged_training_has_no_page(minigpt: Command, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its ledger is drawn all the same, and says of which training there is no page."""
    first, second = sorted((place / "cells").iterdir())
    for cell in (first, second):
        (cell / "report.html").unlink()
    (first / "metrics.jsonl").write_text("[]\n", encoding="utf-8")
    assert minigpt("report runs/claims") == 0
    assert f"note: no page; {first / 'metrics.jsonl'} holds no record" in capsys.readouterr().err
    assert f"../cells/{second.name}/report.html" in links(place / "claims/C1.html")
    assert f"../cells/{first.name}/report.html" not in links(place / "claims/C1.html")
