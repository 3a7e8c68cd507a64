"""Claims that get no verdict: a small GPT cannot measure them, or nobody has built what would. Each says why."""

from __future__ import annotations

from minigpt.claims.claim import Claim

C30 = Claim(
    id="C30",
    where="B13",
    quote="can lead to overfitting or underfitting of the model",
    statement="An unrepresentative test text makes the model overfit or underfit.",
    meaning=(
        "The article says this of the text that a model is tested on. A test text that is not representative gives a "
        "wrong estimate; the weights are the same whatever it says."
    ),
    tag="not measurable",
    forecast="false by construction: a category error",
    expected="REFUTED",
    obstacle="a category error: no model is ever fitted to the test part, so it cannot cause a fit, good or bad",
)

C40 = Claim(
    id="C40",
    where="A5",
    quote="time-consuming and computationally expensive",
    statement="Finding out which activation is best takes much computing time.",
    meaning="Core-seconds of the trainings and measurements that a verdict rests on.",
    tag="measurable",
    forecast="stated, not judged",
    obstacle="nothing to judge: how much is much is for the reader; the ledger states the cost of every verdict",
)

C42 = Claim(
    id="C42",
    where="I4, D1, D2",
    quote="reputational damage and legal liability",
    statement="Using a GPT harms people and organisations; deepfakes, misinformation and ethical concerns included.",
    meaning="Nothing that happens inside a model or to its loss would decide this.",
    tag="not measurable",
    forecast="none",
    obstacle="about people, law and organisations, of which a training of a small GPT shows nothing",
)

C43 = Claim(
    id="C43",
    where="A3, N4–N6",
    quote="useful for binary classification problems",
    statement="Sigmoid and tanh, convolutions, recurrent networks, autoencoders and chosen features suit their tasks.",
    meaning="The tasks are classification, images and reconstruction; a GPT does none of them.",
    tag="not measurable",
    forecast="none",
    obstacle="not about a model that predicts the next token: other networks and other tasks would have to be built",
)

CLAIMS = (C30, C40, C42, C43)
