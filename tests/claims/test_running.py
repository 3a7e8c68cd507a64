"""The ledger from the command line, end to end at a tiny scale: run, interrupted, asked again, grown stale, refused."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from child_processes import Start, await_that, begin_child, needs_fork
from conftest import TINY_MODEL, Capture, Command, write_small_text

from minigpt.claims import catalogue

BASE = f"--corpus text.txt {TINY_MODEL} --eval-every 10 --log-every 5 --seeds 2 --cells-dir cells --out ledger"
SCALE = f"{BASE} --steps 20"
CLAIMS = "C6 C7"  # share three of their seven arms; both are measured on the trained cells

pytestmark = needs_fork
PACE = [0.01, 1e-5]  # seconds that a step and an evaluated token take, where a test is about what follows from it


def entry(place: Path, claim: str) -> dict:
    ledger = json.loads((place / "ledger/ledger.json").read_text())
    return next(entry for entry in ledger["claims"] if entry["id"] == claim)


def finished(place: Path) -> set[Path]:
    return set((place / "cells").glob("*/summary.json"))


@pytest.fixture(scope="module")
def finished_ledger(fork_server: Callable[[dict[str, Any]], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with a ledger in which two claims were run."""
    place = tmp_path_factory.mktemp("ledger")
    write_small_text(place)
    assert begin_child(fork_server, place, f"claims run {CLAIMS} {SCALE}").wait() == 0, (
        place / "child.err"
    ).read_text()
    return place


@pytest.fixture
def run_ledger(finished_ledger: Path, workplace: Path) -> Path:
    """The same in the workplace, to be changed."""
    shutil.copytree(finished_ledger, workplace, dirs_exist_ok=True)
    return workplace


def test_what_claims_share_is_trained_once_and_nothing_twice(start: Start, run_ledger: Path) -> None:
    """Seven different arms on two seeds; the same command again finds all done and says the same."""
    cells, first = finished(run_ledger), (run_ledger / "ledger/ledger.json").read_bytes()
    assert len(cells) == 14
    measured = set((run_ledger / "ledger/measurements").iterdir())
    assert len(measured) == 16
    times = {path: path.stat().st_mtime_ns for path in cells | measured}
    assert start(f"claims run {CLAIMS} {SCALE}").wait() == 0
    assert {path: path.stat().st_mtime_ns for path in finished(run_ledger) | measured} == times
    assert (run_ledger / "ledger/ledger.json").read_bytes() == first
    for claim in CLAIMS.split():
        found = entry(run_ledger, claim)
        assert found["status"] == "judged"
        assert found["verdict"] == "VOID", "after twenty steps no model is better than a trigram"
        assert found["plan"] == {"looks": [2], "choosing": 0}
        assert found["seeds"] == [1337, 1338]
        assert (run_ledger / f"ledger/{claim}.html").exists()
    assert entry(run_ledger, "C7")["cost"]["measuring"] > 0


def test_the_number_of_seeds_is_fixed_before_a_claim_is_run(start: Start, run_ledger: Path) -> None:
    """More seeds in the same ledger are refused; the plan is in the ledger before anything is trained."""
    assert start(f"claims run C6 {SCALE.replace('--seeds 2', '--seeds 3')}").wait() == 2
    refusal = (run_ledger / "child.err").read_text()
    assert "the number of seeds is fixed before a claim is run; C6 has 2 here, got 3" in refusal
    assert len(finished(run_ledger)) == 14


def test_an_altered_measurement_is_taken_again(start: Start, run_ledger: Path) -> None:
    """A figure that somebody improved enters no verdict."""
    before = (run_ledger / "ledger/ledger.json").read_bytes()
    altered = sorted((run_ledger / "ledger/measurements").glob("*-clamping-*"))[0]
    altered.write_text(altered.read_text().replace('"rise": ', '"rise": 9'))
    assert start(f"claims report {SCALE}").wait() == 0
    assert len(entry(run_ledger, "C7")["seeds"]) == 1
    assert start(f"claims run {CLAIMS} {SCALE}").wait() == 0
    conditions = next(e for e in json.loads(before)["claims"] if e["id"] == "C7")["conditions"]
    assert entry(run_ledger, "C7")["conditions"] == conditions


def test_an_interrupted_run_continues_to_the_same_ledger(start: Start, run_ledger: Path) -> None:
    """SIGTERM, then SIGKILL of the parent in the midst of it: in the end every effect is as without."""
    undisturbed = {claim: entry(run_ledger, claim)["conditions"] for claim in CLAIMS.split()}
    (run_ledger / "cells").rename(run_ledger / "old-cells")
    (run_ledger / "ledger").rename(run_ledger / "old-ledger")
    for number in (signal.SIGTERM, signal.SIGKILL):
        before = len(finished(run_ledger))
        child = start(f"claims run {CLAIMS} {SCALE}")
        await_that(lambda wanted=before + 2: len(finished(run_ledger)) >= wanted, "two more cells")
        child.signal(number)
        assert child.wait() == (143 if number == signal.SIGTERM else -signal.SIGKILL)
        time.sleep(0.5)  # until orphans have seen that their parent is gone
    assert start(f"claims run {CLAIMS} {SCALE}").wait() == 0
    assert {claim: entry(run_ledger, claim)["conditions"] for claim in CLAIMS.split()} == undisturbed


def test_other_code_and_another_text_make_an_entry_stale(start: Start, run_ledger: Path) -> None:
    """What was found is still shown, marked, in no family; nothing of it enters a new verdict."""
    before = entry(run_ledger, "C6")
    assert start(f"claims report {SCALE}", change_the_code=["another"]).wait() == 0
    stale = entry(run_ledger, "C6")
    assert stale == {**before, "status": "stale"}
    assert "stale" in (run_ledger / "ledger/README.md").read_text()
    assert start(f"claims report {SCALE}").wait() == 0
    assert entry(run_ledger, "C6") == before
    (run_ledger / "text.txt").write_text((run_ledger / "text.txt").read_text()[::-1])
    assert start(f"claims run C6 {SCALE}").wait() == 0
    assert entry(run_ledger, "C6")["conditions"] != before["conditions"]
    assert entry(run_ledger, "C7")["status"] == "stale"


def test_an_entry_made_on_another_machine_is_kept(start: Start, run_ledger: Path) -> None:
    """Claims of one ledger may be run on several machines; at another scale they are stale."""
    before = entry(run_ledger, "C6")
    for folder in ("cells", "ledger/measurements"):
        (run_ledger / folder).rename(run_ledger / f"elsewhere-{Path(folder).name}")
    for how in ("", " --dtype float32 --threads 1"):
        assert start(f"claims report {SCALE}{how}").wait() == 0
        assert entry(run_ledger, "C6") == before
    assert start(f"claims report {SCALE} --lr 1e-4").wait() == 0
    assert entry(run_ledger, "C6") == {**before, "status": "stale"}


def test_a_budget_takes_what_fits(start: Start, workplace: Path) -> None:
    """Too small a one says what the cheapest claim costs; nothing is trained then."""
    assert start(f"claims run {CLAIMS} {SCALE} --budget 0.0001", keep_pace=PACE).wait() == 2
    refusal = (workplace / "child.err").read_text()
    assert re.search(r"budget is too small; got 0.0001 minutes; the cheapest claim, C[67], takes about [\d.]+", refusal)
    assert not finished(workplace)
    assert start(f"claims run {CLAIMS} {SCALE} --dry-run --json", keep_pace=PACE).wait() == 0
    seconds = json.loads((workplace / "child.out").read_text())["seconds"]
    assert set(seconds) == set(CLAIMS.split())
    assert not finished(workplace)
    between = sum(seconds.values()) / 60 * 0.6  # both together cost three quarters of the sum
    assert start(f"claims run {CLAIMS} {SCALE} --budget {between}", keep_pace=PACE).wait() == 0
    assert {entry(workplace, claim)["status"] for claim in CLAIMS.split()} == {"judged", "not run"}


def test_a_diverged_arm_counts_and_is_shown(start: Start, workplace: Path) -> None:
    """At an absurd rate every training diverges: no mean is made up, and the page counts them."""
    assert start(f"claims run C6 {SCALE} --lr 1e30 --grad-clip 0 --norm none").wait() == 0
    found = entry(workplace, "C6")
    assert all(arm["diverged"] == 2 for arm in found["arms"])
    assert all(condition["mean"] is None for condition in found["conditions"])
    assert found["verdict"] == "VOID"


def test_what_cannot_be_asked_is_refused(refused: Command) -> None:
    refused(2, "claims", says=("ACTION",))
    refused(2, "claims rnu C5", says=("unknown action 'rnu'", "run"))
    refused(2, "claims run", says=("either ids or --all",))
    refused(2, "claims run C5 --all", says=("either ids or --all",))
    refused(2, "claims run C99", says=("unknown claim 'C99'", f"C1 to {list(catalogue.CLAIMS)[-1]}"))
    refused(2, "claims run C42", says=("C42 cannot be run",))
    refused(2, "claims show", says=("takes one id",))
    refused(2, "claims list C5", says=("leave ids out",))
    refused(2, "claims report --budget 5", says=("runs nothing",))
    refused(2, "claims run C5 --budget 0", says=("positive number of minutes",))
    refused(2, "claims run C5 --budget nan", says=("positive number of minutes",))


def test_without_a_ledger_the_claims_are_listed_all_the_same(minigpt: Command, capsys: Capture) -> None:
    assert minigpt("claims list --json") == 0
    claims = json.loads(capsys.readouterr().out)["claims"]
    assert [claim["id"] for claim in claims] == list(catalogue.CLAIMS)
    assert {claim["verdict"] for claim in claims} == {None}
    assert minigpt("claims show c5") == 0
    shown = capsys.readouterr().out
    assert "other activation functions can be used instead of ReLU" in shown
