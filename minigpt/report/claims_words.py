"""What is said of one claim of the ledger: verdict, reasons, effects and cost in words, rounded for reading.

Everything follows by rule from an entry of `ledger.json`; nothing is judged here. An effect is positive in the
direction of the claim. What does not exist is a dash.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from minigpt.base import formats
from minigpt.base.formats import MISSING, visible

Record = dict[str, Any]
VERDICTS = ("SUPPORTED", "REFUTED", "INCONCLUSIVE", "VOID")
FAMILIES = {"primary": ("Holm", 0.05), "exploratory": ("Benjamini–Hochberg", 0.1)}
"""How the p-values of a family are adjusted, and below what a claim of it counts as shown, in either direction."""
TAGS = {
    "measurable": "measurable at this scale",
    "when provoked": "measurable only with settings that provoke it",
    "proxy": "measured by a proxy",
    "not measurable": "not measurable with a small GPT",
}
REPEAT = "Run this command; trainings that are already on disk are reused."
_QUANTIFIERS = {
    "one": ("the condition has", "the condition"),
    "all": ("each condition has", "any condition"),
    "any": ("at least one condition has", "every condition"),
}
_CHANCE = 0.05  # of one condition by itself
POINTS = "pp"
"""Percentage points: the unit of a difference of shares."""


def made_visible(found: Any) -> Any:
    """The same record with characters that could command a display, in its texts and names, made visible."""
    if isinstance(found, dict):
        return {made_visible(name): made_visible(value) for name, value in found.items()}
    if isinstance(found, list):
        return [made_visible(value) for value in found]
    return visible(found) if isinstance(found, str) else found


# One claim in words


def finding(entry: Record) -> str:
    """The verdict of a judged claim, or why there is none."""
    return str(entry["verdict"] if entry["status"] == "judged" else entry["status"])


def forecast_mark(entry: Record) -> str:
    """Whether the forecast came true; a dash where none was made or nothing has been judged."""
    came_true = entry.get("forecast_came_true") if entry["status"] == "judged" else None
    return MISSING if came_true is None else "✓" if came_true else "✗"


def forecast_outcome(entry: Record) -> str:
    """What became of the forecast, in words."""
    if entry["expected"] is None:
        return "no verdict was forecast"
    outcomes = {"✓": "came true", "✗": "did not come true", MISSING: "not judged"}
    return f"{entry['expected']} was forecast; {outcomes[forecast_mark(entry)]}"


def seeds(entry: Record) -> str:
    """On how many seeds a claim was judged, and of how many if some are not complete."""
    if "seeds" not in entry:
        return MISSING
    done, declared = len(entry["seeds"]), entry["seeds_declared"]
    return str(done) if done == declared else f"{done} of {declared}"


def cost(entry: Record) -> str:
    """What a claim cost, training and measuring."""
    spent = entry.get("cost")
    return core_seconds(None if spent is None else spent["training"] + spent["measuring"])


def core_seconds(seconds: float | None) -> str:
    """Seconds of one core, from a minute on with a duration for people."""
    if seconds is None:
        return MISSING
    return f"{formats.whole(seconds)} core-seconds" + (f" ({formats.duration(seconds)})" if seconds >= 60 else "")


def rule(entry: Record) -> str:
    """What decides about a claim, in one sentence, fixed before anything was run."""
    method, alpha = FAMILIES[entry["family"]]
    holds, fails = _QUANTIFIERS["one" if len(entry["conditions"]) == 1 else entry["rule"]]
    gated = "VOID if a gate fails; otherwise " if entry["gates"] else ""
    return (
        f"{gated}SUPPORTED if {holds} a mean effect of at least its margin and is shown to lie above zero; REFUTED if "
        f"{fails} is shown to lie below its margin; INCONCLUSIVE otherwise. Shown: p below {alpha:g}, adjusted by "
        f"{method} for the family, for the conditions and for {_looks(entry)}."
    )


def _looks(entry: Record) -> str:
    looks = entry["plan"]["looks"]
    ends = " and ".join(formats.counted(seeds, "seed") for seeds in looks)
    return f"one look, at {ends}" if len(looks) == 1 else f"{len(looks)} looks, at {ends}"


def reasons(entry: Record) -> list[str]:
    """Why the verdict is what it is, in sentences; none for a claim that was never judged."""
    if entry["status"] == "stale":
        return [f"{entry['verdict']} was found with other code, text, scale or measures and is not counted."]
    if entry["status"] == "incomplete":
        return [
            f"Judged only when {formats.counted(entry['plan']['looks'][0], 'seed')} are done; a peek decides nothing."
        ]
    return [_reason(entry), *_cautions(entry)] if entry["status"] == "judged" else []


def _reason(entry: Record) -> str:
    method, alpha = FAMILIES[entry["family"]]
    adjusted = f"the {method}-adjusted p is {formats.p_value(entry['p_adjusted'])}"
    every = "Every condition reaches its margin" if entry["rule"] == "all" else "A condition reaches its margin"
    every = "The effect reaches its margin" if len(entry["conditions"]) == 1 else every
    if entry["verdict"] == "SUPPORTED":
        return f"{every}, and {adjusted}, below {alpha:g}."
    if entry["verdict"] == "VOID":
        return f"No verdict: {'; '.join(failure(gate) for gate in entry['gates'] if not gate['passed'])}."
    if entry["verdict"] == "REFUTED":
        return f"{failing(entry)} {_shown_below(entry)}"
    if entry["meets"]:
        return f"{every}, but {adjusted}, not below {alpha:g}. {seeds_needed(entry)}"
    undecided = [condition["name"] for condition in entry["conditions"] if not condition["meets"]]
    return f"Neither reached nor excluded: {'; '.join(undecided)}. {seeds_needed(entry)}"


def _shown_below(entry: Record) -> str:
    method, alpha = FAMILIES[entry["family"]]
    p = formats.p_value(entry["p_below_adjusted"])
    return f"Against effects of the margin or more the {method}-adjusted p is {p}, below {alpha:g}."


def failing(entry: Record) -> str:
    """What refutes a claim: where any condition is enough the one that comes nearest, else all that do, adjusted."""
    conditions: list[Record] = entry["conditions"]
    if entry["rule"] == "any" and len(conditions) > 1:
        nearest = max(conditions, key=lambda condition: float(condition["p_below"]))
        return f"Of {len(conditions)} effects this comes nearest: {less_than_margin(nearest)}"
    worst = min(condition["p_below"] for condition in conditions)
    tests = len(conditions) * len(entry["plan"]["looks"])
    few = [c for c in conditions if c["p_below"] == worst or tests * c["p_below"] < FAMILIES[entry["family"]][1]]
    return " ".join(map(less_than_margin, few))


def less_than_margin(condition: Record) -> str:
    """That a condition's effect is less than its margin, with its sign where it is not zero."""
    name, least = condition["name"], margin(condition)
    if condition["mean"] is None:
        return f"{name}: less than {least} on most seeds."
    sign = ""
    if condition["low"] is not None and condition["low"] > 0 and condition["margin"] > 0:
        sign = ", though above zero"
    elif condition["high"] is not None and condition["high"] < 0:
        sign = ", and below zero"
    return f"{name}: {effect(condition)} {unit_name(condition)}, less than {least}{sign}."


def gate_outcome(gate: Record) -> str:
    """Whether a gate is passed."""
    return MISSING if "passed" not in gate else "passed" if gate["passed"] else "FAILED"


def least(gate: Record) -> str:
    """What a gate asks for, with its unit."""
    return _threshold(gate, "least")


def failure(gate: Record) -> str:
    """Why a gate is not passed."""
    found = "could not be measured" if gate["mean"] is None else f"is {value(gate['mean'], gate['unit'])}"
    return f"{gate['kind']} failed: {gate['name']}, {found}, at least {least(gate)} is needed"


def seeds_needed(entry: Record) -> str:
    """How many seeds would decide an inconclusive claim, in a sentence."""
    needed = entry["seeds_to_decide"]
    if needed is None:
        return "How many seeds would decide cannot be estimated."
    return f"About {needed:,} seeds would decide; {len(entry['seeds'])} were run."


def _cautions(entry: Record) -> list[str]:
    found = []
    if entry["verdict"] == "SUPPORTED" and not entry["clears"]:
        found.append("The 90 % interval includes effects below the margin: an effect is shown, not that it matters.")
    if entry["provisional"] and entry["family"] == "exploratory":
        found.append("Provisional until all claims of its family are run: the adjusted p can still change.")
    if len(entry["seeds"]) < entry["seeds_declared"]:
        found.append(f"Judged on {seeds(entry)} seeds; the others are incomplete.")
    if any(by_signs(condition) for condition in entry["conditions"]):
        found.append(
            "Where a training diverged there is no mean effect: the number of seeds that reach the margin decides."
        )
    lost = [f"{arm['name']} ({arm['diverged']} of {len(arm['losses'])})" for arm in entry["arms"] if arm["diverged"]]
    if lost:
        found.append(f"Diverged: {formats.joined(lost)}. Diverged trainings are never left out.")
    return found


# The finding


def headline(entry: Record) -> list[str]:
    """What was found, in numbers, the first sentence for all to see; nothing of a claim without figures that count."""
    condition = deciding(entry)
    if entry["status"] not in ("judged", "incomplete") or condition is None:
        return []
    return [*filter(None, [entry.get("finding")]), _condition_sentence(condition, entry)]


def no_headline(entry: Record) -> str:
    """Why nothing was found."""
    return {"not run": "Not run yet.", "stale": "What was found is out of date."}.get(entry["status"], "Not measured.")


def _condition_sentence(condition: Record, entry: Record) -> str:
    name, conditions = condition["name"][:1].upper() + condition["name"][1:], len(entry["conditions"])
    end = f". Of {conditions} conditions this one decides." if conditions > 1 else "."
    if entry["status"] == "incomplete":
        end = f", on {formats.counted(condition['n'], 'seed')} so far."
    if condition["mean"] is None:
        return f"{name}: no mean, as trainings diverged; the margin is {margin(condition)}{end}"
    unit, ends = unit_name(condition), interval(condition)
    sure = "" if ends == MISSING else f", 90 % interval {ends}"
    found = f"{value(condition['mean'], condition['unit'])} {unit}{sure}, against a margin of {margin(condition)}"
    return f"{name}: {found}{end}"


# Effects


def value(number: float | None, unit: str) -> str:
    """A number in the unit of a condition, without the unit's name; the sign is always shown."""
    if number is None:
        return MISSING
    if unit == "share":
        return formats.signed(100 * number, 2)
    if unit == "nats":
        return formats.signed(number)
    return formats.signed(number, 0) if 1000 <= abs(number) < 1e7 else f"{number:+.3g}".replace("-", "−")


def size(number: float | None, unit: str) -> str:
    """The same for what is never negative: a margin, a deviation."""
    return value(number, unit).removeprefix("+")


def unit_name(condition: Record) -> str:
    """The unit of a condition as it is written behind a number."""
    return POINTS if condition["unit"] == "share" else str(condition["unit"])


def measured(condition: Record) -> bool:
    """Whether there are effects of this condition at all."""
    return "effects" in condition


def by_signs(condition: Record) -> bool:
    """Whether seeds were only counted, because some training diverged."""
    return measured(condition) and condition["mean"] is None and condition["n"] > 1


def effect(condition: Record) -> str:
    """The mean effect with its 90 % interval, in the unit of the condition."""
    if not measured(condition) or not condition["n"]:
        return MISSING
    if condition["mean"] is None:
        return "no mean (diverged)"
    ends = "(no interval)" if condition["low90"] is None else interval(condition)
    return f"{value(condition['mean'], condition['unit'])} {ends}"


def interval(condition: Record) -> str:
    """The 90 % interval of an effect."""
    if condition.get("low90") is None:
        return MISSING
    return f"[{value(condition['low90'], condition['unit'])}, {value(condition['high90'], condition['unit'])}]"


def margin(condition: Record) -> str:
    """The smallest effect that matters, with its unit."""
    return _threshold(condition, "margin")


def _threshold(record: Record, key: str) -> str:
    return f"{size(record[key], record['unit']) if record[key] else '0'} {unit_name(record)}"


def against_margin(condition: Record) -> str:
    """Effect, interval and margin on one line."""
    return f"{effect(condition)} against {margin(condition)}"


def outcome(condition: Record) -> str:
    """What follows from the effects of one condition, by itself."""
    if not measured(condition):
        return MISSING
    if condition["meets"]:
        return "reached" if condition["p"] < _CHANCE else "reached, perhaps by chance"
    return "less than the margin" if condition["p_below"] < _CHANCE else "open"


def comparison(condition: Record) -> str:
    """All that is known of a condition, on one line."""
    known = f"{against_margin(condition)}; {outcome(condition)}"
    return known if measured(condition) else f"margin {margin(condition)}"


def deciding(entry: Record) -> Record | None:
    """The condition that decides: where all must hold the weakest, where one is enough the strongest."""
    if not entry["conditions"] or not measured(entry["conditions"][0]):
        return None
    choose = min if entry["rule"] == "all" else max
    return dict(choose(entry["conditions"], key=lambda c: (c["meets"], c["p_below"] >= _CHANCE, -c["p"])))


# What else is shown of a claim


def is_share(label: str) -> bool:
    """Whether what is labelled so is a share, to be written in per cent."""
    return "share" in re.findall(r"\w+", label)


def is_dead_share(label: str) -> bool:
    """Whether what is labelled so is the share of dead neurons."""
    return is_share(label) and label.startswith("dead")


def recorded(values: Sequence[str]) -> str:
    """What is recorded of something, which may differ between trainings."""
    return formats.joined([value for value in values if value != "None"]) or MISSING
