"""What was found, by arm and seed: results of trainings, and what was measured on their checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minigpt.base.health_columns import over_layers


@dataclass(frozen=True)
class Evidence:
    """Results by (arm, seed), and measurements by (arm, seed, name); seeds of `choosing` are judged nowhere.

    A training that diverged has an infinite loss, worse than any other; none is ever dropped.
    """

    results: Mapping[tuple[str, int], Mapping[str, Any]]
    measured: Mapping[tuple[str, int, str], Mapping[str, Any]]
    choosing: tuple[int, ...] = ()

    def diverged(self, arm: str, seed: int) -> bool:
        """Whether this training ended with a loss that is no number."""
        return bool(self.results[arm, seed]["status"] != "finished")

    def loss(self, arm: str, seed: int) -> float:
        """Validation loss at the end, in nats per token; infinite if it diverged."""
        return math.inf if self.diverged(arm, seed) else float(self.results[arm, seed]["val"]["loss"])

    def curve(self, arm: str, seed: int) -> list[tuple[int, float]]:
        """Validation losses on the way: (step, nats per token), and the final one; infinite where it was no number."""
        points = self.results[arm, seed]["evaluations"]
        return [(point["step"], math.inf if point["loss"] is None else point["loss"]) for point in points]

    def health(self, arm: str, seed: int, key: str) -> float:
        """Share of neurons at the end, over all layers, on the validation part; NaN if it diverged or has none."""
        if self.diverged(arm, seed):
            return math.nan
        layers = self.results[arm, seed]["val"]["layers"]
        share = over_layers([layer for layer in layers if layer[key] is not None], key)
        return math.nan if share is None else share

    def figure(self, arm: str, seed: int, measurement: str, key: str) -> float:
        """One number of a measurement; NaN where it could not be taken."""
        value = self.measured[arm, seed, measurement].get(key)
        return math.nan if value is None else float(value)
