"""Claims about dead neurons: that ReLU causes them, and what they cost (C1 to C4)."""

from __future__ import annotations

import math

from minigpt.claims.claim import DELTA, ArmFigures, Claim, Condition, Series
from minigpt.claims.effects import activation, beyond, dead_of, figure, health, loss, loss_of, measured, slope, worse
from minigpt.claims.evidence import Evidence
from minigpt.claims.gates import control, deader, layers_matter, learnt_on, loses, trained
from minigpt.experiments.arms import Arm, Times

BASE = "base recipe"
DOSES = {"rate x1/4": 0.25, "rate x1": 1.0, "rate x2.5": 2.5, "rate x7.5": 7.5}
HIGHEST = "rate x7.5"
LEAST_DEAD = 0.005
PLANTED, PLANTED_SHARE = "a fiftieth killed at birth", 0.02
OTHERS = ("gelu", "silu", "swiglu")
NEVER_DYING = "leaky_relu"
LEAST_MORE_CLOSED = 0.02
HURT, HEALTHY = "hurt", "healthy"


def dose(factor: float, **settings: object) -> Arm:
    """Training at a constant rate without warm-up: what is known to kill ReLU neurons."""
    return Arm({"lr": Times(factor), "min_lr": Times(factor), "schedule": "constant", "warmup_steps": 0, **settings})


# One vocabulary for prose and source, so that a model can go from one to the other. The layers are as wide as the
# residual stream, a quarter of what is usual: there width binds, and a neuron less is a loss.
_PROSE = {"tokenizer": "byte", "d_ff": Times(0.25), "steps": Times(0.5)}
_CODE = {**_PROSE, "corpus": "stdlib-code"}
# From −1 fewer neurons stay dead, and from −2 a layer may come not to matter; see docs/measurements.md.
_HURT = dose(1, warmup_steps=None, init_bias=-1.5, **_PROSE)
_ONWARD = {**_PROSE, "warmup_steps": 0}
# Repeated, since much of what is revived dies again.
_OFTEN = {"init_moments": True, "recycle_every": 100}
FORKS = {
    "as it is": Arm({**_ONWARD, "init_moments": True}, start=HURT),
    "memory cleared": Arm(_ONWARD, start=HURT),
    "recycle dead": Arm({**_ONWARD, **_OFTEN, "init_surgery": "dead", "recycle": "dead"}, start=HURT),
    "recycle random": Arm({**_ONWARD, **_OFTEN, "init_surgery": "random:dead", "recycle": "random:dead"}, start=HURT),
}
# Widths of healthy layers, in units of the residual stream's.
WIDTHS = {"width 1": 1.0, "width 3/4": 0.75, "width 1/2": 0.5, "width 1/4": 0.25}


def _narrower(width: float) -> Arm:
    return Arm({**_PROSE, "d_ff": Times(width / 4)})


_dead = measured("deaths", "dead_fraction")


def _rise(evidence: Evidence, seed: int) -> float:
    return slope([(math.log10(factor), _dead(evidence, arm, seed)) for arm, factor in DOSES.items()])


def _behind_trigram(evidence: Evidence, arm: str, seed: int) -> float:
    """How far a dose's loss is above that of a trigram: above 0, the model is broken."""
    return evidence.loss(arm, seed) - evidence.figure(BASE, seed, "ngrams", "trigram")


_closed = measured("expendability", "never_positive_fraction")


def _dead_before(evidence: Evidence, arm: str, seed: int) -> float:
    return evidence.health(HURT, seed, "dead_fraction")


def _won_back(evidence: Evidence, arm: str, seed: int) -> float:
    return evidence.loss("as it is", seed) - evidence.loss("recycle dead", seed)


def _narrowing(evidence: Evidence, arm: str, seed: int) -> float:
    """By which share a healthy layer must be narrower to lose what the dead cost; by the ladder of widths, linear in
    the share.
    """
    price = -slope([(width, evidence.loss(name, seed)) for name, width in WIDTHS.items()])  # nats for the whole width
    return _won_back(evidence, arm, seed) / price if price > 0 else math.nan


C1 = Claim(
    id="C1",
    where="I1, W3, A3",
    quote="ReLU can cause dead neurons",
    statement="ReLU neurons of a GPT die in training, unprovoked, and more of them at higher learning rates.",
    meaning=(
        "Share of neurons with h = 0 on each of a million tokens of training text. True if with the base recipe it "
        "is above 0.5 %, and if it rises with a constant learning rate without warm-up. Doses that leave a model "
        "behind a trigram have broken it, and are shown as such."
    ),
    tag="measurable",
    forecast="0 to 20 % dead with the default recipe, 20 to 70 % when provoked",
    expected="SUPPORTED",
    arms={
        BASE: Arm(),
        **{name: dose(factor) for name, factor in DOSES.items()},
        PLANTED: Arm({"init_killed": PLANTED_SHARE}),
    },
    measurements={**dict.fromkeys((*DOSES, PLANTED), ("deaths",)), BASE: ("deaths", "ngrams")},
    conditions=(
        Condition(
            "dead with the base recipe, beyond 0.5 %",
            "share",
            0.0,
            figure(BASE, "deaths", "dead_fraction", LEAST_DEAD),
        ),
        Condition("rise for each tenfold rate", "share", 0.0, _rise),
    ),
    gates=(
        trained(BASE),
        control(
            f"{PLANTED}: dead, more than with the base recipe",
            "share",
            LEAST_DEAD,
            beyond(_dead, PLANTED, BASE),
        ),
    ),
    finding=(
        "{unprovoked} of ReLU neurons died with the ledger's base recipe, {provoked} at 7.5 times its rate held "
        "constant; loss {before} and {after} nats, a trigram's {counted}."
    ),
    numbers={
        "unprovoked": ("share", figure(BASE, "deaths", "dead_fraction")),
        "provoked": ("share", figure(HIGHEST, "deaths", "dead_fraction")),
        "before": loss_of(BASE),
        "after": loss_of(HIGHEST),
        "counted": ("nats", figure(BASE, "ngrams", "trigram")),
    },
    series=(
        Series(
            "Dead neurons by rate, held constant without warm-up",
            "multiple of the base rate",
            "dead share",
            {"relu": tuple(DOSES.items())},
            _dead,
            log_x=True,
        ),
        Series(
            "Loss by rate, held constant without warm-up",
            "multiple of the base rate",
            "loss, nats",
            {"relu": tuple(DOSES.items())},
            loss,
            log_x=True,
        ),
    ),
    tables=(
        ArmFigures(
            "Shares of neurons on a million tokens",
            {
                "dead share of a million tokens": _dead,
                "truly dead share (Chao)": measured("deaths", "truly_dead_fraction"),
                "proven dead share": measured("deaths", "certified_fraction"),
                **{f"layer {layer}, share": measured("deaths", f"dead_layer_{layer}") for layer in range(4)},
                "loss": loss,
                "loss above a trigram's (> 0: broken)": _behind_trigram,
            },
        ),
    ),
)

C2 = Claim(
    id="C2",
    where="I3",
    quote="When ReLU is used in GPT, it can cause dead neurons",
    statement="A GPT with ReLU has more neurons that never open than one with GELU, SiLU or SwiGLU.",
    meaning=(
        "Share of neurons whose input is never positive on 65,536 tokens of training text. True if ReLU's is 2 "
        "percentage points larger than that of each of the three. Two other answers are shown beside: inert neurons, "
        "which hardly move what a layer writes, and expendable ones, the most that can be replaced by their means "
        "before perplexity rises 1 %. Leaky ReLU, whose neurons cannot die, tells what these count besides death."
    ),
    tag="measurable",
    forecast="ReLU has more neurons that never open, not clearly more that can be spared",
    expected=None,
    arms={"relu": Arm(), **{spec: activation(spec) for spec in (*OTHERS, NEVER_DYING)}},
    measurements={
        "relu": ("expendability", "planted", "ngrams"),
        **dict.fromkeys((*OTHERS, NEVER_DYING), ("expendability",)),
    },
    conditions=tuple(
        Condition(f"never open, more than with {spec}", "share", LEAST_MORE_CLOSED, beyond(_closed, "relu", spec))
        for spec in OTHERS
    ),
    gates=(
        trained("relu"),
        *(trained(spec, text="relu") for spec in OTHERS),
        *(
            control(f"a twentieth of the neurons killed: rise of the {name} share", "share", LEAST_MORE_CLOSED, found)
            for name, found in (
                ("never opening", figure("relu", "planted", "never_positive_fraction")),
                ("inert", figure("relu", "planted", "inert_fraction")),
                ("expendable", figure("relu", "planted", "expendable_fraction")),
            )
        ),
    ),
    finding=(
        "On 65,536 tokens {closed} of ReLU's neurons never open, {inert} are inert and {spared} expendable; of GELU's "
        "{gelu_closed}, {gelu_inert} and {gelu_spared}."
    ),
    numbers={
        f"{prefix}{name}": ("share", figure(arm, "expendability", key))
        for prefix, arm in (("", "relu"), ("gelu_", "gelu"))
        for name, key in (
            ("closed", "never_positive_fraction"),
            ("inert", "inert_fraction"),
            ("spared", "expendable_fraction"),
        )
    },
    tables=(
        ArmFigures(
            "Shares of neurons",
            {
                "share that never opens": _closed,
                "inert share": measured("expendability", "inert_fraction"),
                "expendable share": measured("expendability", "expendable_fraction"),
                "expendable share in random order": measured("expendability", "expendable_random"),
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
    statement="Dead neurons cost a GPT accuracy: reviving them wins some back, and reviving others does not.",
    meaning=(
        "A model whose layers are as narrow as its residual stream, trained at a constant rate from neurons that begin "
        "nearly closed, is continued four ways on the same windows: as it is, with its optimizer's memory cleared, "
        "with its dead neurons recycled every 100 steps, and with as many random ones recycled. True if the third ends "
        "at least 0.01 nats below the first and the fourth. Narrower healthy models say what a loss amounts to in "
        "width; how well a linear map rebuilds what each MLP reads from what it computes says how much information is "
        "left."
    ),
    tag="when provoked",
    forecast="no effect at the natural dose; harm only beyond 50 to 70 % dead",
    expected="REFUTED",
    arms={HURT: _HURT, **FORKS, **{name: _narrower(width) for name, width in WIDTHS.items()}},
    measurements={
        HURT: ("rebuilding",),
        "as it is": ("rebuilding", "layer_ablation"),
        **dict.fromkeys(("memory cleared", "recycle dead", "recycle random"), ("rebuilding",)),
        "width 1": ("rebuilding", "ngrams"),
    },
    conditions=(
        Condition("loss as it is, less that of recycling the dead", "nats", DELTA, worse("as it is", "recycle dead")),
        Condition(
            "random recycling's loss, less that of recycling the dead",
            "nats",
            DELTA,
            worse("recycle random", "recycle dead"),
        ),
    ),
    gates=(
        learnt_on("as it is", HURT),
        trained("as it is", text="width 1"),
        trained("width 1"),
        loses("width 1/2", "width 1"),
        deader("as it is", "recycle dead"),
        layers_matter("as it is"),
    ),
    finding=(
        "With {dead} of its neurons dead, a model ended at {as_it_is} nats; with these revived at {revived}, and with "
        "as many others at {random}."
    ),
    numbers={
        "dead": dead_of("as it is"),
        "as_it_is": loss_of("as it is"),
        "revived": loss_of("recycle dead"),
        "random": loss_of("recycle random"),
    },
    looks=(20,),
    series=(
        Series("Healthy models by width", "share of the stream's", "loss, nats", {"relu": tuple(WIDTHS.items())}, loss),
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
        "Models of narrow layers, trained at a constant rate from neurons that begin nearly closed, and with the base "
        "recipe, then learn Python source instead of prose. True if the first ends at least 0.01 nats above the "
        "second, and at least 0.01 nats above itself with its dead neurons recycled before the new text."
    ),
    tag="when provoked",
    forecast="harm at a high rate",
    expected=None,
    arms={
        HURT: _HURT,
        HEALTHY: Arm(_PROSE),
        "hurt, then code": Arm(_CODE, start=HURT),
        "recycled, then code": Arm({**_CODE, "init_surgery": "dead"}, start=HURT),
        "random recycled, then code": Arm({**_CODE, "init_surgery": "random:dead"}, start=HURT),
        "healthy, then code": Arm(_CODE, start=HEALTHY),
        "code from scratch": Arm(_CODE),
    },
    measurements={HEALTHY: ("ngrams",), "healthy, then code": ("ngrams",)},
    conditions=(
        Condition("worse than after a healthy start", "nats", DELTA, worse("hurt, then code", "healthy, then code")),
        Condition("worse than with the dead recycled", "nats", DELTA, worse("hurt, then code", "recycled, then code")),
    ),
    gates=(
        trained(HEALTHY),
        trained(HURT, "bigram", text=HEALTHY),
        trained("healthy, then code"),
        deader(HURT, HEALTHY),
        control(
            "the hurt model carries something over: from scratch, code costs more by",
            "nats",
            DELTA,
            worse("code from scratch", "hurt, then code"),
        ),
    ),
    finding=(
        "A hurt model ({dead} dead) learnt code to {hurt} nats, with the dead recycled to {recycled}, a healthy one to "
        "{healthy}."
    ),
    numbers={
        "dead": dead_of(HURT),
        "hurt": loss_of("hurt, then code"),
        "recycled": loss_of("recycled, then code"),
        "healthy": loss_of("healthy, then code"),
    },
    tables=(
        ArmFigures(
            "Loss on the new text, and neurons at its end", {"loss": loss, "dead share": health("dead_fraction")}
        ),
    ),
)

CLAIMS = (C1, C2, C3, C4)
