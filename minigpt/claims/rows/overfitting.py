"""Claims about overfitting: what prevents it, when to stop, and whether depth brings it on (C21 to C23, C27)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from minigpt.claims.claim import DELTA, ArmFigures, Claim, Column, Condition, Effect, Gate, Series
from minigpt.claims.effects import beyond, chosen, figure, health, loss, loss_of, measured, worse
from minigpt.claims.evidence import Evidence
from minigpt.claims.gates import control, trained
from minigpt.experiments.arms import Arm, Times

PLAIN = "plain"
SCARCE = {"train_tokens": 40_000}
# The text is read about twenty times. Read twice as often, a model without a remedy ends behind a trigram.
OVERTRAINED = {**SCARCE, "steps": Times(0.5)}
LEAST_GAP = 0.05  # nats between loss on the text trained on and on new text

DROPOUTS = {PLAIN: 0.0, "dropout 0.1": 0.1, "dropout 0.2": 0.2, "dropout 0.4": 0.4}
BATCHNORM = "BatchNorm"

L2 = {"weight decay 1": 1.0, "weight decay 3": 3.0}
L1 = {"L1 0.1": 0.1, "L1 1": 1.0, "L1 10": 10.0}

LONG = "twice as long"
EARLY_SHARE = 0.1
PATIENCES = (1, 2, 3, 5)

SHALLOW, DEEP = "1 layer", "16 layers"
SHALLOW_ON_ALL, PLAIN_ON_ALL = "1 layer, all the text", "4 layers, all the text"

_gap = measured("gap", "gap")


def _gap_of(arm: str) -> tuple[str, Effect]:
    """An arm's gap, as a finding takes it."""
    return "nats", figure(arm, "gap", "gap")


_FITTING = {
    "loss on the text trained on": measured("gap", "train"),
    "on new text": measured("gap", "val"),
    "gap": _gap,
    "dead share": health("dead_fraction"),
}


_OVERFITS = (
    trained(PLAIN),
    control("without a remedy the gap is", "nats", LEAST_GAP, figure(PLAIN, "gap", "gap")),
)


# --------------------------------------------------------------------------------------------------------- remedies

C21 = Claim(
    id="C21",
    where="A4",
    quote="Batch normalization and dropout regularization are techniques used to prevent overfitting",
    statement="Dropout and batch normalisation make a GPT overfit less where text is scarce.",
    meaning=(
        "Trained on 40,000 tokens, over and over; gap: loss on new text less loss on the text trained on. True if "
        "dropout 0.2 narrows it by 0.05 nats and lowers the loss by 0.01, and BatchNorm in the place of LayerNorm "
        "narrows it by 0.05. Whether BatchNorm keeps the future out of a prediction is shown beside."
    ),
    tag="measurable",
    forecast="helps only where text is scarce; BatchNorm lets future tokens leak into a prediction",
    expected=None,
    arms={
        **{name: Arm({**OVERTRAINED, **({"dropout": rate} if rate else {})}) for name, rate in DROPOUTS.items()},
        BATCHNORM: Arm({**OVERTRAINED, "norm": "batchnorm"}),
    },
    measurements={
        **dict.fromkeys(DROPOUTS, ("gap",)),
        PLAIN: ("gap", "causality", "ngrams"),
        BATCHNORM: ("gap", "causality"),
    },
    gates=_OVERFITS,
    conditions=(
        Condition("dropout 0.2 narrows the gap", "nats", LEAST_GAP, beyond(_gap, PLAIN, "dropout 0.2")),
        Condition("dropout 0.2 lowers the loss", "nats", DELTA, worse(PLAIN, "dropout 0.2")),
        Condition("BatchNorm narrows the gap", "nats", LEAST_GAP, beyond(_gap, PLAIN, BATCHNORM)),
    ),
    finding=(
        "The gap between new text and the 40,000 tokens trained on is {plain} nats, with dropout 0.2 {dropout}, with "
        "BatchNorm {batchnorm}."
    ),
    numbers={"plain": _gap_of(PLAIN), "dropout": _gap_of("dropout 0.2"), "batchnorm": _gap_of(BATCHNORM)},
    series=(
        Series("Gap by dropout", "dropout", "gap, nats", {"relu": tuple(DROPOUTS.items())}, _gap),
        Series("Loss by dropout", "dropout", "loss, nats", {"relu": tuple(DROPOUTS.items())}, loss),
    ),
    tables=(
        ArmFigures("Losses on old and new text", _FITTING),
        ArmFigures(
            "Largest change of earlier logits when a later token changes",
            {"in training mode": measured("causality", "training"), "in use": measured("causality", "evaluation")},
            (PLAIN, BATCHNORM),
        ),
    ),
)


def _gap_of_chosen(candidates: Sequence[str]) -> tuple[str, Effect]:
    """The gap with the strength whose loss is lowest on separate seeds."""
    return "nats", lambda evidence, seed: _gap(evidence, chosen(evidence, candidates), seed)


def _best_narrows(candidates: Sequence[str]) -> Effect:
    """How much the gap shrinks with the strength whose loss is lowest on separate seeds."""
    return lambda evidence, seed: _gap(evidence, PLAIN, seed) - _gap(evidence, chosen(evidence, candidates), seed)


C22 = Claim(
    id="C22",
    where="A6, G6",
    quote="L1 and L2 regularization can be used to prevent overfitting",
    statement="Weight decay (L2), and L1 on what neurons put out, each make a GPT overfit less.",
    meaning=(
        "Trained on 40,000 tokens, over and over. L2: weight decay of 1 or 3 in the place of 0.1; L1: a penalty on "
        "the mean |h| of all neurons. True if the best strength of each, chosen by loss on separate seeds, narrows "
        "the gap between new text and the text trained on by at least 0.05 nats."
    ),
    tag="measurable",
    forecast="U-shape over strength; L1 on h raises the share of dead neurons",
    expected="SUPPORTED",
    arms={
        PLAIN: Arm(OVERTRAINED),
        **{name: Arm({**OVERTRAINED, "weight_decay": strength}) for name, strength in L2.items()},
        **{name: Arm({**OVERTRAINED, "l1": strength}) for name, strength in L1.items()},
    },
    measurements={**dict.fromkeys((*L2, *L1), ("gap",)), PLAIN: ("gap", "ngrams")},
    gates=_OVERFITS,
    choosing=2,
    conditions=(
        Condition("L2 narrows the gap", "nats", LEAST_GAP, _best_narrows(tuple(L2))),
        Condition("L1 narrows the gap", "nats", LEAST_GAP, _best_narrows(tuple(L1))),
    ),
    finding=(
        "The gap between new text and the 40,000 tokens trained on is {plain} nats, with the better weight decay {l2}, "
        "with the best L1 {l1}."
    ),
    numbers={"plain": _gap_of(PLAIN), "l2": _gap_of_chosen(tuple(L2)), "l1": _gap_of_chosen(tuple(L1))},
    series=(
        Series(
            "Dead neurons by L1",
            "weight of mean |h|",
            "dead, share",
            {"relu": tuple(L1.items())},
            health("dead_fraction"),
            log_x=True,
        ),
    ),
    tables=(ArmFigures("Losses on old and new text, and neurons", _FITTING),),
)


# --------------------------------------------------------------------------------------------------------- stopping


def best_step(evidence: Evidence, arm: str) -> int:
    """The step with the lowest mean loss on the seeds that choose."""
    curves = [dict(evidence.curve(arm, seed)) for seed in evidence.choosing]
    steps = set.intersection(*(set(curve) for curve in curves))
    return min(sorted(steps), key=lambda step: math.fsum(curve[step] for curve in curves))


def loss_at(evidence: Evidence, arm: str, seed: int, step: float) -> float:
    """Loss of the evaluation nearest to a step."""
    return min(evidence.curve(arm, seed), key=lambda point: abs(point[0] - step))[1]


def _best(evidence: Evidence, seed: int) -> float:
    return loss_at(evidence, LONG, seed, best_step(evidence, LONG))


def _too_late(evidence: Evidence, seed: int) -> float:
    return evidence.curve(LONG, seed)[-1][1] - _best(evidence, seed)


def _too_early(evidence: Evidence, seed: int) -> float:
    steps = evidence.curve(LONG, seed)[-1][0]
    return loss_at(evidence, LONG, seed, EARLY_SHARE * steps) - _best(evidence, seed)


def regret(losses: Sequence[float], patience: int) -> float:
    """What it costs to stop after `patience` evaluations without a new best, and to keep the best until then."""
    best, waited = math.inf, 0
    for found in losses:
        best, waited = (found, 0) if found < best else (best, waited + 1)
        if waited == patience:
            break
    return best - min(losses)


def _regret(patience: int) -> Column:
    return lambda evidence, arm, seed: regret([found for _, found in evidence.curve(arm, seed)], patience)


C23 = Claim(
    id="C23",
    where="G7",
    quote="stopping training too late can lead to overfitting",
    statement="Training can be stopped too late, and too early.",
    meaning=(
        "Twice the base's steps on 40,000 tokens, evaluated on all validation text. True if the last evaluation lies "
        "at least 0.01 nats above the best step, which is chosen on separate seeds, and so does that after a tenth of "
        "the steps."
    ),
    tag="measurable",
    forecast="yes, where the text is read many times",
    expected="SUPPORTED",
    arms={LONG: Arm({**SCARCE, "steps": Times(2), "eval_every": Times(2), "eval_tokens": 0})},
    measurements={LONG: ("ngrams",)},
    gates=(
        Gate(
            "training",
            "at its best step: how far the loss is below that of a 3-gram counted on the same tokens",
            "nats",
            0.0,
            lambda evidence, seed: evidence.figure(LONG, seed, "ngrams", "trigram") - _best(evidence, seed),
        ),
    ),
    choosing=2,
    conditions=(
        Condition("too late: last loss above the best", "nats", DELTA, _too_late),
        Condition("too early: loss after a tenth of the steps above the best", "nats", DELTA, _too_early),
    ),
    finding="Loss {best} nats at the best step, {last} at the end, {early} after a tenth of the steps.",
    numbers={
        "best": ("nats", _best),
        "last": ("nats", lambda evidence, seed: _best(evidence, seed) + _too_late(evidence, seed)),
        "early": ("nats", lambda evidence, seed: _best(evidence, seed) + _too_early(evidence, seed)),
    },
    tables=(
        ArmFigures(
            "What patience costs: best loss seen before it stops, less the lowest of all",
            {f"patience {patience}": _regret(patience) for patience in PATIENCES},
        ),
    ),
)


# ----------------------------------------------------------------------------------------------------------- depth


def _depth(times: float, **settings: object) -> dict[str, object]:
    """As many parameters in the blocks, in more or fewer of them: they go with layers times width squared."""
    return {"n_layer": Times(times), "n_embd": Times(times**-0.5), **settings}


C27 = Claim(
    id="C27",
    where="B7",
    quote="if the network is too deep, it can lead to overfitting",
    statement="Of equally large GPTs, a deeper one overfits more where text is scarce, and a shallow one learns less.",
    meaning=(
        "1, 4 and 16 layers with equal parameters in them. True if on 40,000 tokens, read over and over, the gap "
        "between new text and the text trained on is at least 0.05 nats wider with 16 layers than with 4, and if on "
        "all the text one layer ends at least 0.01 nats above four."
    ),
    tag="measurable",
    forecast="gap flat; a shallow model learns less",
    expected="REFUTED",
    arms={
        SHALLOW: Arm(_depth(0.25, **OVERTRAINED)),
        PLAIN: Arm(OVERTRAINED),
        DEEP: Arm(_depth(4.0, **OVERTRAINED)),
        SHALLOW_ON_ALL: Arm(_depth(0.25)),
        PLAIN_ON_ALL: Arm(),
    },
    measurements={
        **dict.fromkeys((SHALLOW, DEEP), ("gap",)),
        PLAIN: ("gap", "ngrams"),
        PLAIN_ON_ALL: ("ngrams",),
    },
    gates=(*_OVERFITS, trained(PLAIN_ON_ALL)),
    conditions=(
        Condition("16 layers widen the gap", "nats", LEAST_GAP, beyond(_gap, DEEP, PLAIN)),
        Condition("one layer: loss above that of four", "nats", DELTA, worse(SHALLOW_ON_ALL, PLAIN_ON_ALL)),
    ),
    finding=(
        "The gap between new text and the 40,000 tokens trained on is {shallow} nats with 1 layer, {plain} with 4, "
        "{deep} with 16 of as many parameters; on all the text 1 layer ends at {one} nats, 4 at {four}."
    ),
    numbers={
        "shallow": _gap_of(SHALLOW),
        "plain": _gap_of(PLAIN),
        "deep": _gap_of(DEEP),
        "one": loss_of(SHALLOW_ON_ALL),
        "four": loss_of(PLAIN_ON_ALL),
    },
    series=(
        Series(
            "Gap by depth",
            "layers",
            "gap, nats",
            {"equal parameters": ((SHALLOW, 1.0), (PLAIN, 4.0), (DEEP, 16.0))},
            _gap,
            log_x=True,
        ),
    ),
    tables=(
        ArmFigures("Losses on old and new text", _FITTING, (SHALLOW, PLAIN, DEEP)),
        ArmFigures(
            "On all the text", {"loss": loss, "dead share": health("dead_fraction")}, (SHALLOW_ON_ALL, PLAIN_ON_ALL)
        ),
    ),
)

CLAIMS: tuple[Claim, ...] = (C21, C22, C23, C27)
