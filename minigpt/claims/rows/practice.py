"""Claims about how to train: rates, momentum, Adam, batches, normalised input (C17 to C20, C26)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minigpt.claims.claim import DELTA, ArmFigures, Claim, Condition, Effect, Series
from minigpt.claims.effects import (
    SLOW_RATE,
    TOO_SLOW,
    chosen,
    figure,
    health,
    loss,
    loss_of,
    loss_of_chosen,
    measured,
    worse,
)
from minigpt.claims.evidence import Evidence
from minigpt.claims.gates import inside, loses, trained
from minigpt.claims.rows.death import dose
from minigpt.experiments.arms import Arm, Times

HALF = Times(0.5)
RATES = {"rate x1/16": 1 / 16, "rate x1/4": 0.25, "rate x1": 1.0, "rate x2.5": 2.5, "rate x7.5": 7.5, "rate x25": 25.0}
FAR_TOO_LOW, FAR_TOO_LOW_FACTOR = "rate x1/1024", 1 / 1024
LOWEST, MIDDLE, HIGHEST = "rate x1/16", "rate x1", "rate x25"

# Decay of 0.1 is AdamW's: in the gradient it would act on SGD, at rates hundreds of times as high, as hundreds of times
# as strong, and in Adam be blown up by the division.
_UNDECAYED = {"steps": HALF, "weight_decay": 0.0}
# Momentum of 0.9 makes steps ten times as long, so its rates are a tenth. Rungs of a factor of two: what a wrong rung
# costs must be small beside what momentum gains. Momentum's ladder has three rungs more: its best was the sixth.
SGD_RATES = {f"SGD x{factor}": float(factor) for factor in (25, 50, 100, 200, 400, 800)}
MOMENTUM_RATES = {f"momentum x{factor:g}": factor for factor in (2.5, 5, 10, 20, 40, 80, 160, 320, 640)}
CRAWLING, MIDDLE_SGD = "SGD x0.25", "SGD x100"
MIDDLE_MOMENTUM = "momentum x10"
_SGD_ARMS = {name: Arm({"optimizer": "sgd", "lr": Times(rate), **_UNDECAYED}) for name, rate in SGD_RATES.items()}
_MOMENTUM_ARMS = {
    name: Arm({"optimizer": "momentum", "lr": Times(rate), **_UNDECAYED}) for name, rate in MOMENTUM_RATES.items()
}
BETA2 = {"β2 0.95": 0.95, "β2 0.99": 0.99, "β2 0.999": 0.999}

LEAST_NOISIER = 0.5  # decades of variance; an average of sixteen times as many windows should bring 1.2
# Batches of 4, 12 and 48 windows of the base, as many tokens in all.
BATCHES = {"batch x1/3": 1 / 3, "batch x1": 1.0, "batch x4": 4.0}
_TOKENS = 1 / 2
HUGE, HUGE_FACTOR = "batch x16", 16.0

_NEURONS = {"loss": loss, "dead share": health("dead_fraction")}


def _by(factors: Mapping[str, float]) -> dict[str, tuple[tuple[str, float], ...]]:
    """One line through the arms, over the factors by which they differ."""
    return {"relu": tuple(factors.items())}


def _worse_than_best(arm: str, candidates: Sequence[str]) -> Effect:
    """How much more loss an arm has than the best candidate, chosen on separate seeds."""
    return lambda evidence, seed: evidence.loss(arm, seed) - evidence.loss(chosen(evidence, candidates), seed)


C17 = Claim(
    id="C17",
    where="G3, B3, B5, B11",
    quote="Setting the learning rate too high or too low",
    statement="Learning rates far below and far above the best one both leave a higher loss.",
    meaning=(
        "Rates of 1/16 to 25 times the base's, with warm-up and cosine. True if the lowest and the highest of them "
        "both end at least 0.01 nats above the best, which is chosen on separate seeds."
    ),
    tag="measurable",
    forecast="U-shape; dead neurons rise with the rate",
    expected="SUPPORTED",
    arms={
        name: Arm({"lr": Times(factor), "steps": HALF})
        for name, factor in {**RATES, FAR_TOO_LOW: FAR_TOO_LOW_FACTOR}.items()
    },
    measurements={MIDDLE: ("ngrams",)},
    gates=(trained(MIDDLE), inside(tuple(RATES), "rate"), loses(FAR_TOO_LOW, MIDDLE)),
    choosing=2,
    conditions=(
        Condition("lowest rate: loss above the best rate's", "nats", DELTA, _worse_than_best(LOWEST, tuple(RATES))),
        Condition("highest rate: loss above the best rate's", "nats", DELTA, _worse_than_best(HIGHEST, tuple(RATES))),
    ),
    finding="Loss {best} nats at the best rate, {low} at a sixteenth of the base's, {high} at 25 times it.",
    numbers={"best": loss_of_chosen(tuple(RATES)), "low": loss_of(LOWEST), "high": loss_of(HIGHEST)},
    series=(
        Series("Loss by rate", "multiple of the base rate", "loss, nats", _by(RATES), loss, log_x=True),
        Series(
            "Dead by rate", "multiple of the base rate", "dead, share", _by(RATES), health("dead_fraction"), log_x=True
        ),
    ),
    tables=(ArmFigures("Loss and neurons", _NEURONS),),
)


def _momentum_gains(evidence: Evidence, seed: int) -> float:
    """Best SGD less best momentum, both chosen on separate seeds."""
    sgd, momentum = (chosen(evidence, tuple(rates)) for rates in (SGD_RATES, MOMENTUM_RATES))
    return evidence.loss(sgd, seed) - evidence.loss(momentum, seed)


C18 = Claim(
    id="C18",
    where="G4",
    quote="Momentum optimization can lead to faster convergence",
    statement="SGD with momentum learns more than SGD without, in as many steps.",
    meaning=(
        "Rates a factor of two apart, those with momentum from a tenth of those without on, since momentum 0.9 makes "
        "steps ten times as long; no weight decay. True if the best rate with momentum ends at least 0.01 nats below "
        "the best without, both chosen on separate seeds and inside their ladders."
    ),
    tag="measurable",
    forecast="faster",
    expected="SUPPORTED",
    arms={**_SGD_ARMS, **_MOMENTUM_ARMS, CRAWLING: Arm({"optimizer": "sgd", "lr": Times(0.25), **_UNDECAYED})},
    measurements={MIDDLE_MOMENTUM: ("ngrams",)},
    gates=(
        trained(MIDDLE_MOMENTUM, "bigram"),
        inside(tuple(SGD_RATES), "rate of SGD"),
        loses(CRAWLING, MIDDLE_SGD),
        inside(tuple(MOMENTUM_RATES), "rate of momentum"),
    ),
    choosing=2,
    conditions=(Condition("best SGD's loss, less that of the best momentum", "nats", DELTA, _momentum_gains),),
    finding="Loss {sgd} nats with SGD at its best rate, {momentum} with momentum at its best.",
    numbers={"sgd": loss_of_chosen(tuple(SGD_RATES)), "momentum": loss_of_chosen(tuple(MOMENTUM_RATES))},
    series=(
        Series(
            "Loss by rate",
            "rate / (1 − momentum), multiple of the base rate",
            "loss, nats",
            {
                "SGD": tuple(SGD_RATES.items()),
                "momentum": tuple((name, 10 * factor) for name, factor in MOMENTUM_RATES.items()),
            },
            loss,
            log_x=True,
        ),
    ),
    tables=(ArmFigures("Loss and neurons", _NEURONS),),
)


def _better_than_momentum(arm: str) -> Effect:
    return lambda evidence, seed: (
        evidence.loss(chosen(evidence, tuple(MOMENTUM_RATES)), seed) - evidence.loss(arm, seed)
    )


C19 = Claim(
    id="C19",
    where="G5",
    quote="The Adam optimization algorithm can lead to faster convergence",
    statement="Adam and AdamW learn more than SGD with momentum, in as many steps.",
    meaning=(
        "Adam without weight decay and AdamW with it, at the base's rate, and SGD with momentum at its best, "
        "chosen on separate seeds. True if both end at least 0.01 nats below it. β2 at a high constant rate is shown "
        "beside, judged by nobody."
    ),
    tag="measurable",
    forecast="far faster; β2 of 0.999 kills more neurons",
    expected="SUPPORTED",
    arms={
        **_MOMENTUM_ARMS,
        "Adam": Arm({"optimizer": "adam", **_UNDECAYED}),
        "AdamW": Arm({"steps": HALF}),
        TOO_SLOW: Arm({**SLOW_RATE, "steps": HALF}),
        **{name: dose(2.5, steps=HALF, beta2=beta2) for name, beta2 in BETA2.items()},
    },
    measurements={"AdamW": ("ngrams",)},
    gates=(trained("AdamW"), inside(tuple(MOMENTUM_RATES), "rate of momentum"), loses(TOO_SLOW, "AdamW")),
    choosing=2,
    conditions=tuple(
        Condition(f"best momentum's loss, less that of {arm}", "nats", DELTA, _better_than_momentum(arm))
        for arm in ("Adam", "AdamW")
    ),
    finding="Loss {adam} nats with Adam, {adamw} with AdamW, {momentum} with momentum at its best rate.",
    numbers={"adam": loss_of("Adam"), "adamw": loss_of("AdamW"), "momentum": loss_of_chosen(tuple(MOMENTUM_RATES))},
    series=(
        Series(
            "Dead neurons by β2, at a high constant rate",
            "1 − β2",
            "dead, share",
            {"AdamW": tuple((name, 1 - beta2) for name, beta2 in BETA2.items())},
            health("dead_fraction"),
            log_x=True,
        ),
    ),
    tables=(ArmFigures("Loss and neurons", _NEURONS),),
)


C20 = Claim(
    id="C20",
    where="B9, B10, G2",
    quote="batch size is too small, it can lead to noisy updates",
    statement="Small batches make noisier updates, and large ones learn less from the same tokens.",
    meaning=(
        "Variance of the gradient between batches of 4 and of 64 windows, on the trained model. Then batches of a "
        "third, one and four times the base's windows, at the same rate, on as many tokens. True if the variance "
        "falls by half a decade and the largest batch ends at least 0.01 nats above the middle one."
    ),
    tag="measurable",
    forecast="noise in inverse proportion to the batch; large batches cost tokens",
    expected="SUPPORTED",
    arms={
        "relu": Arm(),
        **{
            name: Arm({"batch_size": Times(factor), "steps": Times(_TOKENS / factor)})
            for name, factor in {**BATCHES, HUGE: HUGE_FACTOR}.items()
        },
    },
    measurements={"relu": ("gradient_noise", "ngrams")},
    gates=(trained("relu"), trained("batch x1", text="relu"), loses(HUGE, "batch x1")),
    conditions=(
        Condition("fall of the noise", "decades", LEAST_NOISIER, figure("relu", "gradient_noise", "fall")),
        Condition("large batches: loss above the middle ones'", "nats", DELTA, worse("batch x4", "batch x1")),
    ),
    finding=(
        "From as many tokens, loss {small} nats with a third of the base's batch, {middle} with all of it, {large} "
        "with four times it; from 4 to 64 windows the gradient's variance falls by {fall} decades."
    ),
    numbers={
        **{name: loss_of(arm) for name, arm in zip(("small", "middle", "large"), BATCHES, strict=True)},
        "fall": ("decades", figure("relu", "gradient_noise", "fall")),
    },
    series=(Series("Loss by batch", "multiple of the base batch", "loss, nats", _by(BATCHES), loss, log_x=True),),
    tables=(
        ArmFigures("As many tokens in other batches", _NEURONS, tuple(BATCHES)),
        ArmFigures(
            "Gradient noise, log10 of the variance",
            {
                "4 windows": measured("gradient_noise", "4"),
                "64 windows": measured("gradient_noise", "64"),
                "squared length of the gradient": measured("gradient_noise", "signal"),
            },
            ("relu",),
        ),
    ),
)

C26 = Claim(
    id="C26",
    where="B1",
    quote="if the input data is not normalized, it can lead to slow",
    statement="A GPT whose layers read input that is not normalised learns less in as many steps.",
    meaning=(
        "With LayerNorm in front of attention, MLP and head, and without any normalisation, at the same rate. True if "
        "the model without ends at least 0.01 nats above."
    ),
    tag="measurable",
    forecast="LayerNorm absorbs the scale of whatever comes in; nothing is forecast of a model without it",
    expected=None,
    arms={"relu": Arm(), "without LayerNorm": Arm({"norm": "none"}), TOO_SLOW: Arm(SLOW_RATE)},
    measurements={"relu": ("ngrams",)},
    gates=(trained("relu"), loses(TOO_SLOW, "relu")),
    finding="Loss {with_it} nats with LayerNorm, {without} without.",
    numbers={"with_it": loss_of("relu"), "without": loss_of("without LayerNorm")},
    conditions=(Condition("loss without LayerNorm, less with it", "nats", DELTA, worse("without LayerNorm", "relu")),),
    tables=(ArmFigures("Loss and neurons", _NEURONS),),
)

CLAIMS: tuple[Claim, ...] = (C17, C18, C19, C20, C26)
