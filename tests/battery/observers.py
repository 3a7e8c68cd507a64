"""Whatever watches a training, in any combination: the parameters it ends with are the same."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_RUN
from run_files import final_hash

from battery.grounds import quietly, surely, workplace
from battery.tallies import Figure, Tally
from minigpt.training import loop

FLAGS = f"train {TINY_RUN} --dropout 0.2 --eval-every 0 --log-every 0 --checkpoint-every 0"
SETTINGS = {
    "evaluation": "--eval-every 3 --eval-tokens 64",
    "log": "--log-every 1",
    "checkpoints": "--checkpoint-every 2",
}
COMMANDS = {
    "sampling": "sample other --prompt a --max-new-tokens 20",
    "probe": "neurons other --tokens 1000",
    "report": "report other",
}
SWITCHES = (*SETTINGS, *COMMANDS)
AT_STEP = 5  # before it the commands run, in the process that trains


def run(count: int, seed: int, place: Path) -> list[Figure]:
    """All 64 combinations of six switches, or `count` of them drawn at random; all but the reference are disturbed."""
    what = "on/off combination of " + ", ".join(SWITCHES) + ": same parameters as with none"
    tally = Tally("observers", what, seed)
    combinations = list(itertools.product((False, True), repeat=len(SWITCHES)))
    with workplace(place) as patch:
        surely(f"{FLAGS} --out reference")
        surely(f"train {TINY_RUN} --out other")
        expected = final_hash(place / "reference")
        for combination in combinations if count >= 64 else random.Random(seed).sample(combinations, count):
            on = [switch for switch, state in zip(SWITCHES, combination, strict=True) if state]
            fault = _fault(patch, on, expected, place / "watched")
            tally.judge(not fault, f"{on or 'nothing'} of seed {seed}: {fault}")
            shutil.rmtree(place / "watched", ignore_errors=True)
    tally.note = "each with the global generators disturbed before every step"
    return [tally.figure()]


def _fault(patch: pytest.MonkeyPatch, on: list[str], expected: str, out: Path) -> str:
    flags = " ".join(SETTINGS[switch] for switch in on if switch in SETTINGS)
    faults: list[str] = []

    def watch() -> None:
        for switch in on:
            code, printed = quietly(COMMANDS[switch]) if switch in COMMANDS else (0, "")
            if code:
                faults.append(f"{switch} ends with {code}: {printed}")

    with patch.context() as inner:
        _disturb(inner, watch)
        code, printed = quietly(f"{FLAGS} {flags} --out {out}")
    if code or faults:
        return f"it ends with {code}: {printed} {faults}"
    return "" if final_hash(out) == expected else "the parameters differ"


def _disturb(patch: pytest.MonkeyPatch, watch: Callable[[], None]) -> None:
    """Before each step draw from the global generators and reseed them; before one, also do something else."""
    take_step, calls = loop.take_step, itertools.count(1)

    def disturbed(*arguments: Any, **options: Any) -> Any:
        number = next(calls)
        if number == AT_STEP:
            watch()
        random.random()
        torch.rand(3)
        torch.manual_seed(number)
        return take_step(*arguments, **options)

    patch.setattr(loop, "take_step", disturbed)
