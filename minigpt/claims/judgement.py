"""A ledger's entries judged: effects by seed, conditions, families, and what the pages draw; reads and trains nothing.

Entries are plain records, as `ledger.json` holds them; what does not exist is None.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from minigpt.claims import verdicts
from minigpt.claims.claim import EXPLORATORY, PRIMARY, Claim, Condition, Series, Table
from minigpt.claims.evidence import Evidence
from minigpt.claims.verdicts import JudgedCondition

Record = dict[str, Any]
# What the strictest step of a family's adjustment leaves to one claim, among sixteen and about twenty-five.
STRICTEST_ALPHA = {PRIMARY: verdicts.ALPHA / 16, EXPLORATORY: verdicts.FALSE_DISCOVERY_RATE / 25}


def describe(claim: Claim) -> Record:
    """What is known of a claim before anything is run."""
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
        "status": "not run" if claim.can_run else "not measured",
        "verdict": None,
        "conditions": [{"name": c.name, "unit": c.unit, "margin": c.margin} for c in claim.conditions],
    }


def judged(claim: Claim, evidence: Evidence, seeds: Sequence[int]) -> Record:
    """A claim's entry but for its verdict, which needs the family: conditions, pictures, tables."""
    conditions = [_condition(condition, claim.family, evidence, seeds) for condition in claim.conditions]
    p, meets, excluded = verdicts.combine([found for _, found in conditions], claim.rule)
    return {
        **describe(claim),
        "status": "judged",
        "seeds": list(seeds),
        "conditions": [record for record, _ in conditions],
        "p": p,
        "meets": meets,
        "excluded": excluded,
        "series": [_series(series, evidence, seeds) for series in claim.series],
        "tables": [_table(table, claim, evidence, seeds) for table in claim.tables],
    }


def with_verdicts(entries: Sequence[Record], family_sizes: Mapping[str, int]) -> list[Record]:
    """Adjust the p-values of each family and give each judged entry its verdict."""
    adjusted: dict[str, float] = {}
    for family, size in family_sizes.items():
        members = [entry for entry in entries if entry["status"] == "judged" and entry["family"] == family]
        adjust = verdicts.adjust_primary if family == PRIMARY else verdicts.adjust_exploratory
        values = adjust([entry["p"] for entry in members], size) if members else []
        adjusted |= {entry["id"]: p for entry, p in zip(members, values, strict=True)}
    return [_with_verdict(entry, adjusted[entry["id"]]) if entry["id"] in adjusted else entry for entry in entries]


def _with_verdict(entry: Record, p_adjusted: float) -> Record:
    alpha = verdicts.ALPHA if entry["family"] == PRIMARY else verdicts.FALSE_DISCOVERY_RATE
    verdict = verdicts.verdict(p_adjusted, entry["meets"], entry["excluded"], alpha)
    needed = [condition["seeds_to_decide"] for condition in entry["conditions"]]
    known = [number for number in needed if number is not None]
    return {
        **entry,
        "p_adjusted": p_adjusted,
        "verdict": verdict,
        "seeds_to_decide": max(known) if verdict == "INCONCLUSIVE" and known and len(known) == len(needed) else None,
        "forecast_came_true": None if entry["expected"] is None else verdict == entry["expected"],
    }


def _condition(
    condition: Condition, family: str, evidence: Evidence, seeds: Sequence[int]
) -> tuple[Record, JudgedCondition]:
    effects = {seed: condition.effect(evidence, seed) for seed in seeds}
    found = verdicts.judge_condition(effects, condition.margin)
    alpha = STRICTEST_ALPHA[family]
    record = {
        "name": condition.name,
        "unit": condition.unit,
        "margin": condition.margin,
        "effects": [{"seed": seed, "effect": _finite(effect)} for seed, effect in effects.items()],
        **dataclasses.asdict(found),
        "seeds_to_decide": verdicts.seeds_to_decide(found, condition.margin, alpha),
    }
    return record, found


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
                    {"arm": arm, "x": x, "values": [_finite(series.value(evidence, arm, seed)) for seed in seeds]}
                    for arm, x in points
                ],
            }
            for name, points in series.lines.items()
        ],
    }


def _table(table: Table, claim: Claim, evidence: Evidence, seeds: Sequence[int]) -> Record:
    rows = []
    for arm in table.arms or tuple(claim.arms):
        values = {name: [value(evidence, arm, seed) for seed in seeds] for name, value in table.columns.items()}
        rows.append({"arm": arm, "cells": {name: _summary(found) for name, found in values.items()}})
    return {"title": table.title, "columns": list(table.columns), "rows": rows}


def _summary(values: Sequence[float]) -> Record:
    """Mean and spread over the seeds that have a finite value, and how many have none."""
    finite = [value for value in values if math.isfinite(value)]
    mean = math.fsum(finite) / len(finite) if finite else None
    sd = None
    if mean is not None and len(finite) > 1:
        sd = math.sqrt(math.fsum((value - mean) ** 2 for value in finite) / (len(finite) - 1))
    return {"mean": mean, "sd": sd, "missing": len(values) - len(finite)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
