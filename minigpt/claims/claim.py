"""What a claim is: the article's words, and everything that decides about them, fixed before anything is trained.

Plain data. An effect is one number for each seed, positive in the direction that the claim says; the seed is the unit.
A condition is an effect and the least of it that matters. The rule is the same for all:

    VOID          a gate fails: the trainings or the measure could not have shown what the claim says
    SUPPORTED     the mean effect is at least the margin, and is shown to be above zero
    REFUTED       every effect that would matter is shown to be excluded: the effect is less than the margin
    INCONCLUSIVE  neither

Both p-values are adjusted alike: over the conditions of a claim, its looks at the data, and its family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from minigpt.claims.evidence import Evidence
from minigpt.experiments.arms import Arm

Verdict = Literal["SUPPORTED", "REFUTED", "INCONCLUSIVE", "VOID"]
GateKind = Literal["training", "positive control", "manipulation check"]
Tag = Literal["measurable", "when provoked", "proxy", "not measurable"]
Effect = Callable[[Evidence, int], float]
# A figure of whichever arm, for tables and series.
Column = Callable[[Evidence, str, int], float]

# The smallest difference of a loss that matters, in nats per token: about 1 % perplexity.
DELTA = 0.010
PRIMARY, EXPLORATORY = "primary", "exploratory"
_LAST_PRIMARY = 16
MOST_QUOTED_WORDS = 12


@dataclass(frozen=True)
class Condition:
    """One thing that must hold, as an effect for each seed; `unit` is nats, share, ratio, or another word."""

    name: str
    unit: str
    margin: float
    effect: Effect


@dataclass(frozen=True)
class Gate:
    """What must hold, on average over the seeds, before a claim gets any verdict: the value is at least `least`.

    A training gate says that the models are good enough to speak of; a positive control, that the measure finds an
    effect that is there; a manipulation check, that what should differ between the arms does, and by how much.
    """

    kind: GateKind
    name: str
    unit: str
    least: float
    value: Effect


@dataclass(frozen=True)
class Series:
    """A picture: lines of points, each with a value for each seed. `points` gives line -> (arm, x) to draw."""

    title: str
    x: str
    y: str
    lines: Mapping[str, tuple[tuple[str, float], ...]]
    value: Column
    log_x: bool = False


@dataclass(frozen=True)
class ArmFigures:
    """Further figures on a claim's page: a value for each arm and column, averaged over seeds."""

    title: str
    columns: Mapping[str, Column]
    arms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """How many judged seeds each look has, and how many seeds choose; fixed in the ledger before anything is run."""

    looks: tuple[int, ...]
    choosing: int = 0


@dataclass(frozen=True)
class Claim:
    """One row of the ledger.

    quote: the article's words, at most twelve; where: section and row, see `catalogue.py`.
    statement: the claim as this project can judge it, one sentence that may turn out true or false.
    meaning: what is measured, and when the statement would be true, in plain words.
    rule: whether all conditions must hold, or any one is enough.
    forecast, expected: written before the first run; None where no verdict was forecast, or where the statement was
        turned round once results were known.
    finding: what was found, in numbers, with the names of `numbers` in braces; where one of them does not exist, the
        sentence is made by rule.
    numbers: name -> (unit, value for each seed), averaged over the judged seeds.
    measurements: what is measured on trained cells: arm -> names in `measuring.py`.
    partners: arm -> the arm that a measurement of two models takes beside it.
    looks: how many judged seeds each look at the data has; more than one look costs significance.
    choosing: seeds before those, on which candidates are chosen and nothing is judged.
    obstacle: why a small GPT cannot measure it, or why it has not been built.
    """

    id: str
    where: str
    quote: str
    statement: str
    meaning: str
    tag: Tag
    forecast: str
    expected: Verdict | None = None
    arms: Mapping[str, Arm] = field(default_factory=dict)
    measurements: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    partners: Mapping[str, str] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    rule: Literal["all", "any"] = "all"
    gates: tuple[Gate, ...] = ()
    finding: str = ""
    numbers: Mapping[str, tuple[str, Effect]] = field(default_factory=dict)
    looks: tuple[int, ...] = (8,)
    choosing: int = 0
    series: tuple[Series, ...] = ()
    tables: tuple[ArmFigures, ...] = ()
    obstacle: str = ""

    @property
    def number(self) -> int:
        """Its place in the ledger."""
        return int(self.id.removeprefix("C"))

    @property
    def family(self) -> str:
        """The family whose p-values are adjusted together."""
        return PRIMARY if self.number <= _LAST_PRIMARY else EXPLORATORY

    @property
    def can_run(self) -> bool:
        """Whether there is anything to measure."""
        return bool(self.conditions)
