"""Run directories of a few lines each, as a training leaves them, without a training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from minigpt.base import storage

MOMENT = 1_700_000_000


def evaluation(step: int, loss: float, dead: float) -> dict[str, Any]:
    """A record of an evaluation of two layers, of which the second has three times the neurons."""
    layers = [
        {"layer": layer, "activation": "relu", "neurons": neurons, "dead_fraction": dead, "inert_fraction": inert}
        for layer, neurons, inert in ((0, 100, 0.4), (1, 300, 0.0))
    ]
    figures = {"loss": loss, "perplexity": 2.0, "bits_per_byte": 1.0, "tokens": 9, "dead_fraction": dead}
    return {"kind": "eval", "step": step, "split": "val", **figures, "layers": layers}


def train_step(step: int, speed: float) -> dict[str, Any]:
    """A record of a training step."""
    figures = {"loss": 1.0, "lr": 0.1, "grad_norm": 1.0, "tokens": 9, "tokens_per_second": speed}
    return {"kind": "train", "step": step, **figures}


def make_run(
    directory: Path, records: list[dict[str, Any]], status: str = "finished", age: int = 0, **config: Any
) -> Path:
    """A run with these records, begun `age` seconds ago; without a status it has no summary."""
    storage.make_directory(directory)
    storage.write_json(directory / "config.json", {"activation": "relu", "lr": 0.001, "steps": 100, **config})
    storage.write_text(directory / "metrics.jsonl", "".join(storage.to_json(record) + "\n" for record in records))
    if status:
        storage.write_sealed(directory / "summary.json", {"status": status})
    os.utime(directory / "config.json", (MOMENT - age, MOMENT - age))
    return directory
