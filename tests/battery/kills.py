"""SIGKILL at random moments: nothing committed is lost, and the end is that of a training to which nothing happened."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from child_processes import Child, Server, await_that, begin_child, newest_step, serving, told
from conftest import TINY_RUN
from run_files import comparable, final_hash, summary

from battery.grounds import leftovers, quietly, workplace
from battery.tallies import Figure, Tally

STEPS = 60
FLAGS = f"train {TINY_RUN} --dropout 0.1 --steps {STEPS} --checkpoint-every 1 --eval-every 7"
AIMED_AT_SAVES = 0.8  # of the kills: a random moment of a save; the others: a random moment of everything
INSIDE = 0.5  # of the kills must strike inside a save, or little is proven: more follow until they have


class Training:
    """One training that is killed and resumed until it reaches its end."""

    def __init__(self, ask: Server, place: Path, name: str) -> None:
        self.ask, self.place, self.run = ask, place, place / name
        self.phases = place / f"{name}.phases"
        self.acknowledged = -1

    def begin(self) -> Child:
        self.phases.unlink(missing_ok=True)
        return begin_child(self.ask, self.place, f"{FLAGS} --out {self.run.name} --resume", announce=[str(self.phases)])

    def heard(self) -> list[str]:
        return told(self.phases)

    def is_saving(self) -> bool:
        return self.heard()[-1:] != [] and self.heard()[-1].startswith(("saving", "committed"))

    def is_over(self) -> bool:
        return f"saved {STEPS}" in self.heard()

    def fault(self) -> str:
        """What is wrong with what a kill left behind; nothing, if all is well."""
        committed = [int(line.split()[1]) for line in self.heard() if line.startswith("committed")]
        self.acknowledged = max([self.acknowledged, *committed])
        if self.acknowledged < 0:
            return ""
        try:
            newest = newest_step(self.run)
        except Exception as error:
            return f"the newest checkpoint is not whole: {error}"
        if newest < self.acknowledged:
            return f"step {self.acknowledged} was committed and {newest} is found"
        code, printed = quietly("verify", str(self.run))
        return f"verify ends with {code}: {printed}" if code else ""

    def fault_of_its_end(self, whole: Path) -> str:
        """What distinguishes a finished training from the undisturbed one."""
        if final_hash(self.run) != final_hash(whole):
            return "the last parameters differ"
        if comparable(self.run) != comparable(whole):
            return "the log differs"
        return f"left behind: {leftovers(self.run)}" if leftovers(self.run) else ""


def run(count: int, seed: int, place: Path) -> list[Figure]:
    """Kill a training that commits every step `count` times; each one that ends is compared and another begun."""
    kills = Tally("kills", "SIGKILL at a random moment, then verify and resume", seed)
    ends = Tally("kills", "trainings that ended after many kills, compared with an undisturbed one", seed)
    chance, inside = random.Random(seed), 0
    with workplace(place), serving() as ask:
        assert begin_child(ask, place, f"{FLAGS} --out whole").wait() == 0
        second_a_step = summary(place / "whole")["seconds"] / STEPS
        training = Training(ask, place, "cut-0")
        while kills.count < count or (inside < INSIDE * count and kills.count < 2 * count):
            where = f"kill {kills.count} of seed {seed}"
            child = training.begin()
            _wait_for_the_moment(training, chance, second_a_step)
            child.signal(signal.SIGKILL)
            ended = child.wait()
            if ended == -signal.SIGKILL:
                inside += training.is_saving()
                fault = training.fault()
                kills.judge(not fault, f"{where}: {fault}")
                if (training.run / "summary.json").exists():  # it had ended, but for the page that it draws
                    training = _next(training, 0, ends, place / "whole")
            else:
                training = _next(training, ended, ends, place / "whole")
        _next(training, training.begin().wait(), ends, place / "whole")
    kills.note = f"{inside:,} of them inside a save"
    if inside < INSIDE * count:
        kills.complain(f"only {kills.note}, of {count:,}")
    return [kills.figure(), ends.figure()]


def _wait_for_the_moment(training: Training, chance: random.Random, second_a_step: float) -> None:
    if chance.random() < AIMED_AT_SAVES:
        await_that(lambda: training.is_saving() or training.is_over(), "a save")
        for _ in range(chance.randrange(3)):  # else a resumed training would always die in its first save
            step = training.heard()[-1]
            await_that(lambda before=step: training.heard()[-1] != before or training.is_over(), "the next phase")
        time.sleep(chance.uniform(0, second_a_step / 10))
    else:
        if chance.random() < 0.8:  # the others may strike before the first step
            await_that(lambda: "training" in training.heard(), "the training")
        time.sleep(chance.uniform(0, 6 * second_a_step))


def _next(training: Training, ended: int, ends: Tally, whole: Path) -> Training:
    """Judge a training that has ended, and begin another."""
    fault = training.fault_of_its_end(whole) if ended == 0 else f"it ended with {ended}"
    ends.judge(not fault, f"{training.run.name} of seed {ends.seed}: {fault}")
    return Training(training.ask, training.place, f"cut-{ends.count}")
