"""Made-up ledgers in the format of `ledger.json`: judged by the real rules, from effects that were chosen."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.base.storage import write_sealed
from minigpt.claims import entries
from minigpt.claims.claim import ArmFigures, Claim, Condition, Gate, Plan, Series
from minigpt.claims.evidence import Evidence
from minigpt.claims.scale import LEDGER_FILE
from minigpt.experiments.arms import Arm

Record = dict[str, Any]
HOSTILE = '"><script>alert(1)</script> $\\frac$ | ``` _x_ <!-- \x1b[31m\u202e'
SEEDS = tuple(range(1337, 1345))
DIVERGED = math.inf


def made_up_claim(number: int, conditions: Sequence[tuple[str, str, float]] = (), **changes: Any) -> Claim:
    """A claim whose condition k, (name, unit, margin), has the figure `effect k` of its second arm as its effect."""
    words: Record = {
        "id": f"C{number}",
        "where": f"W{number}",
        "quote": "can reduce the model's ability to learn",
        "statement": f"Statement {number} about the neurons of a small GPT is true, at equal parameters.",
        "meaning": "Loss of one arm less that of the other. True if the difference reaches its margin.",
        "tag": "measurable",
        "forecast": "harm at a high rate, none at the default one",
        "arms": {"relu": Arm(), "gelu": Arm({"activation": "gelu"})},
        "conditions": tuple(
            Condition(name, unit, margin, lambda evidence, seed, k=k: evidence.figure("gelu", seed, "made up", f"{k}"))
            for k, (name, unit, margin) in enumerate(conditions)
        ),
    }
    return Claim(**{**words, **changes})


FAMILY_SIZES = {"primary": 16, "exploratory": 25}


def made_up_gate(least: float, name: str = "the loss is below a trigram's") -> Gate:
    """A gate whose value is by how much the second arm's loss is above the first's."""
    return Gate(
        "training",
        name,
        "nats",
        least,
        lambda evidence, seed: evidence.loss("gelu", seed) - evidence.loss("relu", seed),
    )


def judged_entry(claim: Claim, effects: Sequence[Sequence[float]], losses: Mapping[str, Sequence[float]]) -> Record:
    """An entry as the ledger makes it, from effects by condition and seed and losses by arm and seed."""
    seeds = SEEDS[: len(effects[0])]
    results = {(arm, seed): _result(loss) for arm, row in losses.items() for seed, loss in zip(seeds, row, strict=True)}
    measured = {
        ("gelu", seed, "made up"): {f"{k}": row[place] for k, row in enumerate(effects)}
        for place, seed in enumerate(seeds)
    }
    plan = Plan(claim.looks, claim.choosing)
    entry = entries.judged(claim, Evidence(results, measured), seeds, plan, FAMILY_SIZES[claim.family])
    return {
        **entry,
        "seeds_declared": claim.looks[0],
        "arms": [_arm(claim, arm, row) for arm, row in losses.items()],
        "cost": _cost(claim, losses, len(seeds)),
        "command": f"python -m minigpt claims run {claim.id}",
        "provenance": {
            "commit": ["fad9dfd0" * 5],
            "torch": ["2.13.0"],
            "processor": ["AMD EPYC"],
            "accelerator": ["None"],
        },
    }


def _cost(claim: Claim, losses: Mapping[str, Sequence[float]], seeds: int) -> Record:
    """Every training took 31.25 core-seconds, and what was measured 4.5."""
    trained = {cell: 31.25 for arm, row in losses.items() for cell in _arm(claim, arm, row)["cells"]}
    sums = {"training": 31.25 * len(trained), "measuring": 4.5}
    return {"cells": len(trained), **sums, "each": {**trained, f"{claim.id}-made up": 4.5}}


def _result(loss: float) -> Record:
    layers = [{"neurons": 384, "dead_fraction": 0.01}]
    val = {"loss": loss, "dead_fraction": 0.01, "layers": layers}
    return {"status": "finished" if math.isfinite(loss) else "diverged", "val": val, "evaluations": []}


def _arm(claim: Claim, name: str, losses: Sequence[float]) -> Record:
    finished = [loss if math.isfinite(loss) else None for loss in losses]
    settings = claim.arms[name].settings
    return {
        "name": name,
        "settings": ", ".join(f"--{flag} {value}" for flag, value in settings.items()),
        "start": claim.arms[name].start or None,
        "losses": finished,
        "dead": [None if loss is None else 0.01 for loss in finished],
        "diverged": finished.count(None),
        "cells": [f"{name}{seed}" for seed in SEEDS[: len(losses)]],
        "command": f"python train.py --seed {SEEDS[0]} --activation {name}",
    }


def made_up_ledger() -> Record:
    """Claims of every verdict and status, and what is hard to show: diverged, alone, without spread, huge, hostile."""
    found = [
        _drawn(1, [0.05], 0.01, expected="SUPPORTED"),
        _drawn(2, [-0.02], 0.01, expected="SUPPORTED", tag="when provoked"),
        _drawn(3, [0.012], 0.03, expected="INCONCLUSIVE", tag="proxy"),
        _drawn(4, [0.04, 0.0], 0.01, units=("share", "ratio"), rule="any"),
        _diverged(5),
        judged_entry(made_up_claim(6, [("one seed", "nats", 0.01)]), [[0.02]], {"relu": [1.5], "gelu": [1.52]}),
        judged_entry(made_up_claim(7, [("no spread", "nats", 0.01)], looks=(3,)), [[0.02] * 3], _losses(3)),
        judged_entry(made_up_claim(8, [("huge", "steps", 10.0)], looks=(3,)), [[123456.0, 2e9, 98765.0]], _losses(3)),
        entries.describe(made_up_claim(9, [("not run", "nats", 0.01)], expected="REFUTED")),
        entries.describe(made_up_claim(10, tag="measurable", obstacle="the mixture of experts has not been built")),
        _drawn(17, [0.03], 0.01, expected="REFUTED"),
        _hostile(18),
        _drawn(19, [0.03], 0.01, expected="SUPPORTED"),
        _drawn(20, [0.03], 0.01, expected="SUPPORTED", gates=(made_up_gate(0.01), made_up_gate(0.5, "learnt at all"))),
        entries.describe(made_up_claim(42, tag="not measurable", obstacle="a small GPT has no reputation to lose")),
    ]
    found = entries.with_verdicts(found, FAMILY_SIZES)
    found = [{**entry, "status": "stale"} if entry["id"] == "C19" else entry for entry in found]
    base = {"n_embd": 96, "batch_size": 12, "steps": 1000, "lr": 0.004}
    ledger = {
        "format": 2,
        "scale": {"asked": {}, "options": {"seeds": 0, "workers": 0, "cells_dir": "runs/cells"}, "base": base},
        "code": "cd" * 32,
        "family_sizes": FAMILY_SIZES,
        "claims": found,
    }
    return dict(json.loads(json.dumps(ledger, allow_nan=False)))


def _losses(seeds: int) -> dict[str, list[float]]:
    return {"relu": [1.5 + 0.01 * k for k in range(seeds)], "gelu": [1.52 + 0.01 * k for k in range(seeds)]}


def _drawn(
    number: int, means: Sequence[float], margin: float, units: Sequence[str] = ("nats",), **changes: Any
) -> Record:
    """A claim with a condition for each mean, its effects drawn around it, with series and a table."""
    random = np.random.default_rng(number)
    conditions = [(f"condition {k} of {number}", unit, margin) for k, unit in enumerate(units)]
    arms = {"relu": Arm(), "gelu": Arm({"activation": "gelu"}), "gelu continued": Arm({}, start="gelu")}
    claim = made_up_claim(number, conditions, arms=arms, series=_SERIES, tables=_TABLES, **changes)
    effects = [[float(value) for value in random.normal(mean, 0.006, len(SEEDS))] for mean in means]
    losses = _losses(len(SEEDS)) | {"gelu continued": [1.4] * len(SEEDS)}
    return judged_entry(claim, effects, losses)


def _diverged(number: int) -> Record:
    """A claim of which some trainings have no loss."""
    claim = made_up_claim(number, [("worse, or diverged", "nats", 0.01)], series=_SERIES, tables=_TABLES)
    losses = _losses(8)
    losses["gelu"][2:5] = [DIVERGED] * 3
    effects = [gelu - relu for gelu, relu in zip(losses["gelu"], losses["relu"], strict=True)]
    return judged_entry(claim, [effects], losses)


def _hostile(number: int) -> Record:
    """A claim with markup, formulas and control characters wherever there are words."""
    arms = {"relu": Arm(), "gelu": Arm({"activation": HOSTILE})}
    words = dict.fromkeys(("where", "quote", "statement", "meaning", "forecast"), HOSTILE)
    series = (Series(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: (("relu", 0.0), ("gelu", 1.0)), "_": ()}, _loss, log_x=True),)
    tables = (ArmFigures(HOSTILE, {HOSTILE: _loss}),)
    claim = made_up_claim(
        number, [(HOSTILE, HOSTILE, 0.01)], arms=arms, series=series, tables=tables, looks=(3,), **words
    )
    entry = judged_entry(claim, [[0.02, 0.021, 0.04]], _losses(3))
    entry["command"] = HOSTILE
    entry["provenance"] |= {"processor": [HOSTILE]}
    entry["arms"][0] |= {"command": HOSTILE, "settings": HOSTILE, "start": HOSTILE}
    return entry


def _dead(evidence: Evidence, arm: str, seed: int) -> float:
    return evidence.health(arm, seed, "dead_fraction")


def _loss(evidence: Evidence, arm: str, seed: int) -> float:
    return evidence.loss(arm, seed)


_POINTS = (("relu", 0.25), ("gelu", 1.0))
_SERIES = (
    Series(
        "Loss by rate", "multiple of the base rate", "loss, nats", {"ReLU": _POINTS, "GELU": _POINTS[::-1]}, _loss, True
    ),
    Series("Death by depth", "layers", "dead, share", {"ReLU": _POINTS}, _dead),
)
_TABLES = (ArmFigures("Losses once more", {"loss, nats": _loss, "dead, share": _dead}),)


def written(ledger: Record, directory: Path) -> Path:
    """The directory of a ledger with this content, sealed as `minigpt claims` seals it."""
    write_sealed(directory / LEDGER_FILE, ledger)
    return directory
