"""A claim about what a training minimises (C28)."""

from __future__ import annotations

from minigpt.claims.claim import DELTA, ArmFigures, Claim, Condition
from minigpt.claims.effects import beyond, figure, loss, measured
from minigpt.claims.gates import control, trained
from minigpt.experiments.arms import Arm

CROSS_ENTROPY, OTHERS = "cross-entropy", ("squared-error", "binary")
LEAST_GUESSES = 0.3  # of tokens: the commonest character alone is a sixth of a text

_calibrated = measured("calibrated", "calibrated_loss")


C28 = Claim(
    id="C28",
    where="G1, B2, B8",
    quote="Choosing an inappropriate cost function",
    statement="Training on another cost than cross-entropy makes a GPT predict text worse.",
    meaning=(
        "Cross-entropy, the squared error of all probabilities, and a yes-or-no question for each token as what is "
        "minimised, at the same rate. Each model's temperature is fitted on one half of the validation windows and its "
        "loss taken on the other. True if both others end at least 0.01 nats above cross-entropy."
    ),
    tag="measurable",
    forecast="cross-entropy is best",
    expected="SUPPORTED",
    arms={CROSS_ENTROPY: Arm(), **{cost: Arm({"cost": cost}) for cost in OTHERS}},
    measurements={CROSS_ENTROPY: ("calibrated", "ngrams"), **dict.fromkeys(OTHERS, ("calibrated",))},
    conditions=tuple(
        Condition(
            f"{cost}: calibrated loss above that of cross-entropy",
            "nats",
            DELTA,
            beyond(_calibrated, cost, CROSS_ENTROPY),
        )
        for cost in OTHERS
    ),
    gates=(
        trained(CROSS_ENTROPY),
        *(
            control(f"{cost}: share of right guesses", "share", LEAST_GUESSES, figure(cost, "calibrated", "top1"))
            for cost in OTHERS
        ),
    ),
    finding=(
        "Calibrated loss {cross} nats after training on cross-entropy, {squared} on the squared error, {binary} on "
        "yes-or-no questions."
    ),
    numbers={
        "cross": ("nats", figure(CROSS_ENTROPY, "calibrated", "calibrated_loss")),
        "squared": ("nats", figure("squared-error", "calibrated", "calibrated_loss")),
        "binary": ("nats", figure("binary", "calibrated", "calibrated_loss")),
    },
    tables=(
        ArmFigures(
            "Losses, and right guesses",
            {
                "loss": loss,
                "calibrated": _calibrated,
                "temperature": measured("calibrated", "temperature"),
                "right guesses, share": measured("calibrated", "top1"),
            },
        ),
    ),
)

CLAIMS = (C28,)
