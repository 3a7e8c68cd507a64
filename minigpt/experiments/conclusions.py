"""The conclusion of an ablation in plain words, drawn from its verdicts by rule.

Judges nothing itself: what is better, worse or equivalent the comparisons say. What is said of dead neurons is a
description beside the verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from scipy import stats

from minigpt.base import formats
from minigpt.base.formats import counted, fixed, interval, joined, percent, perplexity_change, rate, signed

# A rank correlation of fewer cells says nothing.
FEWEST_CELLS_TO_RANK = 8
WEAK_CORRELATION = 0.3
# Below these, "equivalent" carries a warning.
FEW_SEEDS, FEW_STEPS = 5, 500

Record = dict[str, Any]


def conclude(analysis: Record) -> list[str]:
    """Return the sentences, the most important first."""
    return [
        *_unfinished(analysis),
        _headline(analysis),
        *_verdicts(analysis),
        *_diverged(analysis),
        *_dead_neurons(analysis),
        *_dead_against_loss(analysis),
        *_rates_at_edge(analysis),
        *_how_judged(analysis),
    ]


def _unfinished(analysis: Record) -> list[str]:
    pending = sum(cell["status"] == "pending" for cell in analysis["cells"])
    return [f"Not complete: {pending} of {len(analysis['cells'])} cells are still to run."] if pending else []


def _headline(analysis: Record) -> str:
    """The best arm if any comparison was decided, or why there is none."""
    compared = analysis["comparisons"]
    verdicts = {comparison["verdict"] for comparison in compared}
    if not compared:
        return "Nothing was compared: there is only one arm."
    if verdicts == {"no verdict"}:
        if len(analysis["seeds"]) == 1:
            return "No verdict: one seed has no error bar. Run at least 2 seeds, better 8."
        return "No verdict: in no comparison do at least two seeds tell anything."
    if verdicts & {"better", "worse"}:
        return _best(analysis)
    return "No arm was shown to be better or worse than the one it was compared with."


def _best(analysis: Record) -> str:
    """The arm of the lowest mean loss among those that never diverged and lost no comparison, and whom it beat."""
    beaten: dict[str, set[str]] = {arm["name"]: set() for arm in analysis["arms"]}
    met: dict[str, set[str]] = {arm["name"]: set() for arm in analysis["arms"]}
    for comparison in analysis["comparisons"]:
        arm, reference = comparison["arm"], comparison["reference"]
        met[arm].add(reference)
        met[reference].add(arm)
        if comparison["verdict"] in ("better", "worse"):
            winner, loser = (arm, reference) if comparison["verdict"] == "better" else (reference, arm)
            beaten[winner].add(loser)
    losers = set().union(*beaten.values())
    eligible = [arm for arm in analysis["arms"] if arm["loss"] and not arm["diverged"] and arm["name"] not in losers]
    if not eligible:
        return "Differences were found, but no arm is best: each has lost a comparison or has diverged cells."
    best = min(eligible, key=lambda arm: arm["loss"]["mean"])
    name = best["name"]
    perplexity = "" if best["perplexity"] is None else f" (perplexity {formats.perplexity(best['perplexity'])})"
    parts = [f"Lowest mean loss: {name}, {fixed(best['loss']['mean'])} nats per token{perplexity}"]
    others = [arm["name"] for arm in analysis["arms"] if arm["name"] != name]
    for what, names in (
        ("better than", beaten[name]),
        ("not shown to be better than", met[name] - beaten[name]),
        ("not compared with", set(others) - met[name]),
    ):
        if names:
            parts.append(f"{what} {joined([other for other in others if other in names])}")
    return "; ".join(parts) + "."


def _verdicts(analysis: Record) -> list[str]:
    """A sentence for each comparison, the decided ones first; with one seed the headline says it all."""
    if len(analysis["seeds"]) == 1:
        return []
    return [
        sentence(comparison, analysis)
        for verdict, sentence in _SENTENCES.items()
        for comparison in analysis["comparisons"]
        if comparison["verdict"] == verdict
    ]


def _decided(comparison: Record, analysis: Record) -> str:
    opening = f"{comparison['arm']} is {comparison['verdict']} than {comparison['reference']}"
    if comparison["mean"] is None:
        return f"{opening}: {comparison['reason']}."
    return f"{opening}: {_size(comparison, '')}."


def _equivalent(comparison: Record, analysis: Record) -> str:
    within = f"equivalent within {analysis['margin']:g} nats"
    said = f"{comparison['arm']} and {comparison['reference']} are {within}: {_size(comparison, '90')}."
    return f"{said}{_caution(comparison, analysis)}"


def _caution(comparison: Record, analysis: Record) -> str:
    """What makes an equivalence worth little: few seeds, and trainings in which there was little to learn."""
    steps = min(count for arm in analysis["arms"] if (count := arm["fairness"]["steps"]) is not None)
    few = [
        *([f"{comparison['n']} seeds"] if comparison["n"] < FEW_SEEDS else []),
        *([f"{steps} steps"] if steps < FEW_STEPS else []),
    ]
    return f" With {joined(few)} this says little: what has hardly been learnt is alike everywhere." if few else ""


def _undecided(comparison: Record, analysis: Record) -> str:
    opening = f"{comparison['arm']} against {comparison['reference']} is undecided"
    if comparison["mean"] is None:
        return f"{opening}: {comparison['reason']}."
    seeds = comparison["seeds_to_decide"]
    outlook = f"about {seeds} seeds would decide" if seeds else "not even 1000 seeds would be likely to decide"
    return f"{opening}: {_size(comparison, '')}; if that is the true difference, {outlook}."


def _no_verdict(comparison: Record, analysis: Record) -> str:
    return f"{comparison['arm']} against {comparison['reference']}, no verdict: {comparison['reason']}."


_SENTENCES: dict[str, Callable[[Record, Record], str]] = {
    "better": _decided,
    "worse": _decided,
    "equivalent": _equivalent,
    "undecided": _undecided,
    "no verdict": _no_verdict,
}


def _size(comparison: Record, level: str) -> str:
    """The difference with its interval, in nats and in per cent of perplexity; the 95 % one unless 90 is asked for."""
    mean, low, high = (comparison[key] for key in ("mean", f"low{level}", f"high{level}"))
    change, *ends = (perplexity_change(difference) for difference in (mean, low, high))
    return (
        f"{signed(mean)} nats per token, {level or '95'} % interval {interval(low, high)}, "
        f"perplexity {change} [{', '.join(end.removesuffix(' %') for end in ends)}]"
    )


def _diverged(analysis: Record) -> list[str]:
    arms = [arm for arm in analysis["arms"] if arm["diverged"]]
    if not arms:
        return []
    named = joined([f"{arm['name']} in {arm['diverged']} of {arm['cells']} cells" for arm in arms])
    return [f"Training diverged: {named}; that counts as worse than any loss, and mean losses are of the other cells."]


def _dead_neurons(analysis: Record) -> list[str]:
    """What died, how sure that is, and the share that may be compared between activations."""
    arms = [arm for arm in analysis["arms"] if arm["dead_fraction"]]
    if not arms:
        return []
    layers = [layer for arm in arms for layer in arm["layers"]]
    tokens, bound = min(layer["tokens"] for layer in layers), max(layer["dead_upper"] for layer in layers)
    seen = f"one that fires on more than {rate(bound)} of tokens would have been seen (95 %)"
    died = [arm for arm in arms if arm["dead_fraction"]["mean"] > 0]
    spared = [arm["name"] for arm in arms if arm not in died]
    inert = joined([f"{arm['name']} {percent(_inert(arm, analysis))}" for arm in arms])
    comparable = f"A smooth activation is almost never exactly zero: compare arms by inert neurons instead, {inert}."
    if not died:
        return [f"No neuron died in any arm: 0.0 % are silent on all {tokens:,} tokens; {seen}.", comparable]
    shares = joined([f"{arm['name']} {percent(arm['dead_fraction']['mean'])}" for arm in died])
    rest = f"; 0.0 % in {joined(spared)}" if spared else ""
    return [f"Dead neurons, silent on all {tokens:,} tokens: {shares}{rest}; {seen}.", comparable]


def _inert(arm: Record, analysis: Record) -> float:
    cells = [cell for cell in analysis["cells"] if cell["purpose"] == "main" and cell["arm"] == arm["name"]]
    shares = [cell["inert_fraction"] for cell in cells if cell["inert_fraction"] is not None]
    return math.fsum(shares) / len(shares)


def _dead_against_loss(analysis: Record) -> list[str]:
    """The rank correlation over cells, where there are enough of them and both vary."""
    cells = [cell for cell in analysis["cells"] if cell["purpose"] == "main" and cell["status"] == "finished"]
    dead, losses = [cell["dead_fraction"] for cell in cells], [cell["loss"] for cell in cells]
    if len(cells) < FEWEST_CELLS_TO_RANK or len(set(dead)) < 2 or len(set(losses)) < 2:
        return []
    rho = float(stats.spearmanr(dead, losses).statistic)
    weakly = ", if at all, only weakly" if abs(rho) < WEAK_CORRELATION else ""
    direction = "higher" if rho > 0 else "lower"
    return [
        f"Over {len(cells)} cells more dead neurons went with {direction} loss{weakly} "
        f"(rank correlation {signed(rho, 2)}); this describes these cells and is no verdict, "
        "as arms differ in more than their dead neurons."
    ]


def _rates_at_edge(analysis: Record) -> list[str]:
    edge = analysis["tuning"]["at_edge"] if analysis["tuning"] else []
    return [f"The best learning rate of {joined(edge)} lies at the edge of the rates tried."] if edge else []


def _how_judged(analysis: Record) -> list[str]:
    if not analysis["family"]:
        return []
    change = perplexity_change(analysis["margin"]).removeprefix("+")
    margin = f"{analysis['margin']:g} nats per token ({change} perplexity)"
    comparisons = f"{counted(analysis['family'], 'comparison')} {'was' if analysis['family'] == 1 else 'were'}"
    return [
        f"The seed is the unit. {comparisons} judged as one family (Holm, error rate {analysis['alpha']:g}); less than "
        f"{margin} does not matter. Intervals are of each comparison by itself."
    ]
