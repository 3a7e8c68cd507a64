"""Made-up analyses in the format of `analysis.json`, with the arithmetic of real ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import stats

Record = dict[str, Any]
EFFECTS = {  # nats against relu, share of dead neurons
    "relu": (0.0, 0.008), "gelu": (0.002, 0.0), "swiglu": (-0.028, 0.0), "silu": (0.005, 0.0), "relu2": (-0.011, 0.031),
    "elu": (0.094, 0.0), "sigmoid": (0.31, 0.0), "geglu": (-0.024, 0.0), "reglu": (-0.019, 0.012),
    "identity": (0.22, 0.0),
}  # fmt: skip
FIGURES = ("loss", "perplexity", "bits_per_byte", "dead_fraction", "dormant_fraction", "inert_fraction")


def analysis_of(
    arms: dict[str, tuple[float, float]],
    seeds: int,
    *,
    diverged: tuple[str, ...] = (),
    pending: int = 0,
    compare: str = "reference",
    rates: dict[str, tuple[str, float]] | None = None,
    tokens: int = 161_316,
    corpus: str = "stdlib",
) -> Record:
    """An analysis of named arms, each with its effect in nats and its share of dead neurons.

    `diverged` arms lost every cell, the last `pending` cells are still to be trained, `rates` names the activation and
    learning rate of each arm of a grid over both.
    """
    random = np.random.default_rng(0)
    numbers = [1337 + k for k in range(seeds)]
    of_seed = random.normal(0, 0.012, seeds)
    cells = []
    for name, (effect, dead) in arms.items():
        losses = 1.55 + effect + of_seed + random.normal(0, 0.006, seeds)
        for seed, loss in zip(numbers, losses, strict=True):
            share = max(0.0, dead + float(random.normal(0, dead / 4)))
            cells.append(_cell(name, seed, None if name in diverged else float(loss), share, (rates or {}).get(name)))
    for cell in cells[len(cells) - pending :]:
        cell |= {"status": "pending"} | dict.fromkeys(FIGURES)
    made = [_arm(name, [cell for cell in cells if cell["arm"] == name], tokens) for name in arms]
    made[0]["reference"] = compare == "reference"
    comparisons = _comparisons(made, cells, compare)
    return {
        "format": 1, "name": f"{len(arms)} arms, {seeds} seeds", "compare": compare, "complete": not pending,
        "command": f"python -m minigpt ablate --activations {','.join(arms)} --seeds {seeds}",
        "measure": "validation loss at the last step, nats per token", "margin": 0.01, "alpha": 0.05, "seeds": numbers,
        "base": {"steps": 2000, "n_embd": 96}, "factors": {"activation": list(arms)},
        "corpus": {"name": corpus, "tokenizer": "char", "sha256": "ab" * 32, "eval_part": "all"},
        "provenance": {
            "code": "cd" * 32, "commit": "fad9dfd0" * 5, "dirty": False, "torch": "2.13.0", "processor": "AMD EPYC",
            "accelerator": None, "platform": "Linux-6.1", "python": "3.11.7", "threads": 1, "cohort": 1, "mixed": [],
        },
        "arms": made, "comparisons": comparisons, "family": len(comparisons),
        "noise_floor": {"arm": next(iter(arms)), "seed_sd": 0.0131, "difference_sd": 0.0185, "detectable": 0.0262},
        "pairing": {"correlation": 0.81, "sd_ratio": 0.44},
        "power": {
            "alpha": 0.05, "family": len(comparisons), "paired_sd": 0.0083, "effects_sd": [0.5, 1, 2, 3],
            "seeds": [3, 5, 8], "power": [[0.02, 0.04, 0.12, None], [0.04, 0.13, 0.52, 0.9], [0.1, 0.4, 0.98, 1.0]],
        },
        "sensitivity": _sensitivity(made, rates), "tuning": None, "conclusion": _conclusion(comparisons),
        "cells": cells, "stale": [],
        "cost": {
            "arms": {name: {"seconds_per_step": 0.0312, "peak_memory_bytes": 412_000_000, "seconds": 62.4 * seeds}
                     for name in arms},
            "seconds": 62.4 * len(cells),
        },
    }  # fmt: skip


def _cell(arm: str, seed: int, loss: float | None, dead: float, rate: tuple[str, float] | None) -> Record:
    name = f"{hash_of(arm):06x}{seed:04x}"
    figures: Record = dict.fromkeys(FIGURES)
    if loss is not None:
        found = (loss, math.exp(loss), loss / 0.69, dead, dead * 1.4, dead * 1.2)
        figures = dict(zip(FIGURES, found, strict=True))
    return {
        "id": name, "arm": arm, "seed": seed, "lr": rate[1] if rate else 0.001, "purpose": "main",
        "status": "diverged" if loss is None else "finished", "steps": 2000, **figures, "parameters": 824_064,
        "parameters_sha256": "ef" * 32, "directory": f"../cells/{name}",
        "command": f"python train.py --activation {arm} --seed {seed}",
    }  # fmt: skip


def hash_of(name: str) -> int:
    """A small number for a name, the same in every process."""
    return sum(ord(letter) * 31**place for place, letter in enumerate(name)) % 0xFFFFFF


def _summary(values: list[float]) -> Record | None:
    if not values:
        return None
    mean, n = float(np.mean(values)), len(values)
    if n == 1:
        return {"mean": mean, "sd": None, "low": None, "high": None, "n": 1}
    sd = float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "n": n}


def _arm(name: str, cells: list[Record], tokens: int) -> Record:
    losses = [cell["loss"] for cell in cells if cell["loss"] is not None]
    dead = [cell["dead_fraction"] for cell in cells if cell["dead_fraction"] is not None]
    states = [cell["status"] for cell in cells]
    loss = _summary(losses)
    curve = []
    for step in range(0, 2001, 250):
        course = [
            1.55 + (value - 1.55) * (1 - math.exp(-step / 400)) + 3.14 * math.exp(-step / 330) for value in losses
        ]
        point = {"mean": float(np.mean(course)), "low": min(course), "high": max(course)} if course else {}
        curve.append({"step": step, "mean": None, "low": None, "high": None, "n": len(course)} | point)
    return {
        "name": name, "settings": {"activation": name}, "reference": False, "cells": len(cells),
        "finished": states.count("finished"), "diverged": states.count("diverged"), "pending": states.count("pending"),
        "loss": loss, "perplexity": math.exp(loss["mean"]) if loss else None,
        "bits_per_byte": loss["mean"] / 0.69 if loss else None, "dead_fraction": _summary(dead),
        "layers": [_layer(layer, name, dead, tokens) for layer in range(4)] if dead else [], "curve": curve,
        "fairness": {
            "parameters": 824_064, "d_ff": [384] * 4, "flops_per_token": 5_120_000, "steps": 2000, "tokens": 1_536_000,
            "same_windows": True, "same_start": "46 of 46 tensors",
        },
    }  # fmt: skip


def _layer(layer: int, activation: str, dead: list[float], tokens: int) -> Record:
    shares = [share * layer / 1.5 for share in dead]
    spread = {"mean": float(np.mean(shares)), "min": min(shares), "max": max(shares)}
    return {
        "layer": layer, "activation": activation, "neurons": 384, "tokens": tokens, "dead_upper": 5.5e-5,
        "dead_fraction": spread, "dormant_fraction": spread, "inert_fraction": spread,
        "density": {"mean": 0.15, "min": 0.12, "max": 0.19}, "never_positive_fraction": spread,
    }  # fmt: skip


def _comparisons(arms: list[Record], cells: list[Record], compare: str) -> list[Record]:
    names = [arm["name"] for arm in arms]
    pairs = [(arm, names[0]) for arm in names[1:]]
    if compare == "all":
        pairs = [(arm, other) for place, other in enumerate(names) for arm in names[place + 1 :]]
    losses = {(cell["arm"], cell["seed"]): cell["loss"] for cell in cells}
    return [_comparison(arm, reference, losses) for arm, reference in pairs]


def _comparison(arm: str, reference: str, losses: dict[tuple[str, int], float | None]) -> Record:
    seeds = [seed for name, seed in losses if name == arm]
    differences = []
    for seed in seeds:
        ours, theirs = losses[arm, seed], losses[reference, seed]
        differences.append({"seed": seed, "difference": None if ours is None or theirs is None else ours - theirs})
    found = [entry["difference"] for entry in differences if entry["difference"] is not None]
    whole = _summary(found) or dict.fromkeys(("mean", "sd", "low", "high"))
    sure = len(found) > 1
    p = float(stats.ttest_1samp(found, 0).pvalue) if sure else None
    verdict = "no verdict"
    if sure:
        verdict = ("better" if whole["mean"] < 0 else "worse") if 2 * p < 0.05 else "undecided"
        if max(abs(whole["low"]), abs(whole["high"])) < 0.01:
            verdict = "equivalent"
    return {
        "arm": arm, "reference": reference, "factor": "activation", "n": len(found), "differences": differences,
        "diverged": {"arm": len(seeds) - len(found), "reference": 0},
        **{key: whole[key] for key in ("mean", "sd", "low", "high")}, "low90": whole["low"], "high90": whole["high"],
        "p_t": p, "p_t_holm": min(1.0, 2 * p) if sure else None, "p_sign_flip": 0.0078125 if sure else None,
        "p_tost": 0.03 if sure else None, "p_tost_holm": 0.06 if sure else None, "verdict": verdict,
        "reason": "the interval reaches over the margin" if sure else "an interval needs at least two pairs",
        "seeds_to_decide": 12 if verdict == "undecided" else None,
    }  # fmt: skip


def _sensitivity(arms: list[Record], rates: dict[str, tuple[str, float]] | None) -> list[Record]:
    points = []
    for arm in arms if rates else []:
        activation, rate = rates[arm["name"]]
        loss = arm["loss"] or dict.fromkeys(("mean", "low", "high"))
        points.append({
            "arm": activation, "lr": rate, "n": arm["finished"], "diverged": arm["diverged"], "chosen": rate == 0.003,
            **{key: loss[key] for key in ("mean", "low", "high")},
        })  # fmt: skip
    return points


def _conclusion(comparisons: list[Record]) -> list[str]:
    return [
        f"{pair['arm']} against {pair['reference']}: {pair['verdict']}"
        + ("" if pair["mean"] is None else f", {pair['mean']:+.4f} nats per token")
        + "."
        for pair in comparisons
    ]
