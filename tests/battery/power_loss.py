"""Power cuts on a simulated disk: what was acknowledged as committed can be read after any of them."""

from __future__ import annotations

from pathlib import Path

from conftest import TINY_RUN
from lossy_disk import disk_states, is_lost, rebuild, recording
from run_files import comparable, final_hash

from battery.grounds import quietly, surely, workplace
from battery.tallies import Figure, Tally

FLAGS = f"train {TINY_RUN} --steps 4 --checkpoint-every 1 --eval-every 2 --eval-tokens 64"
ROUNDS = 10_000
TRAINED_ON = 100  # one state in this many is also trained to its end


def run(count: int, seed: int, place: Path) -> list[Figure]:
    """Rebuild `count` different states of the disk and look for the last committed step in each."""
    states = Tally("power_loss", "states of a disk after a power cut, unflushed data dropped, torn or reordered", seed)
    ends = Tally("power_loss", "of these, trained on and compared with an undisturbed training", seed)
    with workplace(place):
        with recording(place / "run") as disk:
            surely(f"{FLAGS} --out run")
        for state, acknowledged, tree in disk_states(disk, seed, ROUNDS):
            if states.count == count:
                break
            rebuild(tree, disk.root, place / "rebuilt")
            states.judge(not is_lost(place / "rebuilt", acknowledged), f"step {acknowledged} is lost {state}")
            if states.count % TRAINED_ON == 0:
                fault = _fault_of_going_on(place)
                ends.judge(not fault, f"{state}: {fault}")
    states.note = f"{len(disk.operations)} operations recorded"
    return [states.figure(), ends.figure()]


def _fault_of_going_on(place: Path) -> str:
    code, printed = quietly(f"{FLAGS} --out rebuilt --resume")
    if code:
        return f"it ends with {code}: {printed}"
    if final_hash(place / "rebuilt") != final_hash(place / "run"):
        return "the last parameters differ"
    return "" if comparable(place / "rebuilt") == comparable(place / "run") else "the log differs"
