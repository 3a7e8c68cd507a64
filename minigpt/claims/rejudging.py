"""Judging again what a ledger holds, from its per-seed values, by the rules and gates as they are now; trains nothing.

A claim that was measured otherwise than now is stale: a verdict belongs to its conditions and to the settings of its
arms. A gate whose figures the ledger does not hold counts as not measured, and makes its claim void.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from minigpt.claims import entries, judging
from minigpt.claims.claim import Claim, Gate, Plan, Series
from minigpt.claims.evidence import Evidence
from minigpt.claims.ledger import is_same_question
from minigpt.claims.measurements.prediction import MOST_COUNTED, ngram_losses
from minigpt.experiments.arms_to_cells import Planner

Record = dict[str, Any]


def rejudged(ledger: Record, claims: Iterable[Claim], planner: Planner, sizes: Mapping[str, int]) -> list[Record]:
    """The entries of all claims, each with the verdict that its stored values now give."""
    earlier = {entry["id"]: entry for entry in ledger["claims"]}
    found = [_entry(claim, earlier.get(claim.id), planner, sizes[claim.family]) for claim in claims]
    return entries.with_verdicts(found, sizes)


def _entry(claim: Claim, earlier: Record | None, planner: Planner, family_size: int) -> Record:
    if earlier is None or "arms" not in earlier or not claim.can_run:
        return entries.describe(claim)
    plan = Plan(tuple(earlier["plan"]["looks"]), earlier["plan"]["choosing"])
    alphas = judging.strictest_alphas(
        claim.family, family_size, earlier["rule"], len(earlier["conditions"]), len(plan.looks)
    )
    conditions = [_condition(stored, alphas) for stored in earlier["conditions"]]
    described = entries.describe(claim, plan)
    if earlier["status"] == "stale" or not is_same_question(claim, earlier, planner):
        told = {"gates": described["gates"], "plan": described["plan"], "conditions": conditions}
        return {**earlier, **told, "status": "stale"}
    return {
        **earlier,
        **described,
        "gates": _gates(claim, earlier, planner),
        **entries.concluded(claim, plan, earlier["seeds"], conditions),
        "series": _retitled(earlier["series"], claim.series),
    }


def _retitled(stored: list[Record], pictures: Sequence[Series]) -> list[Record]:
    """The stored pictures, with the titles and axes that the catalogue gives them now."""
    if len(stored) != len(pictures):
        return stored
    told = ({"title": picture.title, "x": picture.x, "y": picture.y} for picture in pictures)
    return [{**each, **words} for each, words in zip(stored, told, strict=True)]


def _condition(stored: Record, alphas: tuple[float, float]) -> Record:
    """A condition judged again; as it was where an effect was infinite, of which JSON keeps no sign."""
    effects = {each["seed"]: each["effect"] for each in stored["effects"]}
    if None in effects.values():
        return stored
    return entries.judged_condition(stored, effects, alphas)


# --------------------------------------------------------------------------------------------------------------- gates


def _gates(claim: Claim, earlier: Record, planner: Planner) -> list[Record]:
    stored = {gate["name"]: gate for gate in earlier["gates"]}
    unknown = any(gate.name not in stored for gate in claim.gates)
    evidence = Evidence(_results(earlier), _counted(claim, earlier, planner) if unknown else {})
    return [_gate(gate, stored.get(gate.name), evidence, earlier["seeds"]) for gate in claim.gates]


def _gate(gate: Gate, stored: Record | None, evidence: Evidence, seeds: list[int]) -> Record:
    if stored is None:
        return entries.judged_gate(gate, {seed: gate.value(evidence, seed) for seed in seeds})
    values = {each["seed"]: math.nan if each["value"] is None else each["value"] for each in stored["values"]}
    return entries.judged_gate(gate, values)


def _results(earlier: Record) -> Mapping[tuple[str, int], Record]:
    """Losses by arm and seed as far as they were stored, else NaN."""
    unknown: Record = {"status": "finished", "val": {"loss": math.nan, "layers": []}, "evaluations": []}
    found: dict[tuple[str, int], Record] = defaultdict(lambda: unknown)
    for arm in earlier["arms"]:
        for seed, loss in zip(earlier["seeds"], arm["losses"], strict=True):
            status = "diverged" if loss is None else "finished"
            found[arm["name"], seed] = {**unknown, "status": status, "val": {"loss": loss, "layers": []}}
    return found


def _counted(claim: Claim, earlier: Record, planner: Planner) -> Mapping[tuple[str, int, str], Mapping[str, Any]]:
    """The n-grams of each arm's text, which need no model; nothing else that was measured is known."""
    found: dict[tuple[str, int, str], Mapping[str, Any]] = defaultdict(dict)
    for arm, names in claim.measurements.items():
        if "ngrams" in names:
            config = planner.configuration(claim.arms[arm], earlier["seeds"][0])
            text = planner.text(config)
            counted = text.tokens("train")[: config.train_tokens or MOST_COUNTED]
            losses = ngram_losses(counted, text.tokens("val"), text.tokenizer.vocab_size)
            found |= {(arm, seed, "ngrams"): losses for seed in earlier["seeds"]}
    return found
