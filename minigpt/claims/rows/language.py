"""Claims about text: how much of it and of which kind, attacked, corrupted and carried over (C29 to C35, C39, C41)."""

from __future__ import annotations

import math

import numpy as np

from minigpt.claims.claim import DELTA, ArmFigures, Claim, Column, Condition, Effect, Series
from minigpt.claims.effects import (
    activation,
    beyond,
    chosen,
    figure,
    health,
    loss,
    loss_of,
    measured,
    worse,
)
from minigpt.claims.evidence import Evidence
from minigpt.claims.gates import ORDERS, control, loses, trained
from minigpt.experiments.arms import Arm, Times

CLEARLY_WORSE = 0.1  # nats, between kinds of text
TOO_LITTLE_TEXT = 0.05  # nats, between amounts of text
ATTACK_WORKS = 0.05  # nats, beyond random substitutions

DOMAINS = {"prose": "stdlib", "code": "stdlib-code", "toy language": "grammar:1"}
# The last amount is about what the default text has; it only places a point in a picture.
TINY_TEXT, TINY_TOKENS = "2,000 tokens", 2_000
AMOUNTS = {"20,000 tokens": 20_000, "100,000 tokens": 100_000, "all tokens": 1_480_000}
BLURRED = "blurred prose"
NOISES = {"no noise": 0.0, "noise 5 %": 0.05, "noise 20 %": 0.2, "noise 40 %": 0.4}


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
        beyond(_loss_on(domain), foreign, domain)(evidence, seed)
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
    arms={
        **{name: bytes_of(corpus, 0.5) for name, corpus in DOMAINS.items()},
        BLURRED: bytes_of("stdlib", 0.5, token_noise=0.8),
    },
    measurements={**dict.fromkeys(DOMAINS, ("domain_losses", "ngrams")), BLURRED: ("domain_losses",)},
    gates=(
        *(trained(name) for name in DOMAINS),
        control(
            "prose of which four fifths are random bytes, a strange text: extra loss on prose",
            "nats",
            CLEARLY_WORSE,
            beyond(_loss_on("prose"), BLURRED, "prose"),
        ),
    ),
    conditions=(Condition("extra loss on a strange text, smallest pair", "nats", CLEARLY_WORSE, _least_loss_abroad),),
    finding="The least that a model of one kind of text is behind the native on another is {least} nats a byte.",
    numbers={"least": ("nats", _least_loss_abroad)},
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
        TINY_TEXT: Arm({"train_tokens": TINY_TOKENS}),
    },
    measurements={"all tokens": ("ngrams",)},
    gates=(trained("all tokens"), loses(TINY_TEXT, "all tokens", TOO_LITTLE_TEXT)),
    conditions=(
        Condition("extra loss with 20,000 tokens", "nats", TOO_LITTLE_TEXT, worse("20,000 tokens", "all tokens")),
    ),
    finding="Loss {whole} nats with all the text, {some} with 100,000 tokens of it, {little} with 20,000.",
    numbers={
        "whole": loss_of("all tokens"),
        "some": loss_of("100,000 tokens"),
        "little": loss_of("20,000 tokens"),
    },
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
        "by 0.05 nats more. GELU is shown beside; that it does not matter is not claimed."
    ),
    tag="proxy",
    forecast="the attack works, and the activation makes no difference",
    expected="SUPPORTED",
    arms={"ReLU": Arm(), "GELU": activation("gelu")},
    measurements={"ReLU": ("swaps", "ngrams"), "GELU": ("swaps",)},
    gates=(
        trained("ReLU"),
        control(
            "random substitutions, which take information away: rise of the loss",
            "nats",
            0.0,
            lambda evidence, seed: _random(evidence, "ReLU", seed),
        ),
    ),
    conditions=(
        Condition(
            "rise by chosen beyond random substitutions, ReLU",
            "nats",
            ATTACK_WORKS,
            lambda evidence, seed: _excess_of_greed(evidence, "ReLU", seed),
        ),
    ),
    finding=(
        "Three chosen characters raise the loss by {chosen} nats with ReLU and {gelu} with GELU, three random ones by "
        "{random} and {gelu_random}."
    ),
    numbers={
        "chosen": ("nats", figure("ReLU", "swaps", "greedy")),
        "random": ("nats", figure("ReLU", "swaps", "random")),
        "gelu": ("nats", figure("GELU", "swaps", "greedy")),
        "gelu_random": ("nats", figure("GELU", "swaps", "random")),
    },
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
    measurements={"no noise": ("ngrams",)},
    gates=(trained("no noise"), loses("noise 40 %", "no noise")),
    finding="Loss {clean} nats without noise, {noisy} with a fifth of the characters replaced.",
    numbers={"clean": loss_of("no noise"), "noisy": loss_of("noise 20 %")},
    conditions=(Condition("extra loss with a fifth replaced", "nats", DELTA, worse("noise 20 %", "no noise")),),
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
        "then code": bytes_of("stdlib-code", 0.5, "first on prose", train_tokens=100_000),
        "code from scratch": bytes_of("stdlib-code", 0.5, train_tokens=100_000),
    },
    measurements={"first on prose": ("ngrams",), "code from scratch": ("ngrams",)},
    gates=(trained("first on prose"), trained("code from scratch", "bigram")),
    finding="Loss on code {moved} nats a byte after prose, {scratch} from scratch.",
    numbers={"moved": loss_of("then code"), "scratch": loss_of("code from scratch")},
    conditions=(Condition("extra loss from scratch", "nats", DELTA, worse("code from scratch", "then code")),),
    tables=(ArmFigures("At the end", {"loss, nats": loss, "dead, share": health("dead_fraction")}),),
)

# ------------------------------------------------------------------------------------------- compared with other models

TASKS: dict[str, dict[str, object]] = {
    "prose": {"steps": Times(0.5)},
    "toy language": {"corpus": "grammar:1", "steps": Times(0.5)},
    "code": {"corpus": "stdlib-code", "tokenizer": "byte", "steps": Times(0.5)},
    "professions": {"corpus": "professions:90", "steps": Times(0.5)},
}
RIVALS = ("gelu", "swiglu", "leaky_relu:0.5")


def _arm_of(task: str, spec: str) -> str:
    return f"{task}, {spec}"


_LINEAR = _arm_of("prose", "identity")


def _behind_the_best(task: str) -> Effect:
    """How far ReLU is behind the rival that is best on separate seeds, in nats."""

    def effect(evidence: Evidence, seed: int) -> float:
        best = chosen(evidence, [_arm_of(task, spec) for spec in RIVALS])
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
        "professions. True if on any of them ReLU is at least 0.01 nats behind the rival that is best on separate "
        "seeds."
    ),
    tag="measurable",
    forecast="the winner changes from task to task",
    expected="SUPPORTED",
    arms={
        _arm_of(task, spec): activation(spec, **settings)
        for task, settings in TASKS.items()
        for spec in ("relu", *RIVALS)
    }
    | {_LINEAR: activation("identity", **TASKS["prose"])},
    measurements={_arm_of(task, "relu"): ("ngrams",) for task in TASKS},
    gates=(*(trained(_arm_of(task, "relu")) for task in TASKS), loses(_LINEAR, _arm_of("prose", "relu"))),
    choosing=2,
    conditions=tuple(
        Condition(f"ReLU behind the best rival, {task}", "nats", DELTA, _behind_the_best(task)) for task in TASKS
    ),
    rule="any",
    finding=(
        "ReLU is behind the best of three rivals by {prose} nats on prose, {toy} on a toy language, {code} on code, "
        "{professions} on professions."
    ),
    numbers={task.split()[0]: ("nats", _behind_the_best(task)) for task in TASKS},
    tables=(
        ArmFigures("Losses", {"loss, nats": loss}),
        ArmFigures(
            "Do the tasks agree on an order?",
            {"rank of ReLU of four": _rank_of_relu, "Kendall's W of all tasks": _kendalls_w},
            tuple(_arm_of(task, "relu") for task in TASKS),
        ),
    ),
)


UNFINISHED = "a quarter of the steps"  # the base itself, which other rows train too


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
        "training text, and of a GPT whose activation is the identity; both GPTs train four times the base's steps. "
        "True if each is at least 0.01 nats behind ReLU. The article says nothing of n-grams; they are the least that "
        "“effective” can mean. Images cannot be judged here."
    ),
    tag="measurable",
    forecast="better than all three",
    expected="SUPPORTED",
    arms={
        "ReLU": Arm({"steps": Times(4)}),
        "identity": activation("identity", steps=Times(4)),
        UNFINISHED: Arm(),
    },
    measurements={"ReLU": ("ngrams",)},
    gates=(
        trained("ReLU"),
        control(
            "a 5-gram, known to be better than a bigram: its loss below",
            "nats",
            DELTA,
            lambda evidence, seed: (
                evidence.figure("ReLU", seed, "ngrams", "bigram") - evidence.figure("ReLU", seed, "ngrams", "fivegram")
            ),
        ),
        loses(UNFINISHED, "ReLU"),
    ),
    finding=(
        "Loss {relu} nats of a ReLU GPT of four layers, {identity} without activation; {bigram} of a bigram and "
        "{fivegram} of a 5-gram."
    ),
    numbers={
        "relu": loss_of("ReLU"),
        "identity": loss_of("identity"),
        "bigram": ("nats", figure("ReLU", "ngrams", "bigram")),
        "fivegram": ("nats", figure("ReLU", "ngrams", "fivegram")),
    },
    conditions=(
        Condition("bigram behind ReLU", "nats", DELTA, _behind_ngrams("bigram")),
        Condition("5-gram behind ReLU", "nats", DELTA, _behind_ngrams("fivegram")),
        Condition("identity behind ReLU", "nats", DELTA, worse("identity", "ReLU")),
    ),
    tables=(
        ArmFigures("Loss", {"loss, nats": loss}),
        ArmFigures(
            "Counting, on the same tokens",
            {f"{shown}, nats": measured("ngrams", order) for order, shown in ORDERS.items()},
            ("ReLU",),
        ),
    ),
)

CLAIMS = (C29, C31, C32, C34, C35, C39, C41)
