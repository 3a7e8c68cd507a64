"""The gates that many claims share: whether models are good enough, and whether what should differ does."""

from __future__ import annotations

from collections.abc import Sequence

from minigpt.claims.claim import DELTA, Effect, Gate
from minigpt.claims.effects import beyond, chosen, figure, health, worse
from minigpt.claims.evidence import Evidence

LEAST_DEADER = 0.2  # of all neurons
LEAST_ABLATION = 5 * DELTA
ORDERS = {"unigram": "1-gram", "bigram": "2-gram", "trigram": "3-gram", "fourgram": "4-gram", "fivegram": "5-gram"}


def trained(arm: str, order: str = "trigram", text: str = "") -> Gate:
    """An arm predicts text better than counting does; `ngrams` must be measured on it, or on the arm `text`."""

    def below(evidence: Evidence, seed: int) -> float:
        return evidence.figure(text or arm, seed, "ngrams", order) - evidence.loss(arm, seed)

    return Gate("training", f"{arm}: how far its loss is below that of a {ORDERS[order]}", "nats", 0.0, below)


def learnt_on(arm: str, parent: str) -> Gate:
    """A continued training ends below the loss of what it continued from."""
    return Gate("training", f"{arm}: how far its loss is below that of “{parent}”", "nats", 0.0, worse(parent, arm))


def deader(arm: str, other: str) -> Gate:
    """Far more neurons are dead in one arm than in the other."""
    more = beyond(health("dead_fraction"), arm, other)
    return Gate("manipulation check", f"dead, more in “{arm}” than in “{other}”", "share", LEAST_DEADER, more)


def layers_matter(arm: str) -> Gate:
    """No layer of an arm could be replaced by its means for nothing; `layer_ablation` must be measured on it."""
    name = f"{arm}: what it costs to replace the MLP that matters least by its mean"
    return Gate("manipulation check", name, "nats", LEAST_ABLATION, figure(arm, "layer_ablation", "least"))


def inside(ladder: Sequence[str], what: str) -> Gate:
    """The best rung of a ladder, by the seeds that choose, has neighbours on both sides."""

    def is_inside(evidence: Evidence, seed: int) -> float:
        return float(chosen(evidence, ladder) not in (ladder[0], ladder[-1]))

    name = f"the best {what} lies inside its ladder (1) or at its edge (0)"
    return Gate("manipulation check", name, "yes", 1.0, is_inside)


def control(name: str, unit: str, least: float, value: Effect) -> Gate:
    """The measure finds what is known to be there."""
    return Gate("positive control", name, unit, least, value)


def loses(arm: str, reference: str, least: float = DELTA) -> Gate:
    """An arm that is known to be worse is found to be worse."""
    name = f"{arm}, known to be worse than {reference}: its loss above"
    return control(name, "nats", least, worse(arm, reference))
