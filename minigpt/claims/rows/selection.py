"""Claims about the parts of a text on which models are chosen: used more than once, or too small (C24, C25)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minigpt.claims.claim import ArmFigures, Claim, Condition, Series
from minigpt.claims.effects import loss
from minigpt.claims.evidence import Evidence
from minigpt.claims.gates import control, trained
from minigpt.experiments.arms import Arm, Times

# As somebody would try them who looks for the best: they differ by about as much as a choice among them can gain.
NOISY: dict[str, dict[str, Any]] = {
    **{f"rate x{factor}": {"lr": Times(factor)} for factor in (0.5, 0.7, 1.4, 2.0)},
    **{f"weight decay {decay}": {"weight_decay": decay} for decay in (0.03, 0.3)},
    **{f"β2 {beta2}": {"beta2": beta2} for beta2 in (0.98, 0.995)},
}
FIRST = "rate x0.5"
LEAST_RANGE = 0.01  # nats between the best and the worst candidate
# Tokens of a chunk, as the measurement "split_losses" takes them.
SIZES = {"1k": 1024, "4k": 4096, "16k": 16_384, "64k": 65_536}
JUDGED = "4k"
LEAST_OPTIMISM = 0.002
LEAST_REGRET = 0.001


def chunks(evidence: Evidence, arms: Sequence[str], seed: int, size: str) -> tuple[np.ndarray, np.ndarray]:
    """Loss of each arm on each chunk of a size, and on all the rest of the validation text: both (arms, chunks)."""
    figures = [evidence.measured[arm, seed, "split_losses"] for arm in arms]
    names = [name for name in figures[0] if name.startswith(f"{size}/")]
    on_chunk = np.array([[found[name] for name in names] for found in figures], dtype=float)
    on_all = np.array([[found["all"]] for found in figures], dtype=float)
    share = SIZES[size] / float(figures[0]["tokens"])
    return on_chunk, (on_all - share * on_chunk) / (1 - share)


def optimism(on_chunk: np.ndarray, on_rest: np.ndarray, candidates: int) -> float:
    """How much better than elsewhere the winner of a chunk looks on it, beyond what all candidates do there.

    Mean over chunks, and over all ways to take this number of candidates from the rows.
    """
    flattered = on_rest - on_chunk
    found = []
    for chosen in itertools.combinations(range(len(on_chunk)), candidates):
        rows = list(chosen)
        winners = on_chunk[rows].argmin(axis=0)
        of_winner = flattered[rows][winners, np.arange(on_chunk.shape[1])]
        found.append(float((of_winner - flattered[rows].mean(axis=0)).mean()))
    return math.fsum(found) / len(found)


def regret_of_choice(on_chunk: np.ndarray, on_rest: np.ndarray) -> float:
    """How much worse on the rest the winner of a chunk is than the best one there; mean over chunks."""
    of_winner = on_rest[on_chunk.argmin(axis=0), np.arange(on_chunk.shape[1])]
    return float((of_winner - on_rest.min(axis=0)).mean())


def _optimism(evidence: Evidence, seed: int, candidates: int) -> float:
    return optimism(*chunks(evidence, tuple(NOISY), seed, JUDGED), candidates)


def _choice_regret(evidence: Evidence, size: str, seed: int) -> float:
    """By the size that a point names."""
    return regret_of_choice(*chunks(evidence, tuple(NOISY), seed, size))


_NOISY_ARMS = {name: Arm({**settings, "steps": Times(0.5)}) for name, settings in NOISY.items()}
_SPLIT = {**dict.fromkeys(NOISY, ("split_losses",)), FIRST: ("split_losses", "ngrams")}


def _range(evidence: Evidence, seed: int) -> float:
    losses = [evidence.figure(arm, seed, "split_losses", "all") for arm in NOISY]
    return max(losses) - min(losses)


_GATES = (trained(FIRST), control("worst less best candidate on the whole text", "nats", LEAST_RANGE, _range))

C24 = Claim(
    id="C24",
    where="G8",
    quote="The testing data set should only be used once",
    statement="A model chosen among eight on one part of a text looks better on it, by 0.002 nats, than it is.",
    meaning=(
        "Eight settings, as somebody would try them; the one with the lowest loss on 4,096 tokens is chosen, and "
        "compared with its loss on the rest of the text. True if its advantage on the chunk, beyond that of the "
        "average candidate, is at least 0.002 nats. That it is above zero is certain; what is judged is its size."
    ),
    tag="measurable",
    forecast="grows about as the square root of the logarithm of the number of candidates",
    expected="SUPPORTED",
    arms=_NOISY_ARMS,
    measurements=_SPLIT,
    gates=_GATES,
    conditions=(
        Condition(
            "optimism of the winner of eight",
            "nats",
            LEAST_OPTIMISM,
            lambda evidence, seed: _optimism(evidence, seed, len(NOISY)),
        ),
    ),
    finding="The winner of eight on 4,096 tokens looks {flattery} nats better there, beyond what all do, than it is.",
    numbers={"flattery": ("nats", lambda evidence, seed: _optimism(evidence, seed, len(NOISY)))},
    series=(
        Series(
            "Optimism by the number of candidates",
            "candidates",
            "nats",
            {"winner on 4,096 tokens": tuple((str(number), float(number)) for number in (2, 4, 8))},
            lambda evidence, number, seed: _optimism(evidence, seed, int(number)),
            log_x=True,
        ),
    ),
    tables=(ArmFigures("The candidates", {"loss": loss}),),
)

C25 = Claim(
    id="C25",
    where="B14",
    quote="too small, it can lead to overfitting of the hyperparameters",
    statement="Settings chosen on little validation text are worse than those chosen on much.",
    meaning=(
        "Eight settings, as somebody would try them; the one with the lowest loss on a chunk of text is compared, on "
        "the rest, with the best one there. True if what that costs is at least 0.001 nats more with chunks of 1,024 "
        "tokens than with chunks of 65,536."
    ),
    tag="measurable",
    forecast="regret falls with the square root of the number of tokens",
    expected="SUPPORTED",
    arms=_NOISY_ARMS,
    measurements=_SPLIT,
    gates=_GATES,
    conditions=(
        Condition(
            "regret with 1,024 tokens, less that with 65,536",
            "nats",
            LEAST_REGRET,
            lambda evidence, seed: _choice_regret(evidence, "1k", seed) - _choice_regret(evidence, "64k", seed),
        ),
    ),
    finding="A choice among eight costs {little} nats on 1,024 tokens of validation text, {much} on 65,536.",
    numbers={
        "little": ("nats", lambda evidence, seed: _choice_regret(evidence, "1k", seed)),
        "much": ("nats", lambda evidence, seed: _choice_regret(evidence, "64k", seed)),
    },
    series=(
        Series(
            "Regret by the text that is chosen on",
            "tokens",
            "nats",
            {"winner of eight": tuple((size, float(tokens)) for size, tokens in SIZES.items())},
            _choice_regret,
            log_x=True,
        ),
    ),
    tables=(ArmFigures("The candidates", {"loss": loss}),),
)

CLAIMS: tuple[Claim, ...] = (C24, C25)
