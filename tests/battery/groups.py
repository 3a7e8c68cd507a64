"""The groups of the battery, and how much of each is a full run and how much a quick one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from battery import (
    ablation_kills,
    bit_flips,
    cuts,
    errnos,
    fuzz_checkpoints,
    fuzz_inputs,
    kills,
    mutants,
    observers,
    overhead,
    power_loss,
    stop_latency,
)
from battery.tallies import Figure


@dataclass(frozen=True)
class Group:
    """One file of the battery; `full` and `quick` are how much it does, each in its unit."""

    run: Callable[[int, int, Path], list[Figure]]
    full: int
    quick: int
    unit: str
    needs_disk: bool = False  # because what the disk costs is measured


GROUPS = {
    "kills": Group(kills.run, 1000, 20, "kills"),
    "errnos": Group(errnos.run, 1_000_000, 200, "refusals, all there are in a full run"),
    "power_loss": Group(power_loss.run, 10_000, 300, "states of the disk"),
    "bit_flips": Group(bit_flips.run, 32_768, 2048, "flips"),
    "fuzz_checkpoints": Group(fuzz_checkpoints.run, 100_000, 1500, "checkpoints"),
    "fuzz_inputs": Group(fuzz_inputs.run, 50_000, 1000, "configurations, command lines and texts"),
    "cuts": Group(cuts.run, 1_000_000, 6, "cuts, all there are in a full run"),
    "observers": Group(observers.run, 64, 4, "combinations"),
    "ablation_kills": Group(ablation_kills.run, 200, 6, "kills"),
    "stop_latency": Group(stop_latency.run, 100, 5, "signals"),
    "mutants": Group(mutants.run, 25, 3, "guards"),
    "overhead": Group(overhead.run, 500, 40, "steps", needs_disk=True),
}
