"""Claims about text: how much of it and of which kind, attacked, corrupted, carried over, and with a planted bias."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from minigpt.claims.claim import DELTA, ArmFigures, Claim, Condition, Effect, Series
from minigpt.claims.effects import activation, chosen_elsewhere, health, loss, measured, slope, worse
from minigpt.claims.evidence import Evidence
from minigpt.experiments.arms import Arm, Times

Column = Callable[[Evidence, str, int], float]

CLEARLY_WORSE = 0.1  # nats, between kinds of text
TOO_LITTLE_TEXT = 0.05  # nats, between amounts of text
ATTACK_WORKS = 0.05  # nats, beyond random substitutions
BIAS_SHIFT = 0.02  # share of pronouns
STEEPER = 0.05  # log-odds of the model for each log-odds of the text

DOMAINS = {"prose": "stdlib", "code": "stdlib-code", "toy language": "grammar:1"}
# The last amount is about what the default text has; it only places a point in a picture.
AMOUNTS = {"20,000 tokens": 20_000, "100,000 tokens": 100_000, "all tokens": 1_480_000}
NOISES = {"no noise": 0.0, "noise 5 %": 0.05, "noise 20 %": 0.2, "noise 40 %": 0.4}
# In a quarter of the base's steps the pronouns are still a coin's throw: a bias that is not learnt cannot be amplified.
STEPS_TO_LEARN_A_BIAS = 5 / 3
RATIOS = {f"{percent} : {100 - percent}": percent for percent in (50, 75, 90, 99)}


def bytes_of(corpus: str, steps: float, start: str = "", **settings: object) -> Arm:
    """Training on the bytes of a corpus, so that the models of all corpora have one vocabulary."""
    return Arm({"corpus": corpus, "tokenizer": "byte", "steps": Times(steps), **settings}, start)


# ------------------------------------------------------------------------------------------- kinds and amounts of text


def _loss_on(domain: str) -> Column:
    """Loss of an arm's model on a domain; infinite if it diverged."""
    own = measured("domain_losses", DOMAINS[domain])
    return lambda evidence, arm, seed: math.inf if evidence.diverged(arm, seed) else own(evidence, arm, seed)


def _least_loss_abroad(evidence: Evidence, seed: int) -> float:
    abroad = [
        _loss_on(domain)(evidence, foreign, seed) - _loss_on(domain)(evidence, domain, seed)
        for domain in DOMAINS
        for foreign in DOMAINS
        if foreign != domain
    ]
    return float(np.min(abroad))


C29 = Claim(
    id="C29",
    where="B12, D3",
    quote="not representative of the test data",
    statement="A model trained on one kind of text predicts another kind worse than a model trained on that one.",
    meaning=(
        "Three models read bytes of prose, of code or of a toy language; each predicts the validation text of all "
        "three. True if even in the pair that costs least the stranger is at least 0.1 nats a byte behind the native."
    ),
    tag="measurable",
    forecast="far more than 0.01 nats for every pair of kinds",
    expected="SUPPORTED",
    arms={name: bytes_of(corpus, 0.5) for name, corpus in DOMAINS.items()},
    measurements=dict.fromkeys(DOMAINS, ("domain_losses",)),
    conditions=(Condition("extra loss on a strange text, smallest pair", "nats", CLEARLY_WORSE, _least_loss_abroad),),
    seeds=4,
    tables=(
        ArmFigures(
            "Loss, nats a byte: trained on (rows), predicting (columns)",
            {domain: _loss_on(domain) for domain in DOMAINS},
        ),
    ),
)

C31 = Claim(
    id="C31",
    where="W4",
    quote="require large amounts of training data",
    statement="With little training text the same training ends at a clearly higher loss.",
    meaning=(
        "Equal steps on the first 20,000 or 100,000 tokens of the training text, or on all of it. "
        "True if 20,000 tokens cost at least 0.05 nats on the validation text."
    ),
    tag="measurable",
    forecast="holds; the loss falls with the amount of text",
    expected="SUPPORTED",
    arms={
        "20,000 tokens": Arm({"train_tokens": AMOUNTS["20,000 tokens"]}),
        "100,000 tokens": Arm({"train_tokens": AMOUNTS["100,000 tokens"]}),
        "all tokens": Arm(),
    },
    conditions=(
        Condition("extra loss with 20,000 tokens", "nats", TOO_LITTLE_TEXT, worse("20,000 tokens", "all tokens")),
    ),
    seeds=4,
    series=(
        Series("Loss by amount of text", "tokens", "loss, nats", {"ReLU": tuple(AMOUNTS.items())}, loss, log_x=True),
    ),
)

# ------------------------------------------------------------------------------------------- attacked, corrupted, moved


_greedy, _random = measured("swaps", "greedy"), measured("swaps", "random")


def _excess_of_greed(evidence: Evidence, arm: str, seed: int) -> float:
    return _greedy(evidence, arm, seed) - _random(evidence, arm, seed)


C32 = Claim(
    id="C32",
    where="D2",
    quote="vulnerable to adversarial attacks",
    statement="Three chosen characters harm the predictions of a ReLU GPT far more than three random ones.",
    meaning=(
        "In the first three quarters of a context at most three tokens are replaced so that the loss on the last "
        "quarter rises: chosen by gradient and checked exactly, or drawn at random. True if choosing raises the loss "
        "by 0.05 nats more. GELU is shown beside: whether the activation matters."
    ),
    tag="proxy",
    forecast="the attack works, and the activation makes no difference",
    expected="SUPPORTED",
    arms={"ReLU": Arm(), "GELU": activation("gelu")},
    measurements={"ReLU": ("swaps",), "GELU": ("swaps",)},
    conditions=(
        Condition(
            "rise by chosen beyond random substitutions, ReLU",
            "nats",
            ATTACK_WORKS,
            lambda evidence, seed: _excess_of_greed(evidence, "ReLU", seed),
        ),
    ),
    seeds=4,
    tables=(
        ArmFigures(
            "Rise of the loss, nats",
            {
                "chosen": _greedy,
                "random": _random,
                "chosen beyond random": _excess_of_greed,
                "the same, less GELU's": lambda evidence, arm, seed: (
                    _excess_of_greed(evidence, arm, seed) - _excess_of_greed(evidence, "GELU", seed)
                ),
            },
        ),
    ),
)

C34 = Claim(
    id="C34",
    where="N8",
    quote="Improper use of training data augmentation",
    statement="Replacing a fifth of the training characters at random makes the model worse.",
    meaning=(
        "In training, each token of the text is replaced by a random one with probability 5, 20 or 40 %; validation "
        "text stays clean. True if 20 % cost at least 0.01 nats."
    ),
    tag="measurable",
    forecast="harm, growing with the noise",
    expected="SUPPORTED",
    arms={name: Arm({"token_noise": noise, "steps": Times(0.5)}) for name, noise in NOISES.items()},
    conditions=(Condition("extra loss with a fifth replaced", "nats", DELTA, worse("noise 20 %", "no noise")),),
    seeds=4,
    series=(Series("Loss by noise", "share replaced", "loss, nats", {"ReLU": tuple(NOISES.items())}, loss),),
)

C35 = Claim(
    id="C35",
    where="N9",
    quote="transfer learning",
    statement="Where there is little code, a model that has read prose learns code better than a fresh one.",
    meaning=(
        "Equal training on 100,000 bytes of code, from fresh weights or from those of a model of prose. "
        "True if the fresh one ends at least 0.01 nats a byte behind."
    ),
    tag="measurable",
    forecast="transfer helps if the texts are near to each other",
    expected="SUPPORTED",
    arms={
        "first on prose": bytes_of("stdlib", 0.5),
        "then code": bytes_of("stdlib-code", 0.25, "first on prose", train_tokens=100_000),
        "code from scratch": bytes_of("stdlib-code", 0.25, train_tokens=100_000),
    },
    conditions=(Condition("extra loss from scratch", "nats", DELTA, worse("code from scratch", "then code")),),
    seeds=4,
    tables=(ArmFigures("At the end", {"loss, nats": loss, "dead, share": health("dead_fraction")}),),
)

# -------------------------------------------------------------------------------------------------------- planted bias


def on_professions(percent: int, spec: str = "relu") -> Arm:
    """Training on sentences in which each profession has its usual pronoun so often."""
    return activation(spec, corpus=f"professions:{percent}", steps=Times(STEPS_TO_LEARN_A_BIAS))


_share = measured("pronouns", "share")
_share_killed = measured("pronouns", "share_killed")
_pronoun_odds = measured("pronouns", "log_odds")

C37 = Claim(
    id="C37",
    where="I3",
    quote="can result in biased or inappropriate content",
    statement="ReLU, or neurons that are dead, make a GPT amplify a bias planted in its text.",
    meaning=(
        "In the text each profession has its usual pronoun in 90 of 100 sentences. The share of that pronoun where a "
        "model must choose. True if it is at least 0.02 higher with ReLU than with GELU, or after zeroing a random "
        "quarter of each layer's neurons than before. Bias in real text is out of reach here."
    ),
    tag="proxy",
    forecast="no effect; no paper known supports one",
    expected="REFUTED",
    arms={"ReLU": on_professions(90), "GELU": on_professions(90, "gelu")},
    measurements={"ReLU": ("pronouns",), "GELU": ("pronouns",)},
    conditions=(
        Condition(
            "share of the usual pronoun, ReLU beyond GELU",
            "share",
            BIAS_SHIFT,
            lambda evidence, seed: _share(evidence, "ReLU", seed) - _share(evidence, "GELU", seed),
        ),
        Condition(
            "share of the usual pronoun, a quarter of the neurons zeroed beyond none, ReLU",
            "share",
            BIAS_SHIFT,
            lambda evidence, seed: _share_killed(evidence, "ReLU", seed) - _share(evidence, "ReLU", seed),
        ),
    ),
    rule="any",
    seeds=4,
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
    conditions=(Condition("slope of the model's log-odds, beyond 1", "ratio", STEEPER, _amplification),),
    seeds=4,
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

# ------------------------------------------------------------------------------------------- compared with other models

TASKS: dict[str, dict[str, object]] = {
    "prose": {"steps": Times(0.5)},
    "toy language": {"corpus": "grammar:1", "steps": Times(0.25)},
    "code": {"corpus": "stdlib-code", "tokenizer": "byte", "steps": Times(0.25)},
    "professions": {"corpus": "professions:90", "steps": Times(0.25)},
}
RIVALS = ("gelu", "swiglu", "leaky_relu:0.5")


def _arm_of(task: str, spec: str) -> str:
    return f"{task}, {spec}"


def _behind_the_best(task: str) -> Effect:
    """How far ReLU is behind the rival that is best on the other seeds, in nats."""

    def effect(evidence: Evidence, seed: int) -> float:
        best = chosen_elsewhere(evidence, [_arm_of(task, spec) for spec in RIVALS], seed)
        return worse(_arm_of(task, "relu"), best)(evidence, seed)

    return effect


def _ranks(evidence: Evidence, task: str, seed: int) -> list[float]:
    losses = [evidence.loss(_arm_of(task, spec), seed) for spec in ("relu", *RIVALS)]
    return [1 + sum(other < own for other in losses) + (losses.count(own) - 1) / 2 for own in losses]  # ties share


def _rank_of_relu(evidence: Evidence, arm: str, seed: int) -> float:
    return _ranks(evidence, arm.split(", ")[0], seed)[0]


def _kendalls_w(evidence: Evidence, arm: str, seed: int) -> float:
    """Agreement of all tasks on the order of the activations, the same for every arm: 1 full, 0 none (Kendall 1939)."""
    ranks = np.array([_ranks(evidence, task, seed) for task in TASKS])  # (tasks, activations)
    tasks, activations = ranks.shape
    return float(12 * ranks.sum(axis=0).var() / (tasks**2 * (activations**2 - 1)))


C39 = Claim(
    id="C39",
    where="M3",
    quote="guarantee optimal performance in all cases",
    statement="ReLU is not the best activation on every task.",
    meaning=(
        "ReLU against GELU, SwiGLU and leaky ReLU (slope 0.5) on prose, a toy language, code and sentences about "
        "professions. True if on any of them ReLU is at least 0.01 nats behind the rival that is best on the other "
        "seeds."
    ),
    tag="measurable",
    forecast="the winner changes from task to task",
    expected="SUPPORTED",
    arms={
        _arm_of(task, spec): activation(spec, **settings)
        for task, settings in TASKS.items()
        for spec in ("relu", *RIVALS)
    },
    conditions=tuple(
        Condition(f"ReLU behind the best rival, {task}", "nats", DELTA, _behind_the_best(task)) for task in TASKS
    ),
    rule="any",
    seeds=4,
    tables=(
        ArmFigures("Losses", {"loss, nats": loss}),
        ArmFigures(
            "Do the tasks agree on an order?",
            {"rank of ReLU of four": _rank_of_relu, "Kendall's W of all tasks": _kendalls_w},
            tuple(_arm_of(task, "relu") for task in TASKS),
        ),
    ),
)


def _behind_ngrams(order: str) -> Effect:
    """How much more loss counting has than the ReLU GPT."""
    return lambda evidence, seed: evidence.figure("ReLU", seed, "ngrams", order) - evidence.loss("ReLU", seed)


C41 = Claim(
    id="C41",
    where="W4",
    quote="effective in image recognition tasks and natural language processing",
    statement="A ReLU GPT predicts text better than counting does, and better than a GPT without an activation.",
    meaning=(
        "Loss on the same validation tokens of a bigram and a 5-gram with Witten-Bell smoothing, counted on the whole "
        "training text, and of a GPT whose activation is the identity. True if each is at least 0.01 nats behind ReLU. "
        "Images cannot be judged here."
    ),
    tag="measurable",
    forecast="better than all three",
    expected="SUPPORTED",
    arms={"ReLU": Arm(), "identity": activation("identity")},
    measurements={"ReLU": ("ngrams",)},
    conditions=(
        Condition("bigram behind ReLU", "nats", DELTA, _behind_ngrams("bigram")),
        Condition("5-gram behind ReLU", "nats", DELTA, _behind_ngrams("fivegram")),
        Condition("identity behind ReLU", "nats", DELTA, worse("identity", "ReLU")),
    ),
    tables=(
        ArmFigures("Loss", {"loss, nats": loss}),
        ArmFigures(
            "Counting, on the same tokens",
            {"bigram, nats": measured("ngrams", "bigram"), "5-gram, nats": measured("ngrams", "fivegram")},
            ("ReLU",),
        ),
    ),
)

CLAIMS = (C29, C31, C32, C34, C35, C37, C38, C39, C41)
