"""The answer of an ablation: everything in `analysis.json`, derived from its plan and the results of its cells.

Deterministic except for `cost`, in whatever order the cells ran. Reads and writes nothing. What is missing is None:
a pending cell has no figures, and a diverged one no loss, whatever its last evaluation said.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from statistics import fmean, median
from typing import Any

from minigpt.base.health_columns import DORMANT, over_layers
from minigpt.base.tables import lookup
from minigpt.experiments import comparisons
from minigpt.experiments.comparisons import Outcomes, Rule
from minigpt.experiments.conclusions import conclude
from minigpt.experiments.paired_statistics import estimate

FORMAT = 1
MEASURE = "validation loss at the last step, nats per token"
SHARES = {
    key.partition("/")[0]: key
    for key in ("dead_fraction", DORMANT, "inert_fraction", "density", "never_positive_fraction")
}
"""What is recorded of every layer, and where a layer has it."""
FAIRNESS = ("parameters", "d_ff", "flops_per_token", "steps", "tokens", "same_windows", "same_start")
PROVENANCE = ("commit", "dirty", "torch", "processor", "accelerator", "platform", "python", "threads", "cohort")
COPIED = ("name", "command", "margin", "alpha", "seeds", "compare", "base", "factors", "corpus", "tuning", "stale")

Record = dict[str, Any]


def analyse(plan: Mapping[str, Any], results: Mapping[str, Record]) -> Record:
    """Derive `analysis.json` from `ablation.json` and, by cell id, what `cells.read_result` found of those done."""
    cells = [_cell(planned, results.get(planned["id"])) for planned in plan["cells"]]
    main = [cell for cell in cells if cell["purpose"] == "main"]
    outcomes = _outcomes(plan, main)
    rule = Rule(plan["margin"], plan["alpha"])
    measured = [
        comparisons.measure(arm, reference, factor, outcomes, rule.margin) for arm, reference, factor in plan["pairs"]
    ]
    floor_arm = next((arm["name"] for arm in plan["arms"] if arm["reference"]), plan["arms"][0]["name"])
    analysis = {
        "format": FORMAT,
        "measure": MEASURE,
        **{key: plan[key] for key in COPIED},
        "complete": all(cell["status"] != "pending" for cell in cells),
        "provenance": _provenance(plan, results),
        "arms": [_arm(arm, [cell for cell in main if cell["arm"] == arm["name"]], results) for arm in plan["arms"]],
        "comparisons": comparisons.judge(measured, rule),
        "family": comparisons.family_size(measured),
        "noise_floor": comparisons.noise_floor(floor_arm, outcomes),
        "pairing": comparisons.pairing(measured, outcomes),
        "power": comparisons.power(measured, rule.alpha),
        "sensitivity": _sensitivity(plan, cells),
        "cells": cells,
        "cost": _cost(plan, results),
    }
    return {**analysis, "conclusion": conclude(analysis)}


def _cell(planned: Record, result: Record | None) -> Record:
    """One row of the table of cells."""
    status = result["status"] if result else "pending"
    val = result["val"] if result and status == "finished" else {}
    layers = val.get("layers", [])
    return {
        **{key: planned[key] for key in ("id", "arm", "seed", "lr", "purpose")},
        "status": status,
        "steps": result["steps"] if result else planned["steps"],
        "loss": val.get("loss"),
        "perplexity": _perplexity(val.get("loss")),
        "bits_per_byte": val.get("bits_per_byte"),
        "dead_fraction": val.get("dead_fraction"),
        "dormant_fraction": over_layers(layers, DORMANT),
        "inert_fraction": over_layers(layers, "inert_fraction"),
        "parameters": result["parameters"] if result else None,
        "parameters_sha256": result["parameters_sha256"] if result else None,
        "directory": planned["directory"],
        "command": planned["command"],
    }


def _outcomes(plan: Mapping[str, Any], main: list[Record]) -> Outcomes:
    """Loss by arm and seed, infinite where a cell diverged, absent where it is pending."""
    outcomes: dict[str, dict[int, float]] = {arm["name"]: {} for arm in plan["arms"]}
    for cell in main:
        if cell["status"] != "pending":
            outcomes[cell["arm"]][cell["seed"]] = math.inf if cell["loss"] is None else cell["loss"]
    return outcomes


def _arm(arm: Record, cells: list[Record], results: Mapping[str, Record]) -> Record:
    """One arm over its seeds; figures are of its finished cells, so read them beside `diverged`."""
    finished = [cell for cell in cells if cell["status"] == "finished"]
    losses = [cell["loss"] for cell in finished]
    results_finished = [results[cell["id"]] for cell in finished]
    return {
        **{key: arm[key] for key in ("name", "settings", "reference")},
        "cells": len(cells),
        **{status: sum(cell["status"] == status for cell in cells) for status in ("finished", "diverged", "pending")},
        "loss": dataclasses.asdict(estimate(losses)) if losses else None,
        "perplexity": _perplexity(fmean(losses)) if losses else None,
        "bits_per_byte": _mean(cell["bits_per_byte"] for cell in finished),
        "dead_fraction": _share_estimate([cell["dead_fraction"] for cell in finished]),
        "layers": _layers([result["val"]["layers"] for result in results_finished]),
        "curve": _curve([results[cell["id"]] for cell in cells if cell["id"] in results]),
        "fairness": _fairness(arm["fairness"], results_finished),
    }


def _share_estimate(shares: list[float]) -> Record | None:
    """Mean share with its t interval, cut to what a share can be."""
    if not shares:
        return None
    found = dataclasses.asdict(estimate(shares))
    if found["sd"] is not None:
        found |= {"low": max(0.0, found["low"]), "high": min(1.0, found["high"])}
    return found


def _layers(cells: list[list[Record]]) -> list[Record]:
    """Each layer over the finished cells of an arm."""
    return [
        {
            **{key: layers[0][key] for key in ("layer", "activation", "neurons")},
            "tokens": min(layer["tokens"] for layer in layers),
            "dead_upper": max(layer["dead_upper"] for layer in layers),
            **{name: _spread([float(lookup(layer, key)) for layer in layers]) for name, key in SHARES.items()},
        }
        for layers in zip(*cells, strict=True)
    ]


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": fmean(values), "min": min(values), "max": max(values)}


def _curve(results: list[Record]) -> list[Record]:
    """Validation loss over steps with its range over seeds; diverged cells are in it for as long as they went."""
    losses: dict[int, list[float]] = {}
    for result in results:
        for evaluation in result["evaluations"]:
            if evaluation["loss"] is not None and math.isfinite(evaluation["loss"]):
                losses.setdefault(evaluation["step"], []).append(evaluation["loss"])
    return [
        {"step": step, "mean": fmean(values), "low": min(values), "high": max(values), "n": len(values)}
        for step, values in sorted(losses.items())
    ]


def _fairness(planned: Record, results: list[Record]) -> Record:
    """What an arm was given; figures that the plan left open are those of its first finished cell."""
    measured = {key: results[0][key] for key in ("parameters", "flops_per_token", "steps", "tokens")} if results else {}
    known = {key: value for key, value in planned.items() if value is not None}
    return {**dict.fromkeys(FAIRNESS), **measured, **known}


def _sensitivity(plan: Mapping[str, Any], cells: list[Record]) -> list[Record]:
    """Loss by learning rate: of the tuning cells if rates were tuned, of the main ones if they were varied."""
    tuned = plan["tuning"] is not None
    if not tuned and len(plan["factors"].get("lr", [])) < 2:
        return []
    names = {arm["name"]: arm["name"] if tuned else _without_rate(arm["name"], plan["name"]) for arm in plan["arms"]}
    groups: dict[tuple[str, float], list[Record]] = {}
    for cell in cells:
        if cell["purpose"] == ("tune" if tuned else "main"):
            groups.setdefault((names[cell["arm"]], cell["lr"]), []).append(cell)
    chosen = plan["tuning"]["chosen"] if tuned else {}
    rows = [(name, lr) for name in dict.fromkeys(names.values()) for lr in sorted({lr for _, lr in groups})]
    return [_rate(*row, groups[row], chosen.get(row[0]) == row[1]) for row in rows if row in groups]


def _without_rate(arm: str, ablation: str) -> str:
    """What an arm shares in its name with those that differ in the learning rate alone."""
    return ", ".join(word for word in arm.split(", ") if not word.startswith("lr=")) or ablation


def _rate(name: str, lr: float, cells: list[Record], chosen: bool) -> Record:
    losses = [cell["loss"] for cell in cells if cell["status"] == "finished"]
    return {
        "arm": name,
        "lr": lr,
        "n": len(losses),
        "mean": fmean(losses) if losses else None,
        "low": min(losses, default=None),
        "high": max(losses, default=None),
        "diverged": sum(cell["status"] == "diverged" for cell in cells),
        "chosen": chosen,
    }


def _provenance(plan: Mapping[str, Any], results: Mapping[str, Record]) -> Record:
    """Where the cells ran: what the first of them says, and the keys in which others differ."""
    found = [results[cell["id"]] for cell in plan["cells"] if cell["id"] in results]
    values = {key: [result["environment"][key] for result in found] for key in PROVENANCE}
    return {
        "code": plan["code"],
        **{key: value[0] if value else None for key, value in values.items()},
        "mixed": [key for key, value in values.items() if any(other != value[0] for other in value)],
    }


def _cost(plan: Mapping[str, Any], results: Mapping[str, Record]) -> Record:
    """What each arm cost, tuning included; of models trained as one, each is given its share."""
    arms = {}
    for arm in plan["arms"]:
        done = [results[cell["id"]] for cell in plan["cells"] if cell["arm"] == arm["name"] and cell["id"] in results]
        shares = [1 / result["environment"]["cohort"] for result in done]
        timed = zip([result["seconds_per_step"] for result in done], shares, strict=True)
        paces = [pace * share for pace, share in timed if pace is not None]
        peaks = [result["peak_memory_bytes"] for result in done if result["peak_memory_bytes"] is not None]
        arms[arm["name"]] = {
            "seconds_per_step": median(paces) if paces else None,
            "peak_memory_bytes": max(peaks, default=None),
            "seconds": sum(result["seconds"] * share for result, share in zip(done, shares, strict=True)),
        }
    return {"arms": arms, "seconds": sum(cost["seconds"] for cost in arms.values())}


def _perplexity(loss: float | None) -> float | None:
    """exp(loss); None where that overflows, too."""
    return math.exp(loss) if loss is not None and loss < 709 else None


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean, or None if there is nothing or something is missing."""
    found = list(values)
    known = [value for value in found if value is not None]
    return fmean(known) if known and len(known) == len(found) else None
