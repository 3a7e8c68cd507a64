"""What the ledger says as a whole, in sentences: what is true, false, unknown, not run, and out of reach.

Every sentence follows by rule from verdicts; nothing is judged here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from minigpt.base import formats
from minigpt.base.formats import MISSING
from minigpt.report import claims_words as words
from minigpt.report.claims_words import Record

LIMITS = (
    "The models are small and trained briefly: effects that appear only at a larger scale are not seen here.",
    "There is one text, and its neighbouring tokens resemble each other: another text may give other verdicts.",
    "A verdict holds for the settings of its arms; effects smaller than its margin are not looked for.",
)
ARTICLE = "ReLU Function: AI (Brace For These Hidden GPT Dangers)"
PLACES = (
    "I opening table, W “What is the ReLU Function”, D “Hidden Dangers”, A “Exploring Activation Functions”, "
    "N “Non-Linear Functions”, G “Gradient Descent”, B “Backpropagation”, M “Misconceptions”"
)
INTRODUCTION = (
    f"What the article “{ARTICLE}” claims, and what trainings of small GPTs show. "
    "What decides about a claim is fixed before the trainings that judge it."
)
PICTURE = (
    "A row for each judged claim: the effect that decides it, less the margin it had to reach, in half-widths of its "
    "90 % interval, so that claims in different units compare. In the tinted half an effect is large enough."
)
GENERAL = "Forecasts, cost and scale"
_FAMILY_NOTES = {
    "primary": (
        "Judged as one family of {2} claims, run or not: {0} at {1:g}, so that even one false SUPPORTED, or one false "
        "REFUTED, is unlikely."
    ),
    "exploratory": (
        "Exploratory: {0} at {1:g} over {2} claims, run or not. Up to one in ten of the SUPPORTED claims here, and of "
        "the REFUTED ones, may be due to chance. Verdicts are provisional until all are run."
    ),
}
_SCALE_FLAGS = (
    "preset", "n_layer", "n_head", "n_embd", "block_size", "batch_size", "steps", "lr", "corpus", "tokenizer",
)  # fmt: skip
_QUALIFIERS = {"when provoked": "when provoked", "proxy": "by a proxy"}


@dataclass(frozen=True)
class Point:
    """A sentence, the claim it is about, and what a reader must know before repeating it."""

    text: str
    claim: str = ""
    remark: str = ""


@dataclass(frozen=True)
class Part:
    """A heading with sentences, or what to say where there are none."""

    title: str
    points: tuple[Point, ...]
    nothing: str


def parts(ledger: Record) -> list[Part]:
    """What is true, what is false, what is not known, what was not run, and what this scale cannot tell."""
    points: dict[str, list[Point]] = {
        "true": [], "false": [], "unknown": [], "void": [], "untested": [], "beyond": []
    }  # fmt: skip
    for entry in ledger["claims"]:
        part, text, remark = _said(entry)
        points[part].append(Point(text, entry["id"], remark))
    true, false, unknown, void, untested, beyond = map(tuple, points.values())
    return [
        Part("True of ReLU and of GPTs at this scale", true, "No claim is supported so far."),
        Part("Not true at this scale", false, "No claim is refuted so far."),
        Part("Not known", unknown, "No claim that was run is inconclusive."),
        Part(
            "Void: the trainings or the measure could not have shown it",
            void,
            "Every claim that was run passed its gates.",
        ),
        Part("Not tested with this code at this scale", untested, "Every claim that has a test was run."),
        Part("What this scale cannot tell", (*beyond, *map(Point, LIMITS)), ""),
    ]


def _said(entry: Record) -> tuple[str, str, str]:
    """In which part a claim belongs, what is said of it there, and with what remark."""
    statement, status = f"“{entry['statement']}”", words.finding(entry)
    remark = ", ".join(
        [*filter(None, [_QUALIFIERS.get(entry["tag"])]), *(["exploratory"] if entry["family"] == "exploratory" else [])]
    )
    if status == "SUPPORTED":
        return "true", entry["statement"], remark
    if status == "REFUTED":
        return "false", f"Not so, by the margin: {statement} {words.failing(entry)}", remark
    if status == "VOID":
        failed = "; ".join(words.failure(gate) for gate in entry["gates"] if not gate["passed"])
        return "void", f"{statement} {failed[0].upper()}{failed[1:]}.", remark
    if status == "INCONCLUSIVE":
        return "unknown", f"Inconclusive: {statement} {words.seeds_needed(entry)}", remark
    if status == "stale":
        return "untested", f"Stale, found with other code, text, scale or measures and not counted: {statement}", ""
    if status == "incomplete":
        return "untested", f"Incomplete, {words.seeds(entry)} seeds: {statement}", ""
    if status == "not run":
        return "untested", f"Not run: {statement}", ""
    obstacle = entry["obstacle"] or MISSING
    if entry["tag"] == "not measurable":
        return "beyond", f"“{entry['quote']}”: {obstacle}", ""
    return "untested", f"Not measured: {statement} ({obstacle})", ""


# Figures of the whole ledger


def headline(ledger: Record) -> str:
    """How the claims fared, in one sentence."""
    found = dict(counts(ledger))
    judged = [f"{found.get(verdict, 0)} {verdict.lower()}" for verdict in words.VERDICTS]
    number = sum(found.get(verdict, 0) for verdict in words.VERDICTS)
    if not number:
        return f"None of the {len(ledger['claims'])} claims has been judged yet."
    return f"Of {len(ledger['claims'])} claims {number} were judged: {formats.joined(judged)}."


def counts(ledger: Record) -> list[tuple[str, int]]:
    """How many claims have which verdict or status, those that occur."""
    found = Counter(map(words.finding, ledger["claims"]))
    return [
        (name, found[name])
        for name in (*words.VERDICTS, "incomplete", "not run", "stale", "not measured")
        if found[name]
    ]


def forecasts(ledger: Record) -> tuple[int, int]:
    """(how many forecasts came true, of how many that were judged)."""
    marks = Counter(map(words.forecast_mark, ledger["claims"]))
    return marks["✓"], marks["✓"] + marks["✗"]


def forecasts_sentence(ledger: Record) -> str:
    """How good the forecasts were, each written before its claim was run; of their words only the verdict is judged."""
    true, judged = forecasts(ledger)
    if not judged:
        return "No forecast has been judged yet."
    return f"Of {formats.counted(judged, 'forecast verdict')} that could be judged, {true} came true."


def total_cost(ledger: Record) -> float:
    """Core-seconds of all claims that were judged; trainings and measurements that claims share count once."""
    return sum(_costs(_judged(ledger)).values())


def cost_sentence(ledger: Record) -> str:
    """The cost of all verdicts, and how many trainings they took, those included that chose and were not judged."""
    # The name of a measurement is that of its cell and its own, with a dash between.
    trainings = sum("-" not in name for name in _costs(_judged(ledger)))
    counted = f"{formats.counted(len(_judged(ledger)), 'verdict')} from {formats.counted(trainings, 'training')}"
    on_gpu = sum(_costs([entry for entry in _judged(ledger) if _accelerators(entry)]).values())
    there = f" ({on_gpu:,.0f} of them on a GPU)" if on_gpu else ""
    return f"Cost: {words.core_seconds(total_cost(ledger))}{there} for {counted}; shared trainings count once."


def _costs(entries: Sequence[Record]) -> dict[str, float]:
    return {name: float(cost) for entry in entries for name, cost in entry["cost"]["each"].items()}


def _accelerators(entry: Record) -> list[str]:
    return [name for name in entry["provenance"].get("accelerator", ()) if name != "None"]


def scale_sentence(ledger: Record) -> str:
    """What all claims were trained on unless their arms say otherwise."""
    base = ledger["scale"]["base"]
    flags = [f"{name.replace('_', '-')} {formats.setting(base[name])}" for name in _SCALE_FLAGS if name in base]
    return f"Scale of all claims, unless an arm sets something else: {', '.join(flags) or 'the defaults'}."


def machine_sentence(ledger: Record) -> str:
    """On what machines, with what versions, by which commits the judged claims were trained."""
    made = [entry["provenance"] for entry in _judged(ledger)]
    values = {
        name: sorted({value for found in made for value in found.get(name, ()) if value != "None"})
        for name in ("processor", "accelerator", "python", "torch", "commit")
    }
    said = [f"{name} {formats.joined(found)}" for name, found in values.items() if found]
    return f"Trained on: {'; '.join(said) or MISSING}."


def _judged(ledger: Record) -> list[Record]:
    return [entry for entry in ledger["claims"] if entry["status"] == "judged"]


def general_sentences(ledger: Record) -> list[str]:
    """Forecasts, cost, scale, machine."""
    return [forecasts_sentence(ledger), cost_sentence(ledger), scale_sentence(ledger), machine_sentence(ledger)]


def reading_sentences(ledger: Record) -> list[str]:
    """How to read the table of all claims."""
    sentences = [
        "An effect is the mean over seeds with its 90 % interval, positive in the direction of the claim; the margin "
        "is the smallest effect that matters. The seed is the unit of analysis.",
        f"Where: the article's section and the row of its table: {PLACES}. {words.POINTS}: percentage points.",
    ]
    if any(entry["status"] == "stale" for entry in ledger["claims"]):
        sentences.append("Stale: found with another version of the code, text or scale; shown, not counted.")
    return sentences


# The overview's table


@dataclass(frozen=True)
class Group:
    """Claims that are judged together, or that are not measured."""

    title: str
    note: str
    entries: tuple[Record, ...]


def groups(ledger: Record) -> list[Group]:
    """The claims by family, and those that nothing is measured of; groups that have any."""
    members: dict[str, list[Record]] = {**{family: [] for family in words.FAMILIES}, "": []}
    for entry in ledger["claims"]:
        members["" if entry["status"] == "not measured" else entry["family"]].append(entry)
    unmeasured = Group("Not measured", "Nothing is said about whether these are true.", tuple(members.pop("")))
    families = [
        Group(
            f"{family.capitalize()} family",
            _FAMILY_NOTES[family].format(*words.FAMILIES[family], ledger["family_sizes"][family]),
            tuple(entries),
        )
        for family, entries in members.items()
    ]
    return [group for group in (*families, unmeasured) if group.entries]
