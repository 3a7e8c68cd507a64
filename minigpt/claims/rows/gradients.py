"""Claims about gradients that vanish or explode, and about what a GPT is without nonlinearity (C12 to C15)."""

from __future__ import annotations

import math

from minigpt.claims.claim import ArmFigures, Claim, Column, Condition, Effect, Series
from minigpt.claims.effects import activation, figure, loss, loss_of, measured
from minigpt.claims.evidence import Evidence
from minigpt.claims.gates import control, trained
from minigpt.claims.rows.death import dose
from minigpt.experiments.arms import Arm, Times

# As the measurement "depth_gradients" takes them.
DEPTHS = (2, 4, 8, 16, 24)
SQUASHING = ("sigmoid", "tanh")
EVERY = ("relu", "gelu", "silu", *SQUASHING, "leaky_relu", "elu", "swiglu")
WITH, WITHOUT = "with", "without"
LEAST_VANISHING = 0.02  # decades a layer: a factor of 3 over 24 layers
TEXTBOOK_VANISHING = 0.4  # decades a layer, twenty margins: what a network without residual paths is known for

RATES = {"x1": 1.0, "x3": 3.0, "x10": 10.0, "x30": 30.0, "x100": 100.0, "x300": 300.0}
LOWEST, HIGHEST = "x1", "x300"
EXPLOSIVE = ("relu2", "glu", "gelu")
CALM = "calm"
LEAST_LEARNT = 0.05  # nats below the entropy of single tokens: less is a model that has broken down
LEAST_SOONER = 0.25  # decades: half the distance of two rates
HALF_A_DECADE = 0.5

MOST_NONLINEAR = 1e-3
LEAST_NONLINEAR = 0.1
ALL_LINEAR = "all linear"


# ------------------------------------------------------------------------------------------------------ vanishing


def _fall(spec: str, state: str) -> Effect:
    """Decades by which the first layer's gradient falls with each layer."""
    slope = figure("relu", "depth_gradients", f"{spec}/{state}/first")
    return lambda evidence, seed: -slope(evidence, seed)


def _fall_beyond_relu(spec: str) -> Effect:
    """How much faster the first layer's gradient falls with depth than it does with ReLU."""
    of_relu, of_spec = (_fall(name, WITH) for name in ("relu", spec))
    return lambda evidence, seed: of_spec(evidence, seed) - of_relu(evidence, seed)


def _column(key: str) -> Column:
    """A figure of the activation that a table's row names; all were measured on one cell."""
    return lambda evidence, spec, seed: evidence.figure("relu", seed, "depth_gradients", f"{spec}/{key}")


def _decades(evidence: Evidence, key: str, seed: int) -> float:
    """By the key of the measurement that a point names."""
    return evidence.figure("relu", seed, "depth_gradients", key)


def _by_depth(what: str, state: str, kind: str = "") -> Series:
    lines = {spec: tuple((f"{spec}/{state}/{depth}{kind}", float(depth)) for depth in DEPTHS) for spec in EVERY}
    return Series(f"{what}, {state} residual paths and LayerNorm", "layers", "log10", lines, _decades)


def _falls(specs: tuple[str, ...]) -> tuple[Condition, ...]:
    return tuple(
        Condition(
            f"{spec}: fall of the gradient beyond ReLU's",
            "decades per layer",
            LEAST_VANISHING,
            _fall_beyond_relu(spec),
        )
        for spec in specs
    )


_BY_DEPTH = (
    _by_depth("First layer's gradient", WITH, "/first"),
    _by_depth("First layer's gradient", WITHOUT, "/first"),
    _by_depth("First over last layer's gradient", WITH),
    _by_depth("First over last layer's gradient", WITHOUT),
)
_SLOPES = ArmFigures(
    "Slopes over depth, decades per layer",
    {
        "first layer, with residual paths and LayerNorm": _column(f"{WITH}/first"),
        "first layer, without": _column(f"{WITHOUT}/first"),
        "first over last, with": _column(WITH),
        "first over last, without": _column(WITHOUT),
    },
    EVERY,
)
_ARMS = {"relu": Arm()}
_MEASUREMENTS = {"relu": ("depth_gradients",)}
_HOW = (
    "Fresh models of 2 to 24 layers, one batch of training text: slope over depth of log10 of the first MLP's gradient "
    "norm, beyond ReLU's, since the initialisation alone lets it fall with every activation. "
)
_CONTROLS = tuple(
    control(
        f"{spec} without residual paths and LayerNorm: fall of the gradient",
        "decades per layer",
        TEXTBOOK_VANISHING,
        _fall(spec, WITHOUT),
    )
    for spec in SQUASHING
)
_FINDING = (
    "With each layer of a fresh model its first gradient falls by {sigmoid} decades with sigmoid, {tanh} with tanh and "
    "{relu} with ReLU; without residual paths and LayerNorm by {sigmoid_without}, {tanh_without} and {relu_without}."
)
_NUMBERS: dict[str, tuple[str, Effect]] = {
    f"{spec}{ending}": ("decades", _fall(spec, state))
    for spec in ("relu", *SQUASHING)
    for state, ending in ((WITH, ""), (WITHOUT, "_without"))
}

C12 = Claim(
    id="C12",
    where="A3",
    quote="but suffer from the vanishing gradient problem",
    statement="In a GPT as it is built, sigmoid and tanh make the gradient vanish with depth.",
    meaning=(
        _HOW + "True if with residual paths and LayerNorm it falls by at least 0.02 decades a layer more for both "
        "sigmoid and tanh. Without them it must be seen to vanish, or the measure shows nothing."
    ),
    tag="measurable",
    forecast="steep only without residual paths",
    expected="REFUTED",
    arms=_ARMS,
    measurements=_MEASUREMENTS,
    conditions=_falls(SQUASHING),
    gates=_CONTROLS,
    finding=_FINDING,
    numbers=_NUMBERS,
    series=_BY_DEPTH,
    tables=(_SLOPES,),
)

C13 = Claim(
    id="C13",
    where="B4, W2",
    quote="the gradient can become very small",
    statement="With some activation, the gradient of a GPT as it is built shrinks far more with depth than with ReLU.",
    meaning=(
        _HOW + "True if with residual paths and LayerNorm it falls by at least 0.02 decades a layer more for any one "
        "of seven activations. The article compares none; it says only that many layers can make the gradient small."
    ),
    tag="measurable",
    forecast="steep only without residual paths",
    expected="REFUTED",
    arms=_ARMS,
    measurements=_MEASUREMENTS,
    conditions=_falls(EVERY[1:]),
    rule="any",
    gates=_CONTROLS,
    finding=_FINDING,
    numbers=_NUMBERS,
    tables=(_SLOPES,),
)


# ------------------------------------------------------------------------------------------------------ exploding


def at_rate(spec: str, rate: str) -> str:
    """The name of an arm of C14."""
    return f"{spec} {rate}"


def broke(evidence: Evidence, arm: str, seed: int) -> bool:
    """Whether a training diverged, or ended no better than the frequencies of single tokens predict."""
    return evidence.loss(arm, seed) > evidence.figure(CALM, seed, "ngrams", "unigram") - LEAST_LEARNT


def highest_survived(evidence: Evidence, spec: str, seed: int) -> float:
    """log10 of the highest rate, as a multiple of the base's, that did not break the training.

    Half a decade below the lowest if all of them did.
    """
    survived = [factor for name, factor in RATES.items() if not broke(evidence, at_rate(spec, name), seed)]
    return math.log10(max(survived)) if survived else math.log10(min(RATES.values())) - HALF_A_DECADE


def _survived_by(spec: str) -> Effect:
    return lambda evidence, seed: highest_survived(evidence, spec, seed)


def _sooner(spec: str) -> Effect:
    return lambda evidence, seed: highest_survived(evidence, "relu", seed) - highest_survived(evidence, spec, seed)


def _broken(evidence: Evidence, arm: str, seed: int) -> float:
    return float(broke(evidence, arm, seed))


def _broken_by(rate: str) -> Effect:
    """The share of activations whose training a rate breaks."""
    arms = [at_rate(spec, rate) for spec in ("relu", *EXPLOSIVE)]
    return lambda evidence, seed: sum(broke(evidence, arm, seed) for arm in arms) / len(arms)


def _left_whole_by(rate: str) -> Effect:
    broken = _broken_by(rate)
    return lambda evidence, seed: 1 - broken(evidence, seed)


_RATE_ARMS = {
    at_rate(spec, name): dose(factor, activation=spec, grad_clip=0.0, steps=Times(0.1))
    for spec in ("relu", *EXPLOSIVE)
    for name, factor in RATES.items()
}

C14 = Claim(
    id="C14",
    where="B6",
    quote="the vanishing gradient problem or the exploding gradient problem",
    statement="With another activation than ReLU, training breaks down at a lower learning rate than with ReLU.",
    meaning=(
        "Constant rates of 1 to 300 times the base's, without warm-up and clipping. A training breaks down if its loss "
        "is no number, or is not 0.05 nats below that of a unigram. True if the highest rate that ReLU² or GLU or GELU "
        "survives is at least a quarter of a decade below that of ReLU."
    ),
    tag="measurable",
    forecast="ReLU² and GLU earlier; late spikes cannot be seen at this scale",
    expected="SUPPORTED",
    arms={**_RATE_ARMS, CALM: Arm({"steps": Times(0.5)})},
    measurements={CALM: ("ngrams",)},
    conditions=tuple(
        Condition(f"{spec}: breaks down sooner", "decades of the rate", LEAST_SOONER, _sooner(spec))
        for spec in EXPLOSIVE
    ),
    rule="any",
    gates=(
        trained(CALM),
        control("activations that the lowest rate leaves whole", "share", 1.0, _left_whole_by(LOWEST)),
        control("activations that the highest rate breaks", "share", 1.0, _broken_by(HIGHEST)),
    ),
    finding=(
        "The highest rate that did not break a training, in decades above the base's: {relu} with ReLU, {relu2} with "
        "ReLU², {glu} with GLU, {gelu} with GELU."
    ),
    numbers={spec: ("decades", _survived_by(spec)) for spec in ("relu", *EXPLOSIVE)},
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
    tables=(
        ArmFigures(
            "Loss, and whether the training broke down", {"loss": loss, "broke down": _broken}, tuple(_RATE_ARMS)
        ),
    ),
)


# ------------------------------------------------------------------------------------------------------ nonlinearity


def _linear_enough(evidence: Evidence, seed: int) -> float:
    return MOST_NONLINEAR - evidence.figure(ALL_LINEAR, seed, "linearity", "error")


C15 = Claim(
    id="C15",
    where="N10",
    quote="the model would be limited to linear relationships",
    statement="Without any nonlinear function a GPT computes only linear functions of its input.",
    meaning=(
        "f(a+b) + f(0) against f(a) + f(b), in float64, f being the logits as a function of the embeddings, a and b "
        "those of real windows. True if the relative error is below 0.001 in a GPT with the identity as activation, "
        "without LayerNorm, and with the mean in the place of attention's softmax. The identity alone is shown beside: "
        "softmax and LayerNorm are still there, and nonlinear."
    ),
    tag="measurable",
    forecast="identity worse, yet nonlinear: false of activations alone, true by algebra if all nonlinearities go",
    expected=None,
    arms={
        "relu": Arm(),
        "identity": activation("identity"),
        ALL_LINEAR: activation("identity", norm="none", attention="mean", lr=Times(0.25)),
    },
    measurements={
        **dict.fromkeys(("identity", ALL_LINEAR), ("linearity",)),
        "relu": ("linearity", "ngrams"),
    },
    conditions=(Condition("0.001 less the error of linearity", "relative error", 0.0, _linear_enough),),
    gates=(
        trained("relu"),
        trained(ALL_LINEAR, "unigram", text="relu"),
        *(
            control(
                f"{arm}, which is not linear: error of linearity",
                "relative error",
                LEAST_NONLINEAR,
                figure(arm, "linearity", "error"),
            )
            for arm in ("relu", "identity")
        ),
    ),
    finding=(
        "Without any nonlinear function the error of linearity is {none} and the loss {linear} nats; without the "
        "activation alone {error} and {identity}; with ReLU the loss is {relu}."
    ),
    numbers={
        "linear": loss_of(ALL_LINEAR),
        "identity": loss_of("identity"),
        "relu": loss_of("relu"),
        "none": ("relative error", figure(ALL_LINEAR, "linearity", "error")),
        "error": ("relative error", figure("identity", "linearity", "error")),
    },
    tables=(
        ArmFigures(
            "How far from linear, and the loss on prose",
            {"error of linearity": measured("linearity", "error"), "loss": loss},
        ),
    ),
)

CLAIMS: tuple[Claim, ...] = (C12, C13, C14, C15)
