"""Claims about dead neurons: that ReLU causes them, and what they cost (C1 to C4)."""

from __future__ import annotations

import math

from minigpt.claims.claim import DELTA, ArmFigures, Claim, Condition, Effect, Series
from minigpt.claims.effects import activation, figure, health, loss, measured, slope, worse
from minigpt.claims.evidence import Evidence
from minigpt.experiments.arms import Arm, Times

DOSES = {"rate x1/4": 0.25, "rate x1": 1.0, "rate x2.5": 2.5, "rate x7.5": 7.5}
HIGHEST = "rate x7.5"
LEAST_DEAD = 0.005
OTHERS = ("gelu", "silu", "swiglu")
LEAST_EXPENDABLE = 0.02
WIDTHS = {"width 1": 1.0, "width 7/8": 0.875, "width 3/4": 0.75, "width 1/2": 0.5}
HURT, HEALTHY = "hurt", "healthy"


def dose(factor: float, **settings: object) -> Arm:
    """Training at a constant rate without warm-up: what is known to kill ReLU neurons."""
    return Arm({"lr": Times(factor), "min_lr": Times(factor), "schedule": "constant", "warmup_steps": 0, **settings})


# One vocabulary for prose and source, so that a model can go from one to the other.
_PROSE = {"tokenizer": "byte"}
_CODE = {"tokenizer": "byte", "corpus": "stdlib-code", "steps": Times(0.25)}
_HURT = dose(2.5, steps=Times(0.5), init_bias=-2.0, **_PROSE)
_ONWARD = {**_PROSE, "steps": Times(0.5), "warmup_steps": 0}
FORKS = {
    "as it is": Arm({**_ONWARD, "init_moments": True}, start=HURT),
    "memory cleared": Arm(_ONWARD, start=HURT),
    "recycle dead": Arm({**_ONWARD, "init_moments": True, "init_surgery": "dead"}, start=HURT),
    "recycle random": Arm({**_ONWARD, "init_moments": True, "init_surgery": "random:dead"}, start=HURT),
}


def _narrower(width: float) -> Arm:
    return Arm({**_PROSE, "d_ff": Times(width), "steps": Times(0.5)})


def _dead(evidence: Evidence, arm: str, seed: int) -> float:
    return evidence.figure(arm, seed, "deaths", "dead_fraction")


def _rise(evidence: Evidence, seed: int) -> float:
    return slope([(math.log10(factor), _dead(evidence, arm, seed)) for arm, factor in DOSES.items()])


def _more_expendable_than(other: str) -> Effect:
    def effect(evidence: Evidence, seed: int) -> float:
        mine, others = (evidence.figure(arm, seed, "expendability", "expendable_fraction") for arm in ("relu", other))
        return mine - others

    return effect


def _dead_before(evidence: Evidence, arm: str, seed: int) -> float:
    return _dead(evidence, HURT, seed)


def _won_back(evidence: Evidence, arm: str, seed: int) -> float:
    return evidence.loss("as it is", seed) - evidence.loss("recycle dead", seed)


def _narrowing(evidence: Evidence, arm: str, seed: int) -> float:
    """By which share a healthy layer must be narrower to lose what the dead cost; by the ladder of widths, linear in
    the share, for a single seed little more than noise.
    """
    price = -slope([(width, evidence.loss(name, seed)) for name, width in WIDTHS.items()])  # nats for the whole width
    return _won_back(evidence, arm, seed) / price if price > 0 else math.nan


C1 = Claim(
    id="C1",
    where="I1, W3, A3",
    quote="ReLU can cause dead neurons",
    statement="ReLU neurons of a GPT can die in training.",
    meaning=(
        "Share of neurons with h = 0 on each of a million tokens of training text. True if the share at the highest "
        "dose is above 0.5 % and rises with the dose; the dose is a constant learning rate without warm-up. "
        "The default recipe is shown beside and not judged."
    ),
    tag="when provoked",
    forecast="0 to 20 % dead with the default recipe, 20 to 70 % when provoked",
    expected="SUPPORTED",
    arms={"default recipe": Arm(), **{name: dose(factor) for name, factor in DOSES.items()}},
    measurements=dict.fromkeys(("default recipe", *DOSES), ("deaths",)),
    conditions=(
        Condition(
            "dead at the highest dose, less 0.5 %", "share", 0.0, figure(HIGHEST, "deaths", "dead_fraction", LEAST_DEAD)
        ),
        Condition("rise for each tenfold rate", "share", 0.0, _rise),
    ),
    series=(
        Series(
            "Dead neurons by rate",
            "multiple of the base rate",
            "dead share",
            {"relu": tuple(DOSES.items())},
            _dead,
            log_x=True,
        ),
        Series(
            "Loss by rate", "multiple of the base rate", "loss, nats", {"relu": tuple(DOSES.items())}, loss, log_x=True
        ),
    ),
    tables=(
        ArmFigures(
            "Shares of neurons on a million tokens",
            {
                "dead share": measured("deaths", "dead_fraction"),
                "truly dead share (Chao)": measured("deaths", "truly_dead_fraction"),
                "proven dead share": measured("deaths", "certified_fraction"),
                **{f"layer {layer}, share": measured("deaths", f"dead_layer_{layer}") for layer in range(4)},
                "loss": loss,
            },
        ),
    ),
)

C2 = Claim(
    id="C2",
    where="I3",
    quote="When ReLU is used in GPT, it can cause dead neurons",
    statement="A GPT with ReLU has more neurons that can be spared than one with GELU, SiLU or SwiGLU.",
    meaning=(
        "Zeros cannot be compared between activations, so the excess is judged by the expendable share: the most "
        "neurons, least useful first, that can be replaced by their means before perplexity rises 1 %. True if ReLU's "
        "is 2 percentage points larger than that of each of the three. Shares that never open are shown beside."
    ),
    tag="measurable",
    forecast="ReLU has more neurons that never open, not clearly more that can be spared",
    expected=None,
    arms={"relu": Arm(), **{spec: activation(spec) for spec in OTHERS}},
    measurements=dict.fromkeys(("relu", *OTHERS), ("expendability",)),
    conditions=tuple(
        Condition(f"expendable, more than with {spec}", "share", LEAST_EXPENDABLE, _more_expendable_than(spec))
        for spec in OTHERS
    ),
    tables=(
        ArmFigures(
            "Shares of neurons",
            {
                "expendable share": measured("expendability", "expendable_fraction"),
                "share in random order": measured("expendability", "expendable_random"),
                "share that never opens": measured("expendability", "never_positive_fraction"),
                "neurons": measured("expendability", "neurons"),
                "loss": loss,
            },
        ),
    ),
)

C3 = Claim(
    id="C3",
    where="I1, I3",
    quote="leading to a loss of information and reduced accuracy",
    statement="Dead neurons cost a GPT accuracy: reviving them wins back what reviving as many others does not.",
    meaning=(
        "A model trained at a high dose, from neurons that begin nearly closed, is continued four ways on the same "
        "windows: as it is, with its optimizer's memory cleared, with its dead neurons recycled, and with as many "
        "random living ones recycled. True if the third ends at least 0.01 nats below the fourth. Narrower healthy "
        "models say what a loss amounts to in width; how well a linear map rebuilds what each MLP reads from what it "
        "computes says how much information is left."
    ),
    tag="when provoked",
    forecast="no effect at the natural dose; harm only beyond 50 to 70 % dead",
    expected="REFUTED",
    arms={HURT: _HURT, **FORKS, **{name: _narrower(width) for name, width in WIDTHS.items()}},
    measurements={
        HURT: ("deaths", "rebuilding"),
        **dict.fromkeys((*FORKS, "width 1"), ("rebuilding",)),
    },
    conditions=(
        Condition(
            "random recycling's loss, less that of recycling the dead",
            "nats",
            DELTA,
            worse("recycle random", "recycle dead"),
        ),
    ),
    series=(
        Series("Healthy models by width", "share of the width", "loss, nats", {"relu": tuple(WIDTHS.items())}, loss),
    ),
    tables=(
        ArmFigures(
            "What reviving the dead is worth",
            {
                "dead share before": _dead_before,
                "won back, nats": _won_back,
                "dead-equivalent narrowing, share": _narrowing,
            },
            (HURT,),
        ),
        ArmFigures(
            "Continued from one checkpoint",
            {"loss": loss, "dead share": health("dead_fraction"), "rebuilt, R²": measured("rebuilding", "r2")},
            (HURT, *FORKS),
        ),
        ArmFigures("Healthy models of less width", {"loss": loss}, tuple(WIDTHS)),
    ),
)

C4 = Claim(
    id="C4",
    where="W3",
    quote="which can reduce the model’s ability to learn",
    statement="A GPT with many dead neurons learns a new text less well, and because of them.",
    meaning=(
        "Models trained at a high dose, and with the default recipe, then learn Python source instead of prose. True "
        "if the first ends at least 0.01 nats above the second, and at least 0.01 nats above itself with its dead "
        "neurons recycled before the new text."
    ),
    tag="when provoked",
    forecast="harm at a high rate",
    expected=None,
    arms={
        HURT: _HURT,
        HEALTHY: Arm({**_PROSE, "steps": Times(0.5)}),
        "hurt, then code": Arm(_CODE, start=HURT),
        "recycled, then code": Arm({**_CODE, "init_surgery": "dead"}, start=HURT),
        "random recycled, then code": Arm({**_CODE, "init_surgery": "random:dead"}, start=HURT),
        "healthy, then code": Arm(_CODE, start=HEALTHY),
        "code from scratch": Arm(_CODE),
    },
    measurements={HURT: ("deaths",)},
    conditions=(
        Condition("worse than after a healthy start", "nats", DELTA, worse("hurt, then code", "healthy, then code")),
        Condition("worse than with the dead recycled", "nats", DELTA, worse("hurt, then code", "recycled, then code")),
    ),
    tables=(
        ArmFigures(
            "Loss on the new text, and neurons at its end", {"loss": loss, "dead share": health("dead_fraction")}
        ),
    ),
)

CLAIMS = (C1, C2, C3, C4)
