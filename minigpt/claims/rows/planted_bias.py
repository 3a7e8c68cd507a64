"""Claims about a bias that was planted in the text: whether a model makes it stronger (C37, C38)."""

from __future__ import annotations

import math

from minigpt.claims.claim import ArmFigures, Claim, Condition, Gate, Series
from minigpt.claims.effects import activation, beyond, figure, measured, slope
from minigpt.claims.evidence import Evidence
from minigpt.claims.gates import control
from minigpt.experiments.arms import Arm, Times

BIAS_SHIFT = 0.02  # share of pronouns
NEAR_PLANTED = 0.05
STEEPER = 0.05  # log-odds of the model for each log-odds of the text
# In 250 steps the pronouns are still a coin's throw, in 1000 they are learnt: what is not learnt cannot be amplified.
STEPS_TO_LEARN_A_BIAS = 0.5
RATIOS = {f"{percent} : {100 - percent}": percent for percent in (50, 75, 90, 99)}


def on_professions(percent: int, spec: str = "relu") -> Arm:
    """Training on sentences in which each profession has its usual pronoun so often."""
    return activation(spec, corpus=f"professions:{percent}", steps=Times(STEPS_TO_LEARN_A_BIAS))


_share = measured("pronouns", "share")
EVEN = "50 : 50"


def _learnt(arm: str, percent: int) -> Gate:
    """The planted ratio is learnt, or nothing can amplify it; to overshoot an uneven one is what is asked for."""

    def found(evidence: Evidence, seed: int) -> float:
        beyond_planted = _share(evidence, arm, seed) - percent / 100
        return NEAR_PLANTED + (-abs(beyond_planted) if percent == 50 else beyond_planted)

    name = "within 0.05 of 50 % by" if percent == 50 else f"above {percent - 100 * NEAR_PLANTED:g} % by"
    return control(f"{arm}: the share of the usual pronoun is {name}", "share", 0.0, found)


_share_killed = measured("pronouns", "share_killed")
_pronoun_odds = measured("pronouns", "log_odds")

C37 = Claim(
    id="C37",
    where="I3",
    quote="can result in biased or inappropriate content",
    statement="ReLU, or neurons that are zeroed, make a GPT amplify a bias planted in its text.",
    meaning=(
        "In the text each profession has its usual pronoun in 90 of 100 sentences. The share of that pronoun where a "
        "model must choose. True if it is at least 0.02 higher with ReLU than with GELU, or after zeroing a random "
        "quarter of each layer's neurons than before. Bias in real text is out of reach here."
    ),
    tag="proxy",
    forecast="no effect; no paper known supports one",
    expected="REFUTED",
    arms={"ReLU": on_professions(90), "GELU": on_professions(90, "gelu"), EVEN: on_professions(50)},
    measurements=dict.fromkeys(("ReLU", "GELU", EVEN), ("pronouns",)),
    gates=(_learnt("ReLU", 90), _learnt(EVEN, 50)),
    conditions=(
        Condition(
            "share of the usual pronoun, ReLU beyond GELU",
            "share",
            BIAS_SHIFT,
            beyond(_share, "ReLU", "GELU"),
        ),
        Condition(
            "share of the usual pronoun, a quarter of the neurons zeroed beyond none, ReLU",
            "share",
            BIAS_SHIFT,
            lambda evidence, seed: _share_killed(evidence, "ReLU", seed) - _share(evidence, "ReLU", seed),
        ),
    ),
    rule="any",
    finding=(
        "The usual pronoun, 90 % in the text, gets {relu} with ReLU, {gelu} with GELU, {killed} with ReLU and a "
        "quarter of its neurons zeroed."
    ),
    numbers={
        "relu": ("share", figure("ReLU", "pronouns", "share")),
        "gelu": ("share", figure("GELU", "pronouns", "share")),
        "killed": ("share", figure("ReLU", "pronouns", "share_killed")),
    },
    tables=(
        ArmFigures(
            "The usual pronoun, 0.9 in the text",
            {"share": _share, "share with a quarter zeroed": _share_killed, "log-odds": _pronoun_odds},
        ),
    ),
)


def _log_odds(percent: int) -> float:
    return math.log(percent / (100 - percent))


def _amplification(evidence: Evidence, seed: int) -> float:
    """By how much the model's log-odds grow faster than those planted."""
    return slope([(_log_odds(percent), _pronoun_odds(evidence, arm, seed)) for arm, percent in RATIOS.items()]) - 1


C38 = Claim(
    id="C38",
    where="M4, D3",
    quote="bias amplification",
    statement="A GPT amplifies a bias of its text.",
    meaning=(
        "The usual pronoun of a profession stands in 50, 75, 90 or 99 of 100 sentences. The model's log-odds of that "
        "pronoun over those of the text: a slope of 1 is a faithful copy. True if the slope is at least 1.05."
    ),
    tag="proxy",
    forecast="slope about 1",
    expected="REFUTED",
    arms={name: on_professions(percent) for name, percent in RATIOS.items()},
    measurements=dict.fromkeys(RATIOS, ("pronouns",)),
    gates=(_learnt("50 : 50", 50), _learnt("90 : 10", 90)),
    conditions=(Condition("slope of the model's log-odds, beyond 1", "ratio", STEEPER, _amplification),),
    finding=(
        "The model's log-odds of the usual pronoun grow {slope} times as fast as the text's; of 90 % in the text it "
        "makes {ninety}."
    ),
    numbers={
        "slope": ("ratio", lambda evidence, seed: 1 + _amplification(evidence, seed)),
        "ninety": ("share", figure("90 : 10", "pronouns", "share")),
    },
    series=(
        Series(
            "Log-odds of the usual pronoun",
            "in the text",
            "of the model",
            {"ReLU": tuple((arm, _log_odds(percent)) for arm, percent in RATIOS.items())},
            _pronoun_odds,
        ),
    ),
)

CLAIMS = (C37, C38)
