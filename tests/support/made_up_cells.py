"""Made-up plans and results of cells, as an analysis is derived from, without any training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minigpt.experiments.analysis import analyse

Record = dict[str, Any]
SEEDS = list(range(1337, 1345))
DIVERGED = math.inf
PENDING = None
ENVIRONMENT = {
    "commit": "abc", "dirty": False, "torch": "2.13.0", "processor": "EPYC", "accelerator": None, "platform": "Linux",
    "python": "3.11.7", "threads": 1, "cohort": 1,
}  # fmt: skip


def noisy(offset: float = 0.0, sd: float = 0.002, seed: int = 0, n: int = 8) -> list[float]:
    """Losses of one arm: an effect of each seed that all arms share, the arm's offset, and its noise."""
    shared = np.random.default_rng(99).normal(1.5, 0.02, n)
    return [float(loss) for loss in shared + offset + np.random.default_rng(seed).normal(0, sd, n)]


def ablation(losses: dict[str, list[float | None]], dead: dict[str, float] | None = None) -> tuple[Record, Record]:
    """A plan that compares every arm with the first, and the results of its cells; inf diverged, None is pending."""
    names = list(losses)
    cells, results = [], {}
    for name, values in losses.items():
        for seed, loss in zip(SEEDS, values, strict=False):
            cell = planned_cell(name, seed)
            cells.append(cell)
            if loss is not None:
                results[cell["id"]] = result(loss, (dead or {}).get(name, 0.0))
    plan = {
        "format": 1, "name": "made-up", "command": "python -m minigpt ablate", "code": "c0de", "margin": 0.01,
        "alpha": 0.05, "seeds": SEEDS[: max(map(len, losses.values()))], "compare": "reference",
        "factors": {"activation": names}, "base": {"steps": 20}, "tuning": None, "stale": [],
        "corpus": {"name": "stdlib", "tokenizer": "char", "sha256": "c0", "eval_part": "all"},
        "arms": [
            {"name": name, "settings": {"activation": name}, "reference": name == names[0],
             "fairness": {"parameters": None, "d_ff": [8, 24], "same_windows": True, "same_start": "5 of 5 tensors"}}
            for name in names
        ],
        "pairs": [[name, names[0], "activation"] for name in names[1:]],
        "cells": cells,
    }  # fmt: skip
    return plan, results


def planned_cell(arm: str, seed: int, lr: float = 0.001, purpose: str = "main") -> Record:
    name = f"{arm}-{seed}-{lr:g}-{purpose}"
    return {
        "id": name, "arm": arm, "seed": seed, "lr": lr, "purpose": purpose, "directory": f"../cells/{name}",
        "command": f"python train.py --activation {arm} --seed {seed}", "steps": 20,
    }  # fmt: skip


def result(loss: float, dead: float = 0.0) -> Record:
    """A cell that is done; one that diverged did so at step 15, and its last evaluation looked splendid."""
    diverged = math.isinf(loss)
    last = 0.1 if diverged else loss
    return {
        "status": "diverged" if diverged else "finished", "steps": 15 if diverged else 20, "tokens": 640,
        "seconds": 2.0, "parameters": 1000, "parameters_sha256": "f00d", "flops_per_token": 6000,
        "peak_memory_bytes": 5_000_000, "seconds_per_step": 0.1, "environment": ENVIRONMENT,
        "evaluations": [{"step": 0, "loss": 4.7}, {"step": 10, "loss": 2.0 + last}]
        + ([] if diverged else [{"step": 20, "loss": loss}]),
        "val": {
            "loss": last, "perplexity": None, "bits_per_byte": last / 0.7, "tokens": 161_316,
            "dead_fraction": dead, "layers": [layer(0, 8, 4 * dead), layer(1, 24, 0.0)],
        },
    }  # fmt: skip


def layer(index: int, neurons: int, dead: float) -> Record:
    return {
        "layer": index, "activation": "relu", "neurons": neurons, "tokens": 161_316, "dead_fraction": dead,
        "dead_upper": 5.7e-5, "never_positive_fraction": dead, "density": 0.25, "rare_fraction": 0.0,
        "always_fraction": 0.0, "dormant_fraction": {"0": dead, "0.025": 0.25, "0.1": 0.5},
        "inert_fraction": 0.5 if index == 0 else 0.0,
    }  # fmt: skip


def answer(losses: dict[str, list[float | None]], dead: dict[str, float] | None = None) -> Record:
    return analyse(*ablation(losses, dead))


def only(analysis: Record) -> Record:
    [comparison] = analysis["comparisons"]
    return comparison


def text(analysis: Record) -> str:
    return "\n".join(analysis["conclusion"])
