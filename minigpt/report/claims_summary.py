"""What the ledger says as a whole, in plain words: what is true, false, unknown, not run, and out of reach.

Every sentence follows by rule from verdicts; nothing is judged here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from minigpt.base import formats
from minigpt.report.claims_words import (
    FAMILIES,
    POINTS,
    VERDICTS,
    Record,
    finding,
    forecast_mark,
    price_words,
)

LIMITS = (
    "A small model, trained for a short time: what only appears at a larger scale is not seen here.",
    "One text, whose neighbouring tokens resemble each other: another text may give other verdicts.",
    "A verdict is about the settings of its arms; a smaller effect than its margin is not looked for.",
)
ARTICLE = "ReLU Function: AI (Brace For These Hidden GPT Dangers)"
SECTIONS = (
    "I opening table, W “What is the ReLU Function”, D “Hidden Dangers”, A “Exploring Activation Functions”, "
    "N “Non-Linear Functions”, G “Gradient Descent”, B “Backpropagation”, M “Misconceptions”"
)
INTRODUCTION = (
    f"What the article “{ARTICLE}” claims, each claim with a rule that was fixed before anything was run, "
    "and what trainings of small GPTs say to it."
)
_FAMILY_NOTES = {
    "primary": "Judged as one family: {0} at {1:g} over {2} claims, run or not; even one false SUPPORTED is unlikely.",
    "exploratory": (
        "Exploratory, and marked as such: {0} at {1:g} over {2} claims, run or not; of what is SUPPORTED here, up to "
        "one in ten may be chance."
    ),
}
_SCALE_FLAGS = (
    "preset", "n_layer", "n_head", "n_embd", "block_size", "batch_size", "steps", "lr", "corpus", "tokenizer",
)  # fmt: skip
_QUALIFIERS = {"when provoked": "when provoked", "proxy": "by a proxy"}


@dataclass(frozen=True)
class Point:
    """A sentence, and the claim it is about."""

    text: str
    claim: str | None = None
    remark: str = ""


@dataclass(frozen=True)
class Part:
    """A heading with sentences, or what to say where there are none."""

    title: str
    points: tuple[Point, ...]
    nothing: str


def summary(ledger: Record) -> list[Part]:
    """What is true, what is false, what is not known, what was not run, and what this scale cannot tell."""
    entries = ledger["claims"]
    return [
        Part("True of ReLU and of GPTs, at this scale", _with(entries, "SUPPORTED"), "No claim is supported so far."),
        Part("Not true, at this scale", _with(entries, "REFUTED"), "No claim is refuted so far."),
        Part("Not known", _with(entries, "INCONCLUSIVE"), "No claim that was run is undecided."),
        Part("Not run, or not with this code and at this scale", _undone(entries), "Every claim with a test was run."),
        Part("What this scale cannot tell", (*_out_of_reach(entries), *map(Point, LIMITS)), ""),
    ]


def _with(entries: Sequence[Record], verdict: str) -> tuple[Point, ...]:
    say = {"SUPPORTED": _supported, "REFUTED": _refuted, "INCONCLUSIVE": _inconclusive}[verdict]
    return tuple(Point(say(entry), entry["id"], _remark(entry)) for entry in entries if finding(entry) == verdict)


def _supported(entry: Record) -> str:
    return str(entry["statement"])


def _refuted(entry: Record) -> str:
    return f"Not so: “{entry['statement']}”"


def _inconclusive(entry: Record) -> str:
    needed = entry["seeds_to_decide"]
    decide = "how many seeds would decide cannot be said"
    if needed is not None:
        decide = f"about {needed:,} seeds would decide, and there are {len(entry['seeds'])}"
    return f"Whether this is so: “{entry['statement']}” {decide[0].upper()}{decide[1:]}."


def _remark(entry: Record) -> str:
    """What a reader must know before repeating the sentence."""
    remarks = [_QUALIFIERS[entry["tag"]]] if entry["tag"] in _QUALIFIERS else []
    remarks += ["exploratory"] if entry["family"] == "exploratory" else []
    return ", ".join(remarks)


def _undone(entries: Sequence[Record]) -> tuple[Point, ...]:
    return tuple(Point(_why_undone(entry), entry["id"]) for entry in entries if _is_undone(entry))


def _is_undone(entry: Record) -> bool:
    return entry["status"] in ("not run", "stale") or (
        entry["status"] == "not measured" and entry["tag"] != "not measurable"
    )


def _why_undone(entry: Record) -> str:
    if entry["status"] == "stale":
        return f"Stale, found with other code, text or scale and not counted: “{entry['statement']}”"
    if entry["status"] == "not run":
        return f"Not run: “{entry['statement']}”"
    return f"Not measured: “{entry['statement']}” ({entry['obstacle'] or formats.MISSING})"


def _out_of_reach(entries: Sequence[Record]) -> tuple[Point, ...]:
    return tuple(
        Point(f"“{entry['quote']}”: {entry['obstacle'] or formats.MISSING}", entry["id"])
        for entry in entries
        if entry["status"] == "not measured" and entry["tag"] == "not measurable"
    )


def counts(ledger: Record) -> list[tuple[str, int]]:
    """How many claims have which verdict or status, those that occur."""
    found = Counter(map(finding, ledger["claims"]))
    return [(name, found[name]) for name in (*VERDICTS, "not run", "stale", "not measured") if found[name]]


def forecasts(ledger: Record) -> tuple[int, int]:
    """(how many forecasts came true, of how many that were judged)."""
    marks = Counter(map(forecast_mark, ledger["claims"]))
    return marks["✓"], marks["✓"] + marks["✗"]


def forecasts_sentence(ledger: Record) -> str:
    """How good the forecasts were, all of them written before the first run."""
    true, judged = forecasts(ledger)
    if not judged:
        return "No forecast has been judged yet."
    return f"Of {formats.counted(judged, 'forecast')} that could be judged, {true} came true."


def total_price(ledger: Record) -> float:
    """Core-seconds of all claims that were judged; trainings and measurements that claims share count once."""
    return sum(_each(ledger).values())


def _each(ledger: Record) -> dict[str, float]:
    judged = (entry for entry in ledger["claims"] if entry["status"] == "judged")
    return {name: seconds for entry in judged for name, seconds in entry["cost"]["each"].items()}


def price_sentence(ledger: Record) -> str:
    """The price of all verdicts, and how many trainings they took."""
    judged = [entry for entry in ledger["claims"] if entry["status"] == "judged"]
    trainings = len({cell for entry in judged for arm in entry["arms"] for cell in arm["cells"]})
    counted = f"{formats.counted(len(judged), 'verdict')} from {formats.counted(trainings, 'training')}"
    return f"The price: {price_words(total_price(ledger))} for {counted}, shared ones counted once."


def scale_sentence(ledger: Record) -> str:
    """What all claims were trained on unless their arms say otherwise."""
    base = ledger["scale"]["base"]
    flags = [f"{name.replace('_', '-')} {formats.setting(base[name])}" for name in _SCALE_FLAGS if name in base]
    return f"The scale of all claims, unless their arms say otherwise: {', '.join(flags) or 'the defaults'}."


def machine_sentence(ledger: Record) -> str:
    """On what machines, with what versions, by which commits the judged claims were trained."""
    made = [entry["provenance"] for entry in ledger["claims"] if entry["status"] == "judged"]
    values = {
        name: sorted({value for found in made for value in found[name] if value != "None"})
        for name in ("processor", "accelerator", "torch", "commit")
    }
    said = [f"{name} {formats.joined(found)}" for name, found in values.items() if found]
    return f"Trained on: {'; '.join(said) or formats.MISSING}."


def reading_sentences(ledger: Record) -> list[str]:
    """How to read the table of all claims."""
    sentences = [
        "An effect is the mean over seeds, positive in the direction that the claim says, with its 90 % interval; the "
        "margin is the least effect that matters. The seed is the unit.",
        f"Where: {SECTIONS}; the number is the row. {POINTS}: percentage points.",
    ]
    if any(entry["status"] == "stale" for entry in ledger["claims"]):
        sentences.append("Stale: found by another version of the code, on another text or scale; shown, not counted.")
    return sentences


def general_sentences(ledger: Record) -> list[str]:
    """Forecasts, price, scale, machine."""
    return [forecasts_sentence(ledger), price_sentence(ledger), scale_sentence(ledger), machine_sentence(ledger)]


# The overview's table


@dataclass(frozen=True)
class Group:
    """Claims that are judged together, or that are not measured."""

    title: str
    note: str
    entries: tuple[Record, ...]


def groups(ledger: Record) -> list[Group]:
    """The claims by family, and those that nothing is measured of; groups that have any."""
    measurable = [entry for entry in ledger["claims"] if entry["status"] != "not measured"]
    found = [
        Group(
            f"{family.capitalize()} family",
            _FAMILY_NOTES[family].format(*_adjustment(ledger, family)),
            tuple(entry for entry in measurable if entry["family"] == family),
        )
        for family in FAMILIES
    ]
    rest = tuple(entry for entry in ledger["claims"] if entry["status"] == "not measured")
    found.append(Group("Not measured", "Nothing is said about whether these are true.", rest))
    return [group for group in found if group.entries]


def _adjustment(ledger: Record, family: str) -> tuple[str, float, int]:
    method, alpha = FAMILIES[family]
    return method, alpha, ledger["family_sizes"][family]
