"""Claims about gradients that vanish or explode, and about what a GPT is without nonlinearity (C12 to C15)."""

from __future__ import annotations

import math
from collections.abc import Callable

from minigpt.claims.claim import ArmFigures, Claim, Condition, Effect, Series
from minigpt.claims.effects import activation, figure, loss, measured
from minigpt.claims.evidence import Evidence
from minigpt.claims.rows.death import dose
from minigpt.experiments.arms import Arm, Times

# As the measurement "depth_gradients" takes them.
DEPTHS = (2, 4, 8, 16, 24)
SQUASHING = ("sigmoid", "tanh")
EVERY = ("relu", "gelu", "silu", *SQUASHING, "leaky_relu", "elu", "swiglu")
WITH, WITHOUT = "with", "without"
LEAST_VANISHING = 0.02  # decades a layer: a factor of 3 over 24 layers

RATES = {"x10": 10.0, "x30": 30.0, "x100": 100.0, "x300": 300.0}
EXPLOSIVE = ("relu2", "glu", "gelu")
LEAST_SOONER = 0.25  # decades: half the distance of two rates
HALF_A_DECADE = 0.5

MOST_NONLINEAR = 1e-3
ALL_LINEAR = "all linear"
PARITY = {"corpus": "task:parity", "steps": Times(0.5)}


# ------------------------------------------------------------------------------------------------------ vanishing


def _vanishing(spec: str) -> Effect:
    return lambda evidence, seed: -figure("relu", "depth_gradients", f"{spec}/{WITH}")(evidence, seed)


def _slope(state: str) -> Callable[[Evidence, str, int], float]:
    """The slope of the activation that a table's row names; all were measured on one cell."""
    return lambda evidence, spec, seed: evidence.figure("relu", seed, "depth_gradients", f"{spec}/{state}")


def _decades(evidence: Evidence, key: str, seed: int) -> float:
    """By the key of the measurement that a point names."""
    return evidence.figure("relu", seed, "depth_gradients", key)


def _by_depth(what: str, state: str, kind: str = "") -> Series:
    lines = {spec: tuple((f"{spec}/{state}/{depth}{kind}", float(depth)) for depth in DEPTHS) for spec in EVERY}
    return Series(f"{what}, {state} residual paths and LayerNorm", "layers", "log10", lines, _decades)


_BY_DEPTH = (
    _by_depth("First over last layer's gradient", WITH),
    _by_depth("First over last layer's gradient", WITHOUT),
    _by_depth("First layer's gradient", WITH, "/first"),
    _by_depth("First layer's gradient", WITHOUT, "/first"),
)
_SLOPES = ArmFigures(
    "Slope of the first over the last layer's gradient, decades per layer",
    {"with residual paths and LayerNorm": _slope(WITH), "without": _slope(WITHOUT)},
    EVERY,
)
_ARMS = {"relu": Arm()}
_MEASUREMENTS = {"relu": ("depth_gradients",)}
_HOW = (
    "Fresh models of 2 to 24 layers, one batch of training text: slope over depth of log10 of the first MLP's gradient "
    "norm over the last one's. "
)

C12 = Claim(
    id="C12",
    where="A3",
    quote="but suffer from the vanishing gradient problem",
    statement="In a GPT as it is built, sigmoid and tanh make the gradient vanish with depth.",
    meaning=(
        _HOW + "True if with residual paths and LayerNorm it falls by at least 0.02 decades a layer for both sigmoid "
        "and tanh. The same without them is shown beside and judged by nobody."
    ),
    tag="measurable",
    forecast="steep only without residual paths",
    expected="REFUTED",
    arms=_ARMS,
    measurements=_MEASUREMENTS,
    conditions=tuple(
        Condition(f"{spec}: fall of the gradient", "decades per layer", LEAST_VANISHING, _vanishing(spec))
        for spec in SQUASHING
    ),
    series=_BY_DEPTH,
    tables=(_SLOPES,),
)

C13 = Claim(
    id="C13",
    where="B4, W2",
    quote="the gradient can become very small",
    statement="With some activation, the gradient of a GPT as it is built becomes very small if there are many layers.",
    meaning=(
        _HOW + "True if with residual paths and LayerNorm it falls by at least 0.02 decades a layer for any one of "
        "eight activations."
    ),
    tag="measurable",
    forecast="steep only without residual paths",
    expected="REFUTED",
    arms=_ARMS,
    measurements=_MEASUREMENTS,
    conditions=tuple(
        Condition(f"{spec}: fall of the gradient", "decades per layer", LEAST_VANISHING, _vanishing(spec))
        for spec in EVERY
    ),
    rule="any",
    tables=(_SLOPES,),
)


# ------------------------------------------------------------------------------------------------------ exploding


def at_rate(spec: str, rate: str) -> str:
    """The name of an arm of C14."""
    return f"{spec} {rate}"


def broke(evidence: Evidence, arm: str, seed: int) -> bool:
    """Whether a training diverged, or ended above the loss that it began with."""
    return evidence.loss(arm, seed) > evidence.curve(arm, seed)[0][1]


def highest_survived(evidence: Evidence, spec: str, seed: int) -> float:
    """log10 of the highest rate, as a multiple of the base's, that did not break the training.

    Half a decade below the lowest if all of them did.
    """
    survived = [factor for name, factor in RATES.items() if not broke(evidence, at_rate(spec, name), seed)]
    return math.log10(max(survived)) if survived else math.log10(min(RATES.values())) - HALF_A_DECADE


def _sooner(spec: str) -> Effect:
    return lambda evidence, seed: highest_survived(evidence, "relu", seed) - highest_survived(evidence, spec, seed)


def _broken(evidence: Evidence, arm: str, seed: int) -> float:
    return float(broke(evidence, arm, seed))


_RATE_ARMS = {
    at_rate(spec, name): dose(factor, activation=spec, grad_clip=0.0, steps=Times(0.2))
    for spec in ("relu", *EXPLOSIVE)
    for name, factor in RATES.items()
}

C14 = Claim(
    id="C14",
    where="B6",
    quote="the vanishing gradient problem or the exploding gradient problem",
    statement="With another activation than ReLU, training breaks down at a lower learning rate than with ReLU.",
    meaning=(
        "Constant rates of 10 to 300 times the base's, without warm-up and clipping. A training breaks down if its "
        "loss is no number or ends above where it began. True if the highest rate that ReLU² or GLU or GELU survives "
        "is at least a quarter of a decade below that of ReLU."
    ),
    tag="measurable",
    forecast="ReLU² and GLU earlier; late spikes cannot be seen at this scale",
    expected="SUPPORTED",
    arms=_RATE_ARMS,
    conditions=tuple(
        Condition(f"{spec}: breaks down sooner", "decades of the rate", LEAST_SOONER, _sooner(spec))
        for spec in EXPLOSIVE
    ),
    rule="any",
    seeds=4,
    series=(
        Series(
            "Trainings that broke down",
            "multiple of the base rate",
            "share",
            {
                spec: tuple((at_rate(spec, name), factor) for name, factor in RATES.items())
                for spec in ("relu", *EXPLOSIVE)
            },
            _broken,
            log_x=True,
        ),
    ),
    tables=(ArmFigures("Loss, and whether the training broke down", {"loss": loss, "broke down": _broken}),),
)


# ------------------------------------------------------------------------------------------------------ nonlinearity


def _linear_enough(evidence: Evidence, seed: int) -> float:
    return MOST_NONLINEAR - evidence.figure("identity", seed, "linearity", "error")


C15 = Claim(
    id="C15",
    where="N10",
    quote="the model would be limited to linear relationships",
    statement="Without a nonlinear activation a GPT computes only linear functions of its input.",
    meaning=(
        "f(a+b) + f(0) against f(a) + f(b), in float64, f being the logits as a function of the embeddings, a and b "
        "those of real windows. True if the identity as activation leaves a relative error below 0.001. Softmax and "
        "LayerNorm are still there; the arm without them too is shown beside, as is the task of parity."
    ),
    tag="measurable",
    forecast="identity worse, yet nonlinear: false of activations alone, true by algebra if all nonlinearities go",
    expected="REFUTED",
    arms={
        "relu": Arm(),
        "identity": activation("identity"),
        ALL_LINEAR: activation("identity", norm="none", attention="mean", lr=Times(0.25)),
        "parity relu": Arm(PARITY),
        "parity identity": activation("identity", **PARITY),
    },
    measurements={
        **dict.fromkeys(("relu", "identity", ALL_LINEAR), ("linearity",)),
        **dict.fromkeys(("parity relu", "parity identity"), ("accuracy",)),
    },
    conditions=(Condition("0.001 less the error of linearity", "relative error", 0.0, _linear_enough),),
    tables=(
        ArmFigures(
            "How far from linear, and the loss on prose",
            {"error of linearity": measured("linearity", "error"), "loss": loss},
            ("relu", "identity", ALL_LINEAR),
        ),
        ArmFigures(
            "Parity of a row of bits",
            {"accuracy": measured("accuracy", "accuracy"), "loss": loss},
            ("parity relu", "parity identity"),
        ),
    ),
)

CLAIMS: tuple[Claim, ...] = (C12, C13, C14, C15)
