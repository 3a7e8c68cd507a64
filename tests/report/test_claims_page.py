"""The ledger's pages and texts: every claim is there, numbers are the ledger's, sentences follow by rule."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from browser import BROWSER, opened, width_on_a_phone
from html_whitelist import TAGS, Page
from made_up_ledger import HOSTILE, Record, judged_entry, made_up_claim, made_up_ledger

from minigpt.claims import judging
from minigpt.claims.claim import EXPLORATORY, PRIMARY
from minigpt.report import claims_figures, claims_summary
from minigpt.report import claims_words as words
from minigpt.report.claims_page import claims_pages
from minigpt.report.claims_texts import terminal_claim, terminal_list

VISIBLE = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
LEDGER = made_up_ledger()
ENTRIES = {entry["id"]: entry for entry in LEDGER["claims"]}
_NUMBER = re.compile(r"[+-][\d.]+(?:e[+-]\d+)?")


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """All files of the made-up ledger's report."""
    return claims_pages(LEDGER)


@pytest.fixture(scope="module")
def pages(files: dict[str, str]) -> dict[str, Page]:
    """Its pages, read."""
    return {name: Page(text) for name, text in files.items() if name.endswith(".html")}


# Nothing is lost, nothing made up


def test_the_made_up_ledger_has_everything_that_is_hard_to_show() -> None:
    """The tests below say something only if all verdicts and statuses occur."""
    found = {words.finding(entry) for entry in ENTRIES.values()}
    assert found == {*words.VERDICTS, "incomplete", "not run", "not measured", "stale"}
    assert any(words.by_signs(condition) for entry in ENTRIES.values() for condition in entry["conditions"])


def test_every_claim_has_a_row_and_a_page(files: dict[str, str], pages: dict[str, Page]) -> None:
    """Whatever its status: quote, statement, verdict or status, effects, forecast, price and command."""
    assert {name for name in pages if name != "report.html"} == {f"{claim}.html" for claim in ENTRIES}
    assert list(pages["report.html"].rows) == sorted(ENTRIES, key=_group)
    for claim, entry in ENTRIES.items():
        shown = words.made_visible(entry)
        for text in (pages["report.html"].rows[claim], pages[f"{claim}.html"].text):
            for said in (
                shown["quote"],
                shown["statement"],
                shown["forecast"],
                words.finding(entry),
                words.cost(entry),
            ):
                assert said in text
            assert shown.get("command", "") in text
            assert (shown["obstacle"] or "") in text
        for condition in shown["conditions"]:
            assert words.effect(condition) in pages["report.html"].rows[claim] or "effects" not in condition
            assert words.margin(condition) in pages["report.html"].rows[claim]


def _group(claim: str) -> tuple[bool, str, int]:
    entry = ENTRIES[claim]
    return entry["status"] == "not measured", "" if entry["status"] == "not measured" else _order(entry), int(claim[1:])


def _order(entry: Record) -> str:
    return {"primary": "a", "exploratory": "b"}[entry["family"]]


@pytest.mark.parametrize("claim", [claim for claim, entry in ENTRIES.items() if "arms" in entry])
def test_a_claims_page_has_its_numbers(claim: str, pages: dict[str, Page]) -> None:
    """Effects of every seed, intervals, losses, dead neurons, divergence, settings, commands, provenance."""
    entry, text = words.made_visible(ENTRIES[claim]), pages[f"{claim}.html"].text
    for condition in entry["conditions"]:
        for number in (*(seed["effect"] for seed in condition["effects"]), condition["mean"], condition["low90"]):
            assert words.value(number, condition["unit"]) in text
    for arm in entry["arms"]:
        for loss in arm["losses"]:
            assert ("DIVERGED" if loss is None else f"{loss:.4f}") in text
        assert arm["command"] in text
        assert arm["settings"] in text
        assert f"{arm['diverged']} DIVERGED" in text or not arm["diverged"]
    lost = [arm["diverged"] for arm in entry["arms"] if arm["diverged"]]
    assert text.count("DIVERGED") == len(lost) + sum(lost)
    for picture in entry["series"]:
        assert picture["title"] in text
    for made in ("commit", "torch", "processor"):
        assert words.recorded(entry["provenance"][made]) in text


def test_numbers_are_the_ledgers() -> None:
    """Read back from the words, effect, interval and margin are the ledger's to the digits that are shown."""
    for entry in ENTRIES.values():
        for condition in entry["conditions"]:
            if condition.get("low90") is None or entry["id"] == "C18":
                continue
            scale, digits = {"share": (100, 2), "nats": (1, 4)}.get(condition["unit"], (1, None))
            shown = [
                float(number) for number in re.findall(r"[+-][\d.]+(?:e[+-]\d+)?", _ascii(words.effect(condition)))
            ]
            exact = [scale * condition[key] for key in ("mean", "low90", "high90")]
            tolerance = {"rel": 5e-3} if digits is None else {"abs": 0.51 * 10**-digits}
            assert shown == pytest.approx(exact, **tolerance)
            assert float(words.margin(condition).split()[0]) == scale * condition["margin"]


def _ascii(text: str) -> str:
    return text.replace("−", "-").replace(",", "")


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (0.01234, "share", "+1.23"),
        (-0.00214, "nats", "−0.0021"),
        (1.23456, "ratio", "+1.23"),
        (123456.0, "steps", "+123,456"),
        (-2.0e9, "steps", "−2e+09"),
        (None, "nats", "–"),
        (0.0, "nats", "+0.0000"),
    ],
)
def test_a_number_is_written_in_its_unit(number: float | None, unit: str, text: str) -> None:
    """Shares as percentage points, nats with four decimals, others with three digits; none as a dash."""
    assert words.value(number, unit) == text


def test_shares_are_written_in_per_cent(pages: dict[str, Page]) -> None:
    """In a claim's tables and on the axes of its figures."""
    assert "1 %" in pages["C1.html"].text
    assert re.search(r"\d%", claims_figures.series(ENTRIES["C1"], 1, {}))
    assert not re.search(r"\d%", claims_figures.series(ENTRIES["C1"], 0, {}))


# Sentences by rule


def test_the_summary_follows_from_the_verdicts() -> None:
    """Each claim is in exactly one part, and a refuted statement is never left uncorrected."""
    true, false, unknown, void, undone, beyond = claims_summary.parts(LEDGER)
    parts = (true, false, unknown, void, undone, beyond)
    named = [point.claim for part in parts for point in part.points if point.claim]
    assert sorted(named) == sorted(ENTRIES)
    for part, verdict in ((true, "SUPPORTED"), (false, "REFUTED"), (unknown, "INCONCLUSIVE"), (void, "VOID")):
        assert [point.claim for point in part.points] == [c for c, e in ENTRIES.items() if words.finding(e) == verdict]
    assert true.points[0].text == ENTRIES["C1"]["statement"]
    assert all(point.text.startswith("Not so, by the margin: “") for point in false.points)
    for point in false.points:
        margins = [words.margin(condition) for condition in ENTRIES[point.claim]["conditions"]]
        assert any(f"less than {margin}" in point.text for margin in margins), "a refutation names its margin"
    assert "0.5000 nats is needed" in void.points[0].text
    assert [point.claim for point in undone.points] == ["C6", "C9", "C10", "C19"]
    assert [point.claim for point in beyond.points if point.claim] == ["C42"]
    needed = ENTRIES["C8"]["seeds_to_decide"]
    said = {point.claim: point.text for point in unknown.points}
    assert f"About {needed} seeds would decide; 3 were run." in said["C8"]
    assert "How many seeds would decide cannot be estimated." in said["C5"]


def test_what_is_said_carries_what_limits_it() -> None:
    """Provoked, by a proxy, exploratory: a sentence is not to be repeated without."""
    points = {point.claim: point.remark for part in claims_summary.parts(LEDGER) for point in part.points}
    assert points["C2"] == "when provoked"
    assert points["C3"] == "by a proxy"
    assert points["C17"] == "exploratory"
    assert points["C1"] == ""


def test_forecasts_and_price_are_counted() -> None:
    """Stale claims count for neither; trainings that claims share are said to be shared."""
    judged = [entry for entry in ENTRIES.values() if entry["status"] == "judged"]
    marks = [entry["forecast_came_true"] for entry in judged]
    assert claims_summary.forecasts(LEDGER) == (marks.count(True), marks.count(True) + marks.count(False))
    trainings = {cell for e in judged for arm in e["arms"] for cell in arm["cells"]}
    assert len(trainings) < sum(e["cost"]["cells"] for e in judged), "the made-up claims share no training"
    assert claims_summary.total_cost(LEDGER) == 31.25 * len(trainings) + 4.5 * len(judged)
    assert f"{len(judged)} verdicts from {len(trainings)} trainings" in claims_summary.cost_sentence(LEDGER)
    alone = {**LEDGER, "claims": [ENTRIES["C7"]]}
    assert claims_summary.cost_sentence(alone).startswith("Cost: 192 core-seconds (3 min) for 1 verdict from 6 ")


def test_nothing_run_yet_can_be_told() -> None:
    """A ledger in which nothing is judged has pages that say so."""
    untouched = {**LEDGER, "claims": [ENTRIES["C9"], ENTRIES["C10"], ENTRIES["C42"]]}
    text = Page(claims_pages(untouched)["report.html"]).text
    for sentence in (
        "No claim is supported so far.",
        "No claim is refuted so far.",
        "No forecast has been judged yet.",
    ):
        assert sentence in text
    assert "–" in terminal_list({"claims": untouched["claims"]})


def test_a_verdict_is_explained_by_the_ledgers_rule() -> None:
    """The reason names what decided, and its limits are those by which the ledger judges."""
    assert words.FAMILIES[PRIMARY][1] == judging.ALPHA
    assert words.FAMILIES[EXPLORATORY][1] == judging.FALSE_DISCOVERY_RATE
    reasons = {claim: " ".join(words.reasons(entry)) for claim, entry in ENTRIES.items()}
    assert "below 0.05" in reasons["C1"]
    assert "below 0.1" in reasons["C17"]
    assert "condition 0 of 2: −0.0198 [−0.0250, −0.0147] nats, less than 0.0100 nats, and below zero." in reasons["C2"]
    assert "Provisional until all claims of its family are run" in reasons["C17"]
    assert "Diverged: gelu (3 of 8)" in reasons["C5"]
    assert "the number of seeds that reach the margin decides" in reasons["C5"]
    assert reasons["C6"] == "Judged only when 8 seeds are done; a peek decides nothing."
    assert "positive control failed" not in reasons["C20"]
    assert "training failed: learnt at all, is +0.0200, at least 0.5000 nats is needed" in reasons["C20"]
    assert "SUPPORTED was found with other code" in reasons["C19"]
    assert reasons["C9"] == ""


@pytest.mark.parametrize(("rule", "chosen"), [("all", "weak"), ("any", "strong")])
def test_the_condition_that_decides_is_shown_in_short(rule: Any, chosen: str) -> None:
    """Where all must hold the weakest one, where one is enough the strongest."""
    claim = made_up_claim(1, [("strong", "nats", 0.01), ("weak", "nats", 0.01)], rule=rule)
    effects = [[0.1 + 0.001 * k for k in range(8)], [0.001 * k for k in range(8)]]
    entry = judged_entry(claim, effects, {"relu": [1.5] * 8, "gelu": [1.6] * 8})
    deciding = words.deciding(entry)
    assert deciding is not None
    assert deciding["name"] == chosen


# Nothing executes


def test_pages_need_nothing_from_outside(files: dict[str, str], pages: dict[str, Page]) -> None:
    """No script, no address but of our own files and anchors, and the page forbids the rest to itself."""
    for name, page in pages.items():
        links = set(page.values("href", "src", "xlink:href"))
        anchors = {f"#{value}" for value in page.values("id")}
        assert {link for link in links if link and link.startswith("#")} <= anchors
        assert {link.partition("#")[0] for link in links if link and not link.startswith("#")} <= set(files)
        assert "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'" in files[name]
    assert {"report.html#" + claim for claim in ENTRIES} <= {
        value for page in pages.values() for value in page.values("href")
    }


def test_text_is_inert(files: dict[str, str], pages: dict[str, Page]) -> None:
    """Markup, formulas and control characters are shown as characters, in pages, figures, Markdown and terminal.

    Ids are unique too: two figures that share one would clip each other.
    """
    for page in pages.values():
        page.assert_whitelisted()
    assert pages["C18.html"].text.count(VISIBLE) > 15
    texts = [*files.values(), terminal_list(LEDGER), terminal_claim(ENTRIES["C18"])]
    assert not any("\x1b" in text or "\u202e" in text for text in texts)
    for text in (text for name, text in files.items() if name.endswith(".md")):
        outside_code = re.sub(r"^(`{3,})sh\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
        assert "<script" not in outside_code.replace("\\<", "")


def test_the_same_ledger_gives_the_same_bytes(files: dict[str, str]) -> None:
    """Pages, Markdown and figures repeat."""
    assert claims_pages(LEDGER) == files


# Markdown, figures


def test_markdown_tables_are_whole(files: dict[str, str]) -> None:
    """Every row has the cells of its heading; every claim has its row, its file, and the figures that it shows."""
    texts = {name: text for name, text in files.items() if name.endswith(".md")}
    assert set(texts) == {"README.md", *(f"{claim}.md" for claim in ENTRIES)}
    for text in texts.values():
        for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
        assert set(re.findall(r"\]\(([^):]*)\)", text)) <= set(files)
    for claim, entry in ENTRIES.items():
        row = next(line for line in texts["README.md"].splitlines() if line.startswith(f"| [{claim}]({claim}.md) |"))
        assert words.finding(entry) in row
        assert words.cost(entry) in row
        assert texts[f"{claim}.md"].startswith(f"# {claim}: ")
        drawn = {name for name in files if re.match(rf"figures/{claim}[-.]", name)}
        assert set(re.findall(r"\]\((figures/[^)]*)\)", texts[f"{claim}.md"])) == drawn


def test_figures_stand_alone(files: dict[str, str]) -> None:
    """Each file is well-formed SVG of known elements, whatever its labels say, and has colours without a page."""
    for name in (name for name in files if name.endswith(".svg")):
        root = ElementTree.fromstring(files[name])
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "color:" in root.attrib["style"]
        assert {element.tag.rpartition("}")[2].lower() for element in root.iter()} <= TAGS


def test_the_picture_of_all_claims_leaves_out_the_void() -> None:
    """Such a claim has effects but no verdict: it has no place on an axis of verdicts."""
    voids = [entry for entry in ENTRIES.values() if entry["verdict"] == "VOID"]
    assert voids
    assert claims_figures.all_claims(voids) is None
    assert claims_figures.all_claims(list(ENTRIES.values())) is not None


def test_a_dose_of_nothing_has_a_place_on_a_logarithmic_axis() -> None:
    """Zero among the doses is drawn, and a value that no seed has is marked and not connected."""
    entry = json.loads(json.dumps(ENTRIES["C1"]))
    points = [{"arm": "relu", "x": x, "values": values} for x, values in ((0.0, [1.0]), (10.0, [None]), (1.0, [2.0]))]
    entry["series"] = [{"title": "t", "x": "x", "y": "y", "log_x": True, "lines": [{"name": "a", "points": points}]}]
    assert ">10</text>" in claims_figures.series(entry, 0, {})
    entry["series"][0]["lines"][0]["points"] = []
    assert "<svg" in claims_figures.series(entry, 0, {})


def test_a_long_ladder_is_labelled_with_some_of_its_values() -> None:
    """Nine rates do not fit below an axis; a logarithmic one would label itself in TeX, which nobody typesets."""
    entry = json.loads(json.dumps(ENTRIES["C1"]))
    points = [{"arm": "relu", "x": 25.0 * 2**rung, "values": [2.4]} for rung in range(9)]
    entry["series"] = [{"title": "t", "x": "x", "y": "y", "log_x": True, "lines": [{"name": "a", "points": points}]}]
    drawn = claims_figures.series(entry, 0, {})
    assert all(f">{label}</text>" in drawn for label in (25, 100, 400, 1600, 6400))
    assert "mathdefault" not in drawn


@pytest.mark.parametrize(("least", "below_zero"), [(-0.4, True), (0.4, False)])
def test_a_share_below_zero_is_not_cut_off(least: float, below_zero: bool) -> None:
    """The axis of a share begins at zero, unless one lies below it, as a narrowing can."""
    entry = json.loads(json.dumps(ENTRIES["C1"]))
    points = [{"arm": "relu", "x": x, "values": [value]} for x, value in ((1.0, least), (2.0, 0.6))]
    lines = [{"name": "a", "points": points}]
    entry["series"] = [{"title": "t", "x": "x", "y": "narrowing, share", "log_x": False, "lines": lines}]
    drawn = claims_figures.series(entry, 0, {})
    assert ("−40%" in drawn) is below_zero
    assert "0%" in re.findall(r">([^<]*%)<", drawn)


# In a browser


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("name", ["report.html", "C18.html", "C4.html"])
def test_a_browser_shows_it_without_complaint_and_within_a_phone(
    name: str, files: dict[str, str], tmp_path: Path
) -> None:
    """A silent console, and at 390 pixels nothing sticks out sideways."""
    (tmp_path / name).write_text(files[name], encoding="utf-8")
    assert "<h1>" in opened(tmp_path / name)
    assert width_on_a_phone(files[name], 390, tmp_path) <= 390
