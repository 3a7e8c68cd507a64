"""Claims that compare activation functions: instead of ReLU, better than it, cheaper, mixed (C5 to C11, C16)."""

from __future__ import annotations

import itertools
import math

from minigpt.claims.claim import DELTA, ArmFigures, Claim, Condition, Effect, Gate
from minigpt.claims.effects import (
    SLOW_RATE,
    TOO_SLOW,
    activation,
    chosen,
    figure,
    health,
    loss,
    loss_of,
    loss_of_chosen,
    measured,
    not_worse,
    worse,
)
from minigpt.claims.evidence import Evidence
from minigpt.claims.gates import control, layers_matter, loses, trained
from minigpt.experiments.arms import Arm, Times

INSTEAD = ("gelu", "silu", "swiglu", "leaky_relu")
BETTER = ("leaky_relu", "leaky_relu:0.5", "elu")
NEGATIVE = ("gelu", "silu", "elu", "leaky_relu:0.5")
# Rows about the loss that an activation leads to are judged where a ReLU GPT beats a 4-gram (docs/measurements.md).
LONG = Times(2)
TIMED = ("gelu", "silu", "swiglu")
ALL = ("relu", *INSTEAD, "leaky_relu:0.5", "elu", "relu2", "reglu", "tanh", "sigmoid", "identity")
_OTHERS = ALL[1:]
LEAST_IMPACT = 0.05  # nats: 5 % perplexity
LEAST_LONGER = 0.02
MOST_NOISE = LEAST_LONGER / 2
LEAST_SLOWER = 0.2
MIXES = tuple(
    ",".join(f"{layer}={spec}" for layer, spec in enumerate(layers))
    for layers in itertools.product(("relu", "gelu"), repeat=4)
    if len(set(layers)) > 1
)
UNIFORM = ("all relu", "all gelu")
SLACK = 0.05  # nats that an unusual activation may lose on ReLU and still count as usable


def _compared(specs: tuple[str, ...]) -> dict[str, Arm]:
    return {spec: activation(spec, steps=LONG) for spec in specs}


def _also(specs: tuple[str, ...], name: str) -> dict[str, tuple[str, ...]]:
    """A measurement of each arm, and of ReLU the n-grams of its text."""
    return {spec: (name, "ngrams") if spec == "relu" else (name,) for spec in specs}


_COUNTED = {"relu": ("ngrams",)}
_TRAINED: tuple[Gate, ...] = (trained("relu", "fourgram"),)
_SLOW = {TOO_SLOW: Arm({**SLOW_RATE, "steps": LONG})}
_NEURONS = {"loss": loss, "dead share": health("dead_fraction"), "inert share": health("inert_fraction")}


def _extremes(evidence: Evidence, seed: int) -> float:
    """Worst less best activation, both chosen on separate seeds: the largest of many always looks large."""
    worst = chosen(evidence, ALL, best=False)
    return evidence.loss(worst, seed) - evidence.loss(chosen(evidence, ALL), seed)


def steps_to_reach(evidence: Evidence, arm: str, seed: int, target: float) -> float:
    """At which share of its steps an arm's curve first falls to `target`, between evaluations by a straight line.

    1 if it only gets there at the end or never: then nothing is known but that it is not faster.
    """
    curve = evidence.curve(arm, seed)
    for (before, high), (after, low) in itertools.pairwise(curve):
        if low <= target:
            passed = (high - target) / (high - low) if math.isfinite(high) and high > low else 1.0
            return (before + max(0.0, passed) * (after - before)) / curve[-1][0]
    return 1.0


def _slower(evidence: Evidence, seed: int) -> float:
    """Share of its steps that ReLU can spare to reach what the worst other activation, chosen elsewhere, ends with."""
    worst = chosen(evidence, _OTHERS, best=False)
    return 1 - steps_to_reach(evidence, "relu", seed, evidence.loss(worst, seed))


def _relu_needs(evidence: Evidence, arm: str, seed: int) -> float:
    return steps_to_reach(evidence, "relu", seed, evidence.loss(arm, seed))


def _mixing_gains(evidence: Evidence, seed: int) -> float:
    """Best uniform model less best mix, both chosen on separate seeds."""
    uniform, mix = (chosen(evidence, arms) for arms in (UNIFORM, MIXES))
    return evidence.loss(uniform, seed) - evidence.loss(mix, seed)


def _relu_is_faster(other: str) -> Effect:
    return lambda evidence, seed: evidence.figure("relu", seed, "speed", f"{other}/longer")


C5 = Claim(
    id="C5",
    where="I4, M1",
    quote="other activation functions can be used instead of ReLU",
    statement="At least one of GELU, SiLU, SwiGLU and Leaky ReLU does as well as ReLU.",
    meaning=(
        "Equal parameters, each at its own learning rate, same windows. True if one of the four is shown to lose less "
        "than 0.01 nats against ReLU (non-inferiority). Which of them is ahead depends on rate and budget, and is not "
        "what is judged here."
    ),
    tag="measurable",
    forecast="GELU and SiLU equal to ReLU, gated ones better",
    expected="SUPPORTED",
    arms=_compared(("relu", *INSTEAD, "identity")),
    measurements=_COUNTED,
    conditions=tuple(
        Condition(f"{spec}: 0.01 nats less what it loses on ReLU", "nats", 0.0, not_worse(spec, "relu"))
        for spec in INSTEAD
    ),
    rule="any",
    gates=(*_TRAINED, loses("identity", "relu")),
    finding=(
        "Loss {relu} nats with ReLU, {gelu} with GELU, {silu} with SiLU, {swiglu} with SwiGLU, {leaky} with Leaky ReLU."
    ),
    numbers={
        "relu": loss_of("relu"),
        "gelu": loss_of("gelu"),
        "silu": loss_of("silu"),
        "swiglu": loss_of("swiglu"),
        "leaky": loss_of("leaky_relu"),
    },
    tables=(ArmFigures("Loss and neurons", _NEURONS),),
)

C6 = Claim(
    id="C6",
    where="M2",
    quote="other functions like LeakyReLU or ELU may perform better",
    statement="Leaky ReLU or ELU does better than ReLU.",
    meaning=(
        "Leaky ReLU with slopes 0.01 and 0.5, and ELU, against ReLU, each at its own learning rate. True if one of "
        "them ends at least 0.01 nats lower."
    ),
    tag="measurable",
    forecast="Leaky ReLU about equal, ELU worse",
    expected="REFUTED",
    arms=_compared(("relu", *BETTER, "identity")),
    measurements=_COUNTED,
    conditions=tuple(
        Condition(f"ReLU's loss, less that of {spec}", "nats", DELTA, worse("relu", spec)) for spec in BETTER
    ),
    rule="any",
    gates=(*_TRAINED, loses("identity", "relu")),
    finding="Loss {relu} nats with ReLU, {leaky} with Leaky ReLU, {half} with slope 0.5, {elu} with ELU.",
    numbers={
        "relu": loss_of("relu"),
        "leaky": loss_of("leaky_relu"),
        "half": loss_of("leaky_relu:0.5"),
        "elu": loss_of("elu"),
    },
    looks=(8, 16),
    tables=(ArmFigures("Loss and neurons", _NEURONS),),
)

C7 = Claim(
    id="C7",
    where="M2",
    quote="dealing with negative values",
    statement="Trained GELU and SiLU models rely on the negative values that these let through.",
    meaning=(
        "In trained models all negative hidden values are set to 0, and each neuron is shifted so that its mean is as "
        "before: a bias could make good for the rest. True if this costs GELU and SiLU each at least 0.01 nats. It "
        "shows what trained models rely on, not what models need; the cost without the shift is shown beside, as are "
        "ELU, which the article names, and Leaky ReLU with slope 0.5."
    ),
    tag="measurable",
    forecast="a clear cost for GELU and SiLU",
    expected="SUPPORTED",
    arms=_compared(("relu", *NEGATIVE)),
    measurements={
        **dict.fromkeys(NEGATIVE, ("clamping",)),
        **dict.fromkeys(("gelu", "silu"), ("clamping", "layer_ablation")),
        "relu": ("clamping", "ngrams"),
    },
    conditions=tuple(
        Condition(f"rise of {spec}'s loss, means restored", "nats", DELTA, figure(spec, "clamping", "mean_kept"))
        for spec in ("gelu", "silu")
    ),
    gates=(
        trained("gelu", "fourgram", "relu"),
        trained("silu", "fourgram", "relu"),
        layers_matter("gelu"),
        layers_matter("silu"),
        control(
            "Leaky ReLU with slope 0.5, of which half is taken: rise of the loss, means restored",
            "nats",
            DELTA,
            figure("leaky_relu:0.5", "clamping", "mean_kept"),
        ),
        control(
            "ReLU, which has no negative values: how far its rise is below 0.01 nats",
            "nats",
            0.0,
            lambda evidence, seed: DELTA - abs(evidence.figure("relu", seed, "clamping", "rise")),
        ),
    ),
    finding=(
        "Without negative values GELU loses {gelu} nats and SiLU {silu}; with the means restored {gelu_kept} and "
        "{silu_kept}."
    ),
    numbers={
        f"{spec}{name}": ("nats", figure(spec, "clamping", key))
        for spec in ("gelu", "silu")
        for name, key in (("", "rise"), ("_kept", "mean_kept"))
    },
    tables=(
        ArmFigures(
            "Without negative values",
            {
                "loss": measured("clamping", "loss"),
                "clamped": measured("clamping", "clamped_loss"),
                "clamped, means restored": measured("clamping", "restored_loss"),
                "negative share": measured("clamping", "negative"),
            },
        ),
    ),
)

C8 = Claim(
    id="C8",
    where="W3",
    quote="a simple and computationally efficient way to introduce non-linearity",
    statement="A training step with ReLU is faster than one with GELU, SiLU or SwiGLU of equal size.",
    meaning=(
        "Time of a whole training step, activations in turn in one process, medians of ratios. True if each of the "
        "three takes at least 2 % longer than ReLU on the machine named. "
        "Seeds repeat the timing; another machine may differ."
    ),
    tag="measurable",
    forecast="ReLU faster by a few per cent of a step",
    expected="SUPPORTED",
    arms={"relu": Arm()},
    measurements={"relu": ("speed",)},
    conditions=tuple(
        Condition(f"{spec} takes longer by", "share", LEAST_LONGER, _relu_is_faster(spec)) for spec in TIMED
    ),
    gates=(
        control("ReLU a quarter wider takes longer by", "share", LEAST_LONGER, _relu_is_faster("wider")),
        control(
            "ReLU against itself: how far the difference is below 1 %",
            "share",
            0.0,
            lambda evidence, seed: MOST_NOISE - abs(evidence.figure("relu", seed, "speed", "again/longer")),
        ),
    ),
    finding="A step takes {gelu} longer with GELU than with ReLU, {silu} with SiLU, {swiglu} with SwiGLU.",
    numbers={spec: ("share", _relu_is_faster(spec)) for spec in TIMED},
    tables=(
        ArmFigures(
            "Milliseconds a step",
            {
                spec: measured("speed", f"{spec}/ms")
                for spec in ("relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh", "reglu", "geglu", "swiglu")
            },
        ),
    ),
)

C9 = Claim(
    id="C9",
    where="W5",
    quote="can have a significant impact on the model’s performance",
    statement="Which of twelve activations a GPT has moves its loss by 0.05 nats or more.",
    meaning=(
        "Twelve activations at equal parameters, each at the best learning rate known for it. True if the "
        "worst ends at least 0.05 nats (5 % perplexity) above the best, both chosen on separate seeds."
    ),
    tag="measurable",
    forecast="a large range because of sigmoid and identity, at most 0.02 nats among ReLU, GELU and SiLU",
    expected="SUPPORTED",
    arms={**_compared(ALL), **_SLOW},
    measurements=_COUNTED,
    conditions=(Condition("worst less best of twelve", "nats", LEAST_IMPACT, _extremes),),
    gates=(*_TRAINED, loses(TOO_SLOW, "relu", LEAST_IMPACT)),
    choosing=2,
    finding="Of twelve activations the best ended at {best} nats, the worst at {worst}.",
    numbers={"best": loss_of_chosen(ALL), "worst": loss_of_chosen(ALL, best=False)},
    tables=(ArmFigures("Loss and neurons", _NEURONS),),
)

C10 = Claim(
    id="C10",
    where="W5",
    quote="poor performance or slow convergence of the model",
    statement="With a badly chosen activation a GPT learns much more slowly.",
    meaning=(
        "How early on its way ReLU reaches the loss with which the worst of the others, chosen on separate seeds, "
        "ends. True if at least a fifth of the steps could be spared."
    ),
    tag="measurable",
    forecast="0.8 to 1.3 times the steps among sane choices",
    expected="SUPPORTED",
    arms={**_compared(ALL), **_SLOW},
    measurements=_COUNTED,
    conditions=(Condition("share of steps that ReLU can spare", "share", LEAST_SLOWER, _slower),),
    gates=(
        *_TRAINED,
        control(
            f"{TOO_SLOW}, known to be slow: share of steps that ReLU can spare",
            "share",
            LEAST_SLOWER,
            lambda evidence, seed: 1 - _relu_needs(evidence, TOO_SLOW, seed),
        ),
    ),
    choosing=2,
    finding="With the worst activation a GPT ended at {worst} nats; ReLU was there after {needed} of the steps.",
    numbers={
        "worst": loss_of_chosen(_OTHERS, best=False),
        "needed": ("share", lambda evidence, seed: 1 - _slower(evidence, seed)),
    },
    tables=(
        ArmFigures(
            "Share of its steps after which ReLU is as good", {"reached by ReLU after": _relu_needs, "loss": loss}
        ),
    ),
)

C11 = Claim(
    id="C11",
    where="A2",
    quote="Using a single activation function for all layers",
    statement="Some mix of ReLU and GELU over the layers beats both uniform models.",
    meaning=(
        "All fourteen mixes of ReLU and GELU over four layers, and both uniform models. True if the best mix, chosen "
        "on separate seeds, ends at least 0.01 nats below the best uniform one, chosen likewise."
    ),
    tag="measurable",
    forecast="no gain that matters",
    expected="REFUTED",
    arms={
        "all relu": Arm({"steps": Times(0.5)}),
        "all gelu": Arm({"activation": "gelu", "steps": Times(0.5)}),
        **{mix: Arm({"activation": mix, "steps": Times(0.5)}) for mix in MIXES},
        "all identity": Arm({"activation": "identity", "steps": Times(0.5)}),
    },
    measurements={"all relu": ("ngrams",)},
    conditions=(Condition("best uniform less best mix", "nats", DELTA, _mixing_gains),),
    gates=(trained("all relu"), trained("all gelu", text="all relu"), loses("all identity", "all relu")),
    looks=(8, 16),
    choosing=2,
    finding="Loss {uniform} nats with the better of ReLU and GELU in all layers, {mix} with the best mix.",
    numbers={"uniform": loss_of_chosen(UNIFORM), "mix": loss_of_chosen(MIXES)},
    tables=(ArmFigures("Loss", {"loss": loss}),),
)

C16 = Claim(
    id="C16",
    where="A2",
    quote="ELU, softmax, and binary step",
    statement="Softmax and the binary step can take the place of ReLU in a GPT's MLP at little loss.",
    meaning=(
        "The article lists both among activation functions and says no more; here each is put in the place of ReLU. "
        "True if each loses less than 0.05 nats on it. The identity, and neurons without any gradient, are shown "
        "beside."
    ),
    tag="measurable",
    forecast="the step leaves its incoming weights as they began, since all its gradients are exactly zero",
    expected="REFUTED",
    arms=_compared(("relu", "softmax", "step", "identity")),
    measurements=_also(("relu", "softmax", "step"), "trapping"),
    conditions=(
        Condition("softmax: 0.05 nats less what it loses on ReLU", "nats", 0.0, not_worse("softmax", "relu", SLACK)),
        Condition("step: 0.05 nats less what it loses on ReLU", "nats", 0.0, not_worse("step", "relu", SLACK)),
    ),
    gates=(*_TRAINED, loses("identity", "relu", SLACK)),
    finding="Loss {relu} nats with ReLU, {softmax} with softmax, {step} with the step; without activation {identity}.",
    numbers={spec: loss_of(spec) for spec in ("relu", "softmax", "step", "identity")},
    tables=(
        ArmFigures("Loss", {"loss": loss}),
        ArmFigures(
            "Neurons without gradient",
            {"trapped share": measured("trapping", "trapped_fraction")},
            ("relu", "softmax", "step"),
        ),
    ),
)

CLAIMS = (C5, C6, C7, C8, C9, C10, C11, C16)
