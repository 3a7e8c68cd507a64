"""Ablation, ledger, claim and training lead to each other, and no link on any page is dead."""

from __future__ import annotations

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


def test_no_link_is_dead(minigpt: Command, place: Path) -> None:
    """Whatever is drawn, in whichever order: every address is that of a file, also when a training is gone again."""
    for command in ("report runs/claims", "runs runs/cells", "report runs/ablation", "report runs/claims"):
        assert minigpt(command) == 0
        pages = list(place.rglob("*.html"))
        dead = [(page.name, to) for page in pages for to in links(page) if not (page.parent / unquote(to)).is_file()]
        assert dead == []
    assert len(pages) == 7
    next((place / "cells").glob("*/report.html")).unlink()
    assert minigpt("report runs/claims --site site") == 2
    assert minigpt("report runs --site site") == 0
    site = place.parent / "site"
    assert {to for page in site.rglob("*.html") for to in links(page)} == {"report.html", "C1.html", "C9.html"}


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
