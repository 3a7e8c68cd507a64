"""The three sentences on a neuron agree with its figures and with the log."""

from __future__ import annotations

from typing import Any

import pytest
from neuron_files import life_events

from minigpt.report.anatomy_words import lives, sentences

TRAIN = {"kind": "train", "step": 1, "trapped": []}
LIVES = lives([TRAIN, *life_events(1, 12)])


def neuron(number: int = 3, verdict: str = "dead", max_z: float = -0.4, bias: float | None = -0.3) -> dict[str, Any]:
    return {"neuron": number, "verdict": verdict, "max_z": max_z, "bias": bias}


def test_a_dead_neuron_is_explained() -> None:
    """Its z, its bias, and its death; one that came back in between says so."""
    assert sentences(0, neuron(), 1000, LIVES) == [
        "The largest z on 1,000 tokens was −0.4: never above 0, so h was 0 every time.",
        "Its bias is −0.3; what it read added at most −0.100 to that.",
        "It died at step 3.",
    ]
    assert sentences(0, neuron(5), 1000, LIVES)[2] == "It died at step 3, revived at step 6 and died at step 12."


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (neuron(verdict="alive", max_z=2.0), "The largest z on 9 tokens was 2."),
        (neuron(verdict="dead", max_z=2.0), "The largest z on 9 tokens was 2, yet h was always 0."),
        (
            neuron(verdict="certified"),
            "The largest z on 9 tokens was −0.4, and the weights prove that no input wakes it.",
        ),
        (neuron(bias=None), "It has no bias: this came from its input alone, which added at most −0.4."),
    ],
)  # fmt: skip
def test_no_sentence_contradicts_the_figures(found: dict[str, Any], said: str) -> None:
    """A z above 0, a proof, no biases: each has words of its own."""
    assert said in sentences(0, found, 9, LIVES)


def test_what_is_not_known_is_not_told() -> None:
    """An older file has neither z nor bias; an unwatched training tells no step; many deaths are counted."""
    old = {"neuron": 9, "verdict": "dead"}
    assert sentences(0, old, 9, LIVES) == ["At every evaluation of the training it fired."]
    assert lives([]) is None
    assert sentences(0, old, 9, None) == ["The training did not watch, so when it fell silent is not known."]
    often = {(0, 9): [("neurons_died", 1), ("neurons_revived", 2)] * 3}
    assert sentences(0, old, 9, often) == ["It died 3 times, first at step 1; it last revived at step 2."]
