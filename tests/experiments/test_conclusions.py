"""The conclusion of an ablation: what its verdicts become in words, and what it must not say."""

from __future__ import annotations

import pytest
from made_up_cells import DIVERGED, ablation, answer, noisy, text

from minigpt.experiments.analysis import analyse


def test_every_verdict_has_its_sentence():
    """Better, worse, equivalent, undecided: with interval in nats and in per cent, and what was judged how."""
    arms = {"relu": noisy(), "swiglu": noisy(-0.03, seed=1), "elu": noisy(0.1, seed=2), "gelu": noisy(0.0, seed=3)}
    analysis = answer({**arms, "silu": noisy(0.004, 0.02, 3)})
    for opening in (
        "swiglu is better than relu: −0.0",
        "elu is worse than relu: +0.",
        "gelu and relu are equivalent within 0.01 nats: ",
        "silu against relu is undecided: ",
    ):
        [sentence] = [sentence for sentence in analysis["conclusion"] if sentence.startswith(opening)]
        assert " nats" in sentence
        assert "% interval [" in sentence
        assert "perplexity" in sentence
    for arm, level in (("swiglu is", "95"), ("elu is", "95"), ("gelu and relu are", "90"), ("silu against", "95")):
        [sentence] = [sentence for sentence in analysis["conclusion"] if sentence.startswith(arm)]
        found = next(found for found in analysis["comparisons"] if found["arm"] == arm.split()[0])
        ends = [found[key] for key in (("low90", "high90") if level == "90" else ("low", "high"))]
        interval = ", ".join(f"{end:+.4f}" for end in ends).replace("-", "−")
        assert f"{level} % interval [{interval}]" in sentence
    assert "4 comparisons were judged as one family (Holm, error rate 0.05)" in text(analysis)
    assert "less than 0.01 nats per token (1.0 % perplexity) does not matter" in text(analysis)


def test_the_best_arm_is_not_said_to_beat_what_it_never_met():
    """Compared with the reference alone, two good arms are not ranked against each other."""
    analysis = answer({"relu": noisy(), "swiglu": noisy(-0.03, seed=1), "geglu": noisy(-0.032, seed=2)})
    assert analysis["conclusion"][0].startswith("Lowest mean loss: geglu, ")
    assert analysis["conclusion"][0].endswith("; better than relu; not compared with swiglu.")


def test_of_all_pairs_the_best_has_beaten_the_others():
    """Where everyone met everyone, nothing is left uncompared, and which of a pair is the reference does not matter."""
    plan, results = ablation({"relu": noisy(), "swiglu": noisy(-0.03, seed=1), "elu": noisy(0.1, seed=2)})
    plan["pairs"] = [["swiglu", "relu", "activation"], ["elu", "relu", "activation"], ["elu", "swiglu", "activation"]]
    first = analyse(plan, results)["conclusion"][0]
    assert first.startswith("Lowest mean loss: swiglu, ")
    assert first.endswith("; better than relu and elu.")
    plan["pairs"] = [[reference, arm, factor] for arm, reference, factor in plan["pairs"]]
    assert analyse(plan, results)["conclusion"][0] == first


def test_no_arm_is_best_if_all_have_lost_or_diverged():
    """The lowest mean of survivors is no win."""
    wild, lost = [DIVERGED, *noisy(-0.1)[1:]], [DIVERGED] * 8
    analysis = answer({"relu": [*noisy(0.1)[:7], DIVERGED], "wild": wild, "elu": lost})
    assert analysis["conclusion"][0].startswith("Differences were found, but no arm is best")


def test_one_arm_alone_is_not_compared():
    """Nothing is said to be better or judged, and its dead neurons are still told."""
    analysis = answer({"relu": noisy()}, {"relu": 0.25})
    assert analysis["conclusion"][0] == "Nothing was compared: there is only one arm."
    assert "Dead neurons, silent on all 161,316 tokens: relu 25.0 %; " in text(analysis)
    assert "family" not in text(analysis)


def test_an_undecidable_arm_is_not_promised_a_number_of_seeds():
    """A difference that lies at the margin is decided by no number of seeds."""
    losses = noisy(n=4)
    silu = [loss + 0.01 + noise for loss, noise in zip(losses, (-0.02, 0.02, -0.01, 0.01), strict=True)]
    analysis = answer({"relu": losses, "silu": silu})
    assert "silu against relu is undecided: +0.0100 nats per token" in text(analysis)
    assert "not even 1000 seeds would be likely to decide" in text(analysis)


def test_an_arm_with_diverged_cells_is_never_the_best():
    """Its mean loss is that of its survivors."""
    analysis = answer({"relu": noisy(), "elu": noisy(0.1, seed=2), "wild": [*noisy(-0.1)[:7], DIVERGED]})
    assert analysis["conclusion"][0].startswith("Lowest mean loss: relu, ")
    assert "better than elu; not shown to be better than wild" in analysis["conclusion"][0]


def test_no_dead_neuron_is_worth_a_sentence():
    """0.0 % is a finding, with the bound that says what it proves."""
    analysis = answer({"relu": noisy(), "gelu": noisy(seed=1)})
    assert "No neuron died in any arm: 0.0 % are silent on all 161,316 tokens" in text(analysis)
    assert "more than 5.7e-5 of tokens would have been seen (95 %)" in text(analysis)


def test_dead_neurons_are_named_by_arm_and_inert_ones_compared():
    """Zeros are context: between activations the inert share is the fair one."""
    analysis = answer(
        {"relu": noisy(), "gelu": noisy(seed=1), "relu2": noisy(seed=2)}, {"relu": 0.0123, "relu2": 0.0001}
    )
    assert "relu 1.2 % and relu2 <0.1 %; 0.0 % in gelu" in text(analysis)
    assert "compare arms by inert neurons instead, relu 12.5 %, gelu 12.5 % and relu2 12.5 %" in text(analysis)


@pytest.mark.parametrize(("offset", "direction"), [(0.1, "higher"), (-0.1, "lower")])
def test_dead_neurons_beside_loss_are_described_not_judged(offset: float, direction: str):
    """The rank correlation over cells has a direction, and a warning with it."""
    analysis = answer({"gelu": noisy(n=4), "relu": noisy(offset, n=4)}, {"relu": 0.2})
    [sentence] = [found for found in analysis["conclusion"] if found.startswith("Over 8 cells")]
    assert f"more dead neurons went with {direction} loss" in sentence
    assert "no verdict" in sentence


def test_a_weak_correlation_is_called_weak():
    """Its sign alone would be read as a finding."""
    analysis = answer({"gelu": noisy(), "relu": noisy(0.003, sd=0.01, seed=7)}, {"relu": 0.2})
    assert "loss, if at all, only weakly (rank correlation" in text(analysis)


@pytest.mark.parametrize(("seeds", "dead"), [(3, {"relu": 0.2}), (8, {})])
def test_no_correlation_of_few_cells_or_of_nothing(seeds: int, dead: dict[str, float]):
    """With fewer than eight cells, or with the same dead share everywhere, there is nothing to correlate."""
    analysis = answer({"gelu": noisy(n=seeds), "relu": noisy(0.1, n=seeds)}, dead)
    assert "rank correlation" not in text(analysis)
