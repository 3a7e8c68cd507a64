"""Where to look: every command that writes a page prints its address, and opens it if it is asked to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_RUN, Capture, Command
from made_up_ledger import made_up_ledger, written

LEDGER = made_up_ledger()
LEDGER["claims"] = [entry for entry in LEDGER["claims"] if "arms" not in entry]  # drawn at once


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a browser was asked to open; it always can."""
    asked: list[str] = []

    def ask(address: str) -> bool:
        asked.append(address)
        return True

    monkeypatch.setattr("webbrowser.open_new_tab", ask)
    return asked


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judging takes seconds and is tested elsewhere: what it writes is made up."""

    def write(directory: Path, *judged_by: object) -> dict[str, Any]:
        directory.mkdir(parents=True, exist_ok=True)
        written(LEDGER, directory)
        return LEDGER

    monkeypatch.setattr("minigpt.claims.ledger.write_ledger", write)


@pytest.mark.parametrize(
    ("command", "page"),
    [
        (f"train {TINY_RUN} --out run --overwrite", "run/report.html"),
        (f"ablate {TINY_RUN} --activations relu --seeds 1 --out a --cells-dir cells", "a/report.html"),
        ("claims report", "runs/claims/report.html"),
        ("neurons run --tokens 256", "run/report.html"),
    ],
)
def test_the_page_is_named_or_opened(
    command: str,
    page: str,
    ledger: None,
    minigpt: Command,
    tiny_run: Path,
    browser: list[str],
    workplace: Path,
    capsys: Capture,
) -> None:
    """An address that a terminal makes a link of; with `--open` the browser gets it, and the terminal does not."""
    address = (workplace / page).as_uri()
    assert minigpt(command) == 0
    assert f"\nlook:  {address}\n" in capsys.readouterr().out
    assert (workplace / page).is_file()
    assert browser == []
    assert minigpt(f"{command} --open") == 0
    assert browser == [address]
    assert "look:" not in capsys.readouterr().out


def test_without_a_browser_the_address_is_printed(
    minigpt: Command, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """On a server `--open` still leads to the page."""
    monkeypatch.setattr("webbrowser.open_new_tab", lambda address: False)
    assert minigpt("train --resume run --open") == 0
    assert capsys.readouterr().out.endswith(f"look:  {(tiny_run / 'report.html').as_uri()}\n")


@pytest.mark.parametrize("command", ["ablate", "audit model", "claims report", "claims run C5", "neurons", "runs"])
def test_json_is_not_opened(command: str, refused) -> None:  # type: ignore[no-untyped-def]
    """JSON is for a program: `--open` beside it is refused, not ignored."""
    refused(2, f"{command} --json --open", says=("--open", "not allowed with", "--json"))


@pytest.mark.parametrize(
    ("command", "drawing_none"),
    [
        ("ablate --activations relu --dry-run", "--dry-run"),
        ("claims run C5 --dry-run", "--dry-run"),
        ("claims list", "claims list"),
        ("claims show C5", "claims show"),
        (f"train {TINY_RUN.replace('--eval-every 4', '--eval-every 0')} --out run", "--eval-every 0"),
    ],
)
def test_where_there_is_no_page(command: str, drawing_none: str, refused) -> None:  # type: ignore[no-untyped-def]
    """What draws no page refuses to open one, before anything is trained."""
    refused(2, f"{command} --open", says=(f"got {drawing_none}, which draws none",))
