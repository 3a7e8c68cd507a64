"""Judges a ledger again from its per-seed values alone; knows numpy, scipy and the format, and nothing of minigpt.

Written from the rule as docs/ledger.md states it, so that two programs must agree before a verdict is believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

Record = Mapping[str, Any]
LEVELS = {"primary": 0.05, "exploratory": 0.1}


def verdicts(ledger: Record) -> dict[str, str]:
    """The verdict of every judged claim by its id."""
    judged = [entry for entry in ledger["claims"] if entry["status"] == "judged"]
    found = {entry["id"]: "VOID" for entry in judged}
    for family, level in LEVELS.items():
        members = [entry for entry in judged if entry["family"] == family and all(map(passes, entry["gates"]))]
        claims = [_claim(entry) for entry in members]
        size = ledger["family_sizes"][family]
        above = _adjusted([p for p, _, _ in claims], size, family)
        below = _adjusted([q for _, q, _ in claims], size, family)
        for entry, (_, _, reaches), p, q in zip(members, claims, above, below, strict=True):
            decided = "SUPPORTED" if reaches and p < level else "REFUTED" if q < level else "INCONCLUSIVE"
            found[entry["id"]] = decided
    return found


def passes(gate: Record) -> bool:
    """Whether all seeds have a value and their mean is large enough."""
    values = [seed["value"] for seed in gate["values"]]
    return None not in values and float(np.mean(values)) >= gate["least"] - 1e-12


def _claim(entry: Record) -> tuple[float, float, bool]:
    """(p of an effect above zero, p of one below the margin, whether the margin is reached)."""
    conditions = [_condition(condition) for condition in entry["conditions"]]
    number, looks = len(conditions), len(entry["plan"]["looks"])
    if entry["rule"] == "all":
        above, below = max(p for p, _, _ in conditions), number * min(q for _, q, _ in conditions)
        reaches = all(reached for _, _, reached in conditions)
    else:
        above = number * min((p for p, _, reached in conditions if reached), default=1.0)
        below, reaches = max(q for _, q, _ in conditions), any(reached for _, _, reached in conditions)
    return min(1.0, looks * above), min(1.0, looks * below), reaches


def _condition(condition: Record) -> tuple[float, float, bool]:
    effects = [seed["effect"] for seed in condition["effects"]]
    margin = condition["margin"]
    if None in effects:  # infinite or missing: the file no longer says which, but it keeps what followed
        return condition["p"], condition["p_below"], condition["meets"]
    values = np.asarray(effects, dtype=float)
    if len(values) < 2:
        return 1.0, 1.0, False
    mean = float(values.mean())
    reaches = mean >= margin - 1e-12
    if np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):
        return (0.0 if mean > 1e-12 else 1.0), (0.0 if not reaches else 1.0), reaches
    above = float(stats.ttest_1samp(values, 0).pvalue) if mean > 0 else 1.0
    return above, float(stats.ttest_1samp(values, margin, alternative="less").pvalue), reaches


def _adjusted(p_values: Sequence[float], size: int, family: str) -> list[float]:
    """Step-down for the primary family, step-up for the exploratory one, among `size` with the rest at 1."""
    padded = np.asarray([*p_values, *[1.0] * (size - len(p_values))])
    order = np.argsort(padded, kind="stable")
    ranked = padded[order]
    if family == "primary":
        stepped = np.maximum.accumulate(ranked * np.arange(size, 0, -1))
    else:
        stepped = np.minimum.accumulate((ranked * size / np.arange(1, size + 1))[::-1])[::-1]
    adjusted = np.empty(size)
    adjusted[order] = np.minimum(1.0, stepped)
    return [float(p) for p in adjusted[: len(p_values)]]
