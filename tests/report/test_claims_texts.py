"""The ledger in a terminal: a line for each claim, and all of one claim, within the width."""

from __future__ import annotations

import pytest
from made_up_ledger import made_up_ledger

from minigpt.report import claims_words as words
from minigpt.report.claims_page import claims_pages
from minigpt.report.claims_texts import claim_markdown, terminal_claim, terminal_list

LEDGER = made_up_ledger()
ENTRIES = {entry["id"]: entry for entry in LEDGER["claims"]}


def test_the_terminal_lists_every_claim_within_its_width() -> None:
    """A line for each: id, verdict or status, effect against margin, forecast; and the counts below."""
    lines = terminal_list(LEDGER, 100).splitlines()
    assert max(map(len, lines)) <= 100
    for line, (claim, entry) in zip(lines[1:], ENTRIES.items(), strict=False):
        assert line.split()[0] == claim
        assert words.finding(entry) in line
        assert f" {words.forecast_mark(entry)}  " in line
    assert (
        "4 SUPPORTED, 2 REFUTED, 3 INCONCLUSIVE, 1 VOID, 1 incomplete, 1 not run, 1 stale, 2 not measured"
        in " ".join(lines)
    )


@pytest.mark.parametrize("claim", [claim for claim in ENTRIES if claim != "C18"])
def test_the_terminal_tells_all_of_one_claim(claim: str) -> None:
    """Words, conditions, arms, price and command, wrapped to the width."""
    entry = ENTRIES[claim]
    text = terminal_claim(entry, 100)
    assert max(map(len, text.splitlines())) <= 100
    flat = " ".join(text.split())
    expected = [entry["statement"], entry["meaning"], entry["forecast"], words.finding(entry), entry.get("command", "")]
    expected += [*words.reasons(entry), *(words.effect(c) for c in entry["conditions"] if words.measured(c))]
    for said in expected:
        assert said in flat


@pytest.mark.parametrize("width", [60, 80, 200])
def test_every_terminal_is_wide_enough(width: int) -> None:
    """What is too wide is wrapped, and nothing but a command sticks out; a wide terminal shows whole statements."""
    texts = [
        terminal_list(LEDGER, width),
        *(terminal_claim(ENTRIES[claim], width) for claim in ENTRIES if claim != "C18"),
    ]
    lines = [line for text in texts for line in text.splitlines() if not line.startswith("repeat")]
    assert max(map(len, lines)) <= width
    assert (ENTRIES["C1"]["statement"] in texts[0]) == (width == 200)


def test_an_incomplete_claim_shows_what_was_measured_so_far() -> None:
    """Seeds were run: to say that nothing was measured would be false, and to say that it decides as well."""
    unfinished = ENTRIES["C6"]
    assert words.finding(unfinished) == "incomplete"
    assert words.headline(unfinished) == ["One seed: +0.0200 nats, against a margin of 0.0100 nats, on 1 seed so far."]
    for text in (terminal_claim(unfinished, 200), claim_markdown(unfinished, {}), claims_pages(LEDGER)["C6.html"]):
        assert "on 1 seed so far" in text
        assert "Not measured." not in text
    assert words.headline(ENTRIES["C9"]) == words.headline(ENTRIES["C19"]) == []
