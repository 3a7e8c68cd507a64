"""The rows of the ledger as plain records, as `ledger.json` holds them; what does not exist is None.

Reads and trains nothing: a claim and what was found become a record, the records of a family get their verdicts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from minigpt.base import formats
from minigpt.claims import judging
from minigpt.claims.claim import ArmFigures, Claim, Condition, Gate, Plan, Series
from minigpt.claims.evidence import Evidence
from minigpt.claims.judging import finite

Record = dict[str, Any]
_JUDGED = tuple(field.name for field in dataclasses.fields(judging.JudgedCondition))


def describe(claim: Claim, plan: Plan | None = None) -> Record:
    """What is known of a claim before anything is run."""
    plan = plan or Plan(claim.looks, claim.choosing)
    return {
        "id": claim.id,
        "family": claim.family,
        "where": claim.where,
        "quote": claim.quote,
        "statement": claim.statement,
        "meaning": claim.meaning,
        "tag": claim.tag,
        "forecast": claim.forecast,
        "expected": claim.expected,
        "rule": claim.rule,
        "obstacle": claim.obstacle or None,
        "plan": {"looks": list(plan.looks), "choosing": plan.choosing},
        "status": "not run" if claim.can_run else "not measured",
        "verdict": None,
        "conditions": [_described_condition(condition) for condition in claim.conditions],
        "gates": [_described_gate(gate) for gate in claim.gates],
    }


def judged(claim: Claim, evidence: Evidence, seeds: Sequence[int], plan: Plan, family_size: int) -> Record:
    """A claim's entry without its verdict, which needs the family: gates, conditions, pictures, tables."""
    looks = len(plan.looks)
    alphas = judging.strictest_alphas(claim.family, family_size, claim.rule, len(claim.conditions), looks)
    conditions = [
        judged_condition(_described_condition(c), {seed: c.effect(evidence, seed) for seed in seeds}, alphas)
        for c in claim.conditions
    ]
    return {
        **describe(claim, plan),
        "seeds": list(seeds),
        "finding": _finding(claim, evidence, seeds),
        "gates": [judged_gate(gate, {seed: gate.value(evidence, seed) for seed in seeds}) for gate in claim.gates],
        **concluded(claim, plan, seeds, conditions),
        "series": [_series(series, evidence, seeds) for series in claim.series],
        "tables": [_arm_figures(figures, claim, evidence, seeds) for figures in claim.tables],
    }


def concluded(claim: Claim, plan: Plan, seeds: Sequence[int], conditions: Sequence[Record]) -> Record:
    """What the judged conditions of a claim say, by themselves and together.

    The status is "incomplete" before the seeds of the first look are there: a peek decides nothing.
    """
    found = [judging.JudgedCondition(**{name: condition[name] for name in _JUDGED}) for condition in conditions]
    return {
        "status": "judged" if len(seeds) in plan.looks else "incomplete",
        "conditions": conditions,
        **dataclasses.asdict(judging.combine(found, claim.rule, len(plan.looks))),
    }


# ------------------------------------------------------------------------------------------------------------ verdicts


def with_verdicts(entries: Sequence[Record], family_sizes: Mapping[str, int]) -> list[Record]:
    """Adjust the p-values of each family, in both directions, and give each judged entry its verdict."""
    adjusted: dict[str, tuple[float, float]] = {}
    complete = {}
    for family, size in family_sizes.items():
        judged_ones = [entry for entry in entries if entry["status"] == "judged" and entry["family"] == family]
        members = [entry for entry in judged_ones if _is_open(entry)]
        above = judging.adjust(family, [entry["p"] for entry in members], size)
        below = judging.adjust(family, [entry["p_below"] for entry in members], size)
        adjusted |= {entry["id"]: both for entry, both in zip(members, zip(above, below, strict=True), strict=True)}
        complete[family] = len(judged_ones) == size
    return [
        _with_verdict(entry, adjusted.get(entry["id"]), complete[entry["family"]])
        if entry["status"] == "judged"
        else entry
        for entry in entries
    ]


def _is_open(entry: Record) -> bool:
    return all(gate["passed"] for gate in entry["gates"])


def _with_verdict(entry: Record, adjusted: tuple[float, float] | None, complete: bool) -> Record:
    """An entry with its verdict; without adjusted p-values it is void."""
    p_adjusted, p_below_adjusted = adjusted or (None, None)
    alpha = judging.ERROR_RATES[entry["family"]]
    verdict = "VOID" if adjusted is None else judging.decide(*adjusted, entry["meets"], alpha)
    needed = [condition["seeds_to_decide"] for condition in entry["conditions"]]
    known = [number for number in needed if number is not None]
    return {
        **entry,
        "p_adjusted": p_adjusted,
        "p_below_adjusted": p_below_adjusted,
        "verdict": verdict,
        "provisional": verdict != "VOID" and not complete,
        "seeds_to_decide": max(known) if verdict == "INCONCLUSIVE" and known and len(known) == len(needed) else None,
        "forecast_came_true": None if entry["expected"] is None or verdict == "VOID" else verdict == entry["expected"],
    }


# ------------------------------------------------------------------------------------------------ gates and conditions


def _described_gate(gate: Gate) -> Record:
    return {"kind": gate.kind, "name": gate.name, "unit": gate.unit, "least": gate.least}


def judged_gate(gate: Gate, values: Mapping[int, float]) -> Record:
    """A gate with its values by seed, and whether it is passed."""
    known = all(map(math.isfinite, values.values()))
    return {
        **_described_gate(gate),
        "values": [{"seed": seed, "value": finite(value)} for seed, value in values.items()],
        "mean": math.fsum(values.values()) / len(values) if known else None,
        "passed": judging.passes(list(values.values()), gate.least),
    }


def _described_condition(condition: Condition) -> Record:
    return {"name": condition.name, "unit": condition.unit, "margin": condition.margin}


def judged_condition(described: Record, effects: Mapping[int, float], alphas: tuple[float, float]) -> Record:
    """A condition with its effects by seed, and what they say by themselves."""
    found = judging.judge_condition(effects, described["margin"])
    return {
        **described,
        "effects": [{"seed": seed, "effect": finite(effect)} for seed, effect in effects.items()],
        **dataclasses.asdict(found),
        "seeds_to_decide": judging.seeds_to_decide(found, described["margin"], alphas),
    }


# ------------------------------------------------------------------------------------------------ what the pages draw


def _finding(claim: Claim, evidence: Evidence, seeds: Sequence[int]) -> str | None:
    """The claim's own sentence with its numbers; None if it has none, or where one of them does not exist."""
    if not claim.finding:
        return None
    found = {name: [value(evidence, seed) for seed in seeds] for name, (_, value) in claim.numbers.items()}
    if not all(math.isfinite(value) for values in found.values() for value in values):
        return None
    means = {name: math.fsum(values) / len(values) for name, values in found.items()}
    return claim.finding.format(**{name: _number(mean, claim.numbers[name][0]) for name, mean in means.items()})


def _number(mean: float, unit: str) -> str:
    if unit == "share":
        return formats.percent(mean)
    return formats.fixed(mean, 2 if abs(mean) >= 1 else 3 if abs(mean) >= 0.01 else 4)


def _series(series: Series, evidence: Evidence, seeds: Sequence[int]) -> Record:
    return {
        "title": series.title,
        "x": series.x,
        "y": series.y,
        "log_x": series.log_x,
        "lines": [
            {
                "name": name,
                "points": [
                    {"arm": arm, "x": x, "values": [finite(series.value(evidence, arm, seed)) for seed in seeds]}
                    for arm, x in points
                ],
            }
            for name, points in series.lines.items()
        ],
    }


def _arm_figures(figures: ArmFigures, claim: Claim, evidence: Evidence, seeds: Sequence[int]) -> Record:
    rows = []
    for arm in figures.arms or tuple(claim.arms):
        values = {name: [value(evidence, arm, seed) for seed in seeds] for name, value in figures.columns.items()}
        rows.append({"arm": arm, "cells": {name: _summary(found) for name, found in values.items()}})
    return {"title": figures.title, "columns": list(figures.columns), "rows": rows}


def _summary(values: Sequence[float]) -> Record:
    """Mean and spread over the seeds that have a finite value, and how many have none."""
    known = [value for value in values if math.isfinite(value)]
    mean = math.fsum(known) / len(known) if known else None
    sd = None
    if mean is not None and len(known) > 1:
        sd = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1))
    return {"mean": mean, "sd": sd, "missing": len(values) - len(known)}
