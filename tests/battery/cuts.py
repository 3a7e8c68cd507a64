"""Every cut of a training, for every activation: resumed there, it ends in the same bits and with the same log."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_RUN
from run_files import comparable, final_hash

from battery.grounds import quietly, surely, workplace
from battery.tallies import Figure, Tally
from minigpt.activations import list_activations
from minigpt.training import checkpoints

STEPS = 50
FLAGS = f"train {TINY_RUN} --dropout 0.1 --steps {STEPS} --checkpoint-every 1 --eval-every 10 --eval-tokens 64"


def run(count: int, seed: int, place: Path) -> list[Figure]:
    """Resume from all cuts, or from `count` of them drawn at random, a few for each of a few activations."""
    tally = Tally("cuts", f"a training of {STEPS} steps cut after a commit, resumed, and compared bit by bit", seed)
    chance = random.Random(seed)
    names = [entry.name for entry in list_activations()]
    if count < len(names) * STEPS:
        names = chance.sample(names, min(len(names), max(1, count // 3)))
    for number, name in enumerate(names):
        share = count * (number + 1) // len(names) - count * number // len(names)
        steps = range(STEPS) if share >= STEPS else sorted(chance.sample(range(STEPS), share))
        with workplace(place / name) as patch:
            _keep_copies(patch, set(steps))
            surely(f"{FLAGS} --activation {name} --out whole")
            for step in steps:
                fault = _fault(Path("whole"), Path(f"cut-{step}"))
                tally.judge(not fault, f"{name} cut at step {step} of seed {seed}: {fault}")
        shutil.rmtree(place / name)
    tally.note = f"{len(names)} activations"
    return [tally.figure()]


def _keep_copies(patch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Copy the run as it is right after the commits of these steps: what a kill at that moment would leave."""
    save = checkpoints.save

    def copied(run: Path, step: int, *arguments: Any, **options: Any) -> None:
        save(run, step, *arguments, **options)
        if run.name == "whole" and step in steps:
            shutil.copytree(run, run.with_name(f"cut-{step}"))

    patch.setattr(checkpoints, "save", copied)


def _fault(whole: Path, cut: Path) -> str:
    code, printed = quietly(f"train --resume {cut} --checkpoint-every 0")
    if code:
        return f"it ends with {code}: {printed}"
    if final_hash(cut) != final_hash(whole):
        return "the last parameters differ"
    same = comparable(cut) == comparable(whole)
    shutil.rmtree(cut)
    return "" if same else "the log differs"
