"""A claim about how easily a model can be interpreted, by a proxy (C33)."""

from __future__ import annotations

from minigpt.claims.claim import ArmFigures, Claim, Condition
from minigpt.claims.effects import activation, beyond, figure, loss, measured
from minigpt.claims.gates import control, trained
from minigpt.experiments.arms import Arm

OTHERS = ("gelu", "swiglu")
LEAST_MORE = 0.05
LEAST_JUDGED = 0.5  # of all neurons open often enough to be judged

_detectors = measured("token_detectors", "detector_share")


C33 = Claim(
    id="C33",
    where="D4, W1",
    quote="can be difficult to interpret",
    statement="Fewer neurons of a GPT are detectors of a few characters with GELU and SwiGLU than with ReLU.",
    meaning=(
        "A proxy: of the neurons that open often enough to be judged, the share of which 95 % of the places where "
        "their input is positive have one of five characters. True if ReLU's share is 5 percentage points larger than "
        "that of GELU and of SwiGLU. What people find hard to interpret is not a figure that a program can take, and "
        "the article, which says it of all neural networks, compares no activations."
    ),
    tag="proxy",
    forecast="ReLU has more neurons that detect single tokens",
    arms={"relu": Arm(), **{spec: activation(spec) for spec in OTHERS}},
    measurements={"relu": ("token_detectors", "ngrams"), **dict.fromkeys(OTHERS, ("token_detectors",))},
    conditions=tuple(
        Condition(f"share of detectors, more than with {spec}", "share", LEAST_MORE, beyond(_detectors, "relu", spec))
        for spec in OTHERS
    ),
    gates=(
        trained("relu"),
        *(trained(spec, text="relu") for spec in OTHERS),
        control(
            "neurons of ReLU that open often enough to be judged",
            "share",
            LEAST_JUDGED,
            figure("relu", "token_detectors", "judged_share"),
        ),
    ),
    finding=(
        "Of the neurons that open often enough to be judged, {relu} of ReLU's detect a few characters, {gelu} of "
        "GELU's, {swiglu} of SwiGLU's."
    ),
    numbers={spec: ("share", figure(spec, "token_detectors", "detector_share")) for spec in ("relu", *OTHERS)},
    tables=(
        ArmFigures(
            "Detectors",
            {"detector share": _detectors, "judged share": measured("token_detectors", "judged_share"), "loss": loss},
        ),
    ),
)

CLAIMS = (C33,)
