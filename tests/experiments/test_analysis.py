"""The answer of an ablation: who is compared with whom, what becomes of diverged and missing cells, and the words."""

from __future__ import annotations

import copy
import json
import math
import random

import numpy as np
import pytest
from made_up_cells import (
    DIVERGED,
    ENVIRONMENT,
    PENDING,
    SEEDS,
    ablation,
    answer,
    noisy,
    only,
    planned_cell,
    result,
    text,
)
from scipy import stats

from minigpt.base import storage
from minigpt.experiments.analysis import analyse

COMPARISON_KEYS = {
    "arm", "reference", "factor", "n", "differences", "diverged", "mean", "sd", "low", "high", "low90", "high90", "p_t",
    "p_t_holm", "p_sign_flip", "p_tost", "p_tost_holm", "verdict", "reason", "seeds_to_decide",
}  # fmt: skip
CELL_KEYS = {
    "id", "arm", "seed", "lr", "purpose", "status", "steps", "loss", "perplexity", "bits_per_byte", "dead_fraction",
    "dormant_fraction", "inert_fraction", "parameters", "parameters_sha256", "directory", "command",
}  # fmt: skip
ARM_KEYS = {
    "name", "settings", "reference", "cells", "finished", "diverged", "pending", "loss", "perplexity", "bits_per_byte",
    "dead_fraction", "layers", "curve", "fairness",
}  # fmt: skip
LAYER_KEYS = {
    "layer", "activation", "neurons", "tokens", "dead_fraction", "dead_upper", "dormant_fraction", "inert_fraction",
    "density", "never_positive_fraction",
}  # fmt: skip
ANALYSIS_KEYS = {
    "format", "name", "command", "measure", "margin", "alpha", "seeds", "compare", "complete", "base", "factors",
    "corpus", "provenance", "arms", "comparisons", "family", "noise_floor", "pairing", "power", "sensitivity", "tuning",
    "conclusion", "cells", "stale", "cost",
}  # fmt: skip


# The format


@pytest.mark.parametrize(
    "losses",
    [
        {"relu": noisy(), "gelu": noisy(seed=1)},
        {"relu": [1.5], "gelu": [1.4]},
        {"relu": [PENDING] * 8, "gelu": [PENDING] * 8},
        {"relu": noisy(), "gelu": [DIVERGED] * 8},
        {"relu": [1000.0, 1000.0], "gelu": [900.0, 900.0]},
    ],
    ids=["whole", "one seed", "nothing yet", "diverged", "overflowing"],
)
def test_every_figure_has_its_place(losses: dict[str, list[float | None]]):
    """Whoever draws the page relies on every key being there, null if there is no figure, and on strict JSON."""
    analysis = answer(losses)
    assert set(analysis) == ANALYSIS_KEYS
    assert all(set(arm) == ARM_KEYS for arm in analysis["arms"])
    assert all(set(comparison) == COMPARISON_KEYS for comparison in analysis["comparisons"])
    assert all(set(cell) == CELL_KEYS for cell in analysis["cells"])
    assert all(set(found) == LAYER_KEYS for arm in analysis["arms"] for found in arm["layers"])
    assert json.loads(json.dumps(analysis, allow_nan=False)) == analysis
    assert storage.parse_json(storage.to_json(analysis), "analysis", ValueError) == analysis  # type: ignore[arg-type]
    assert all(sentence.endswith(".") and "None" not in sentence for sentence in analysis["conclusion"])


def test_the_answer_depends_on_results_alone():
    """Cells end in any order and at any speed; only `cost` may tell."""
    plan, results = ablation({"relu": noisy(), "gelu": [*noisy(seed=1)[:6], DIVERGED, PENDING], "elu": noisy(0.1)})
    shuffled = list(results.items())
    random.Random(0).shuffle(shuffled)
    slow = {"seconds": 9.0, "seconds_per_step": 0.7, "peak_memory_bytes": None}
    slower = {name: {**found, **slow} for name, found in shuffled}
    first, second = analyse(plan, results), analyse(copy.deepcopy(plan), slower)
    assert first.pop("cost") != second.pop("cost")
    assert storage.to_json(first) == storage.to_json(second)


# Comparisons


def test_differences_are_arm_minus_reference_by_seed():
    """Pairs are made by seed, whatever the order of the cells, and the tests are those of the paired losses."""
    relu, gelu = noisy(), noisy(0.02, seed=1)
    plan, results = ablation({"relu": relu, "gelu": gelu})
    random.Random(1).shuffle(plan["cells"])
    comparison = only(analyse(plan, results))
    found = {entry["seed"]: entry["difference"] for entry in comparison["differences"]}
    assert found == {seed: b - a for seed, a, b in zip(SEEDS, relu, gelu, strict=True)}
    expected = stats.ttest_rel(gelu, relu)
    assert comparison["p_t"] == comparison["p_t_holm"] == pytest.approx(expected.pvalue)
    assert (comparison["low"], comparison["high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert (comparison["n"], comparison["verdict"]) == (8, "worse")


def test_relabelled_identical_arms_are_equivalent():
    """The same cells under six names: no difference in any figure, and no verdict but equivalence."""
    analysis = answer({name: noisy() for name in ("relu", "a", "b", "c", "d", "e")})
    assert [comparison["verdict"] for comparison in analysis["comparisons"]] == ["equivalent"] * 5
    assert {comparison["mean"] for comparison in analysis["comparisons"]} == {0.0}
    assert {comparison["p_t"] for comparison in analysis["comparisons"]} == {1.0}
    assert "No arm was shown to be better or worse" in text(analysis)


def test_p_values_are_adjusted_over_the_whole_family():
    """Differences and equivalences are a family each; what has no p-value makes no family larger."""
    losses = {"relu": noisy(), "gelu": noisy(0.001, seed=1), "elu": noisy(0.1, seed=2), "silu": noisy(0.004, 0.01, 3)}
    analysis = answer({**losses, "new": [PENDING] * 8})
    comparisons = [comparison for comparison in analysis["comparisons"] if comparison["arm"] != "new"]
    assert analysis["family"] == 3
    for key in ("p_t", "p_tost"):
        ranked = sorted(comparisons, key=lambda comparison: comparison[key])
        smallest = min(1.0, 3 * ranked[0][key])
        assert ranked[0][f"{key}_holm"] == pytest.approx(smallest)
        assert ranked[1][f"{key}_holm"] == pytest.approx(max(smallest, min(1.0, 2 * ranked[1][key])))
        assert all(comparison[f"{key}_holm"] >= comparison[key] for comparison in comparisons)
    assert {comparison["arm"]: comparison["verdict"] for comparison in analysis["comparisons"]} == {
        "gelu": "equivalent", "elu": "worse", "silu": "undecided", "new": "no verdict",
    }  # fmt: skip


def test_a_better_arm_and_how_much_better():
    """The headline of the whole project, in its signs."""
    analysis = answer({"relu": noisy(), "swiglu": noisy(-0.03, seed=1)})
    comparison = only(analysis)
    assert (comparison["verdict"], comparison["seeds_to_decide"]) == ("better", None)
    assert -0.035 < comparison["low"] < comparison["low90"] < comparison["mean"]
    assert comparison["mean"] < comparison["high90"] < comparison["high"] < -0.025
    assert text(analysis).startswith("Lowest mean loss: swiglu, ")
    assert "swiglu is better than relu: −0.0" in text(analysis)
    assert "perplexity −2." in text(analysis) or "perplexity −3." in text(analysis)


def test_an_undecided_arm_is_told_how_many_seeds_it_needs():
    """More than it has, at the strictness of its family."""
    arms = {"relu": noisy(), "silu": noisy(0.012, 0.03, 3)}
    alone = only(answer(arms))
    assert alone["verdict"] == "undecided"
    assert alone["seeds_to_decide"] > 8
    among = answer({**arms, "gelu": noisy(seed=4), "elu": noisy(seed=5)})["comparisons"][0]
    assert among["seeds_to_decide"] > alone["seeds_to_decide"]
    assert f"about {alone['seeds_to_decide']} seeds would decide" in text(answer(arms))


def test_a_difference_smaller_than_the_margin_is_no_verdict():
    """Significant is not important: shown to differ from zero, not shown to matter, not shown not to."""
    comparison = only(answer({"relu": noisy(sd=0), "gelu": noisy(0.008, 0.004, 1)}))
    assert comparison["p_t_holm"] < 0.05 < comparison["p_tost_holm"]
    assert comparison["verdict"] == "undecided"
    assert comparison["reason"].startswith("there is a difference")


# Diverged cells


def test_survivors_do_not_speak_for_the_diverged():
    """Seven splendid cells and a diverged one: the interval of the seven must not make the arm better."""
    analysis = answer({"relu": noisy(), "relu2": [*noisy(-0.05, seed=1)[:7], DIVERGED]})
    comparison = only(analysis)
    assert [comparison[key] for key in ("mean", "sd", "low", "high", "low90", "high90")] == [None] * 6
    assert [comparison[key] for key in ("p_t", "p_sign_flip", "p_tost", "p_tost_holm", "seeds_to_decide")] == [None] * 5
    assert comparison["p_t_holm"] == pytest.approx(18 / 256)
    assert (comparison["verdict"], comparison["n"]) == ("undecided", 8)
    assert comparison["differences"][7] == {"seed": SEEDS[7], "difference": None}
    assert comparison["diverged"] == {"arm": 1, "reference": 0}
    assert "1 of 8 diverged" in comparison["reason"]
    assert "Training diverged: relu2 in 1 of 8 cells" in text(analysis)


@pytest.mark.parametrize(("arm", "reference", "verdict"), [(8, 0, "worse"), (0, 8, "better"), (5, 3, "undecided")])
def test_divergence_alone_can_decide(arm: int, reference: int, verdict: str):
    """Eight of eight diverged against none is worse by the sign test, and better the other way round."""
    first = [DIVERGED] * arm + noisy(seed=1)[arm:]
    second = noisy()[: 8 - reference] + [DIVERGED] * reference
    analysis = answer({"relu": second, "gelu": first})
    assert only(analysis)["verdict"] == verdict
    assert only(analysis)["diverged"] == {"arm": arm, "reference": reference}


def test_a_pair_of_diverged_cells_counts_for_neither():
    """It says nothing of which is better; the others speak, and the reason says how many they are."""
    relu, gelu = noisy(), noisy(0.03, seed=1)
    analysis = answer({"relu": [*relu[:6], DIVERGED, DIVERGED], "gelu": [*gelu[:6], DIVERGED, DIVERGED]})
    comparison = only(analysis)
    assert comparison["p_t"] == pytest.approx(stats.ttest_rel(gelu[:6], relu[:6]).pvalue)
    assert (comparison["n"], comparison["verdict"]) == (6, "worse")
    assert "2 of 8 pairs both" in comparison["reason"]
    nothing = only(answer({"relu": [DIVERGED] * 8, "gelu": [DIVERGED] * 8}))
    assert (nothing["n"], nothing["verdict"]) == (0, "no verdict")
    assert nothing["reason"].startswith("both arms diverged in every seed")


def test_the_sign_test_joins_the_family():
    """A comparison decided by signs makes the others as strict as one decided by means."""
    analysis = answer({"relu": noisy(), "gelu": noisy(0.001, 0.01, 1), "bad": [*noisy(0.05, seed=2)[:7], DIVERGED]})
    gelu, bad = analysis["comparisons"]
    assert analysis["family"] == analysis["power"]["family"] == 2
    assert bad["p_t_holm"] == pytest.approx(2 * 2 / 256)
    assert bad["verdict"] == "worse"
    assert gelu["p_t_holm"] == gelu["p_t"] > 2 / 256
    assert gelu["p_tost_holm"] == gelu["p_tost"]


def test_a_diverged_cell_has_no_figures_of_its_last_evaluation():
    """Whatever it measured before it broke was measured at another step than the others."""
    analysis = answer({"relu": noisy(), "gelu": [*noisy(seed=1)[:7], DIVERGED]}, {"gelu": 0.25})
    [cell] = [cell for cell in analysis["cells"] if cell["status"] == "diverged"]
    figures = ("loss", "perplexity", "bits_per_byte", "dead_fraction", "inert_fraction")
    assert [cell[key] for key in figures] == [None] * 5
    assert cell["steps"] == 15
    gelu = analysis["arms"][1]
    assert (gelu["loss"]["n"], gelu["dead_fraction"]["n"], gelu["finished"], gelu["diverged"]) == (7, 7, 7, 1)
    assert [point["n"] for point in gelu["curve"]] == [8, 8, 7]


# Missing cells


def test_one_seed_runs_and_judges_nothing():
    """One run an arm is how such comparisons usually are made; here it shows its losses and says why that is all."""
    analysis = answer({"relu": [1.5], "gelu": [1.4]})
    comparison = only(analysis)
    assert comparison["mean"] == pytest.approx(-0.1)
    assert [comparison[key] for key in ("sd", "low", "high", "p_t", "p_sign_flip", "p_tost")] == [None] * 6
    assert comparison["verdict"] == "no verdict"
    assert "one seed has no error bar" in comparison["reason"]
    assert analysis["arms"][1]["loss"] == {"mean": 1.4, "sd": None, "low": None, "high": None, "n": 1}
    assert analysis["family"] == 0
    assert [analysis[key] for key in ("power", "noise_floor", "pairing")] == [None] * 3
    assert analysis["conclusion"][0].startswith("No verdict: one seed has no error bar")
    assert "better than" not in text(analysis)


def test_pending_cells_leave_complete_pairs():
    """While cells run, an answer of the pairs there are, marked as incomplete."""
    relu, gelu = noisy(), noisy(0.03, seed=1)
    analysis = answer({"relu": [PENDING, *relu[1:]], "gelu": [*gelu[:6], PENDING, PENDING]})
    comparison = only(analysis)
    assert not analysis["complete"]
    assert [entry["seed"] for entry in comparison["differences"]] == SEEDS[1:6]
    assert comparison["p_t"] == pytest.approx(stats.ttest_rel(gelu[1:6], relu[1:6]).pvalue)
    assert [analysis["arms"][1][key] for key in ("cells", "finished", "diverged", "pending")] == [8, 6, 0, 2]
    assert analysis["conclusion"][0] == "Not complete: 3 of 16 cells are still to run."


def test_nothing_yet_is_an_answer():
    """The page of an ablation can be drawn before its first cell is done."""
    analysis = answer({"relu": [PENDING] * 2, "gelu": [PENDING] * 2})
    assert only(analysis)["reason"] == "no seed is done in both arms yet"
    assert [analysis["arms"][0][key] for key in ("loss", "perplexity", "dead_fraction")] == [None] * 3
    assert (analysis["arms"][0]["layers"], analysis["arms"][0]["curve"]) == ([], [])
    assert analysis["provenance"]["torch"] is None


# Arms


def test_figures_of_an_arm():
    """Means over seeds; a share of the model weighs layers by their neurons; perplexity is that of the mean loss."""
    analysis = answer({"relu": [1.0, 2.0, 3.0], "gelu": noisy(n=3)}, {"relu": 0.05})
    relu = analysis["arms"][0]
    assert (relu["loss"]["mean"], relu["loss"]["sd"], relu["loss"]["n"]) == (2, 1, 3)
    assert relu["perplexity"] == pytest.approx(math.exp(2))
    assert relu["bits_per_byte"] == pytest.approx(2 / 0.7)
    assert relu["dead_fraction"]["mean"] == pytest.approx(0.05)
    assert [found["dead_fraction"]["mean"] for found in relu["layers"]] == pytest.approx([0.2, 0.0])
    assert [found["dormant_fraction"]["max"] for found in relu["layers"]] == [0.25, 0.25]
    cell = analysis["cells"][0]
    assert cell["inert_fraction"] == pytest.approx(0.5 * 8 / 32)
    assert (cell["dormant_fraction"], cell["perplexity"]) == (0.25, pytest.approx(math.e))
    assert relu["curve"][1] == {"step": 10, "mean": pytest.approx(4.0), "low": 3.0, "high": 5.0, "n": 3}
    assert relu["fairness"] == {
        "parameters": 1000, "d_ff": [8, 24], "flops_per_token": 6000, "steps": 20, "tokens": 640, "same_windows": True,
        "same_start": "5 of 5 tensors",
    }  # fmt: skip


def test_an_interval_of_a_share_stays_a_share():
    """Few dead neurons in few seeds: the t interval would reach below zero."""
    plan, results = ablation({"relu": noisy(n=3)})
    for found, dead in zip(results.values(), (0.0, 0.0, 0.01), strict=True):
        found["val"]["dead_fraction"] = dead
    share = analyse(plan, results)["arms"][0]["dead_fraction"]
    assert share["low"] == 0
    assert 0.01 < share["high"] < 0.03


def test_the_noise_floor_is_that_of_the_reference():
    """An arm against itself under other seeds."""
    relu = noisy()
    analysis = answer({"relu": relu, "gelu": noisy(0.5, 0.3, 1)})
    assert analysis["noise_floor"]["arm"] == "relu"
    assert analysis["noise_floor"]["seed_sd"] == pytest.approx(np.std(relu, ddof=1))
    assert analysis["noise_floor"]["detectable"] == pytest.approx(2.1448 * np.std(relu, ddof=1) / 2, rel=1e-4)


def test_pairing_is_worth_what_seeds_share():
    """Shared seed effects ten times the noise: losses correlate and differences spread far less than unpaired ones."""
    pairing = answer({"relu": noisy(), "gelu": noisy(seed=1)})["pairing"]
    assert pairing["correlation"] > 0.95
    assert pairing["sd_ratio"] < 0.3
    relu, gelu = noisy(), [*noisy(seed=1)[4:], *noisy(seed=1)[:4]]
    unpaired = answer({"relu": relu, "gelu": gelu})["pairing"]
    assert unpaired["correlation"] == pytest.approx(np.corrcoef(relu, gelu)[0, 1])
    assert unpaired["sd_ratio"] == pytest.approx(
        np.std(np.subtract(gelu, relu), ddof=1) / math.hypot(np.std(relu, ddof=1), np.std(gelu, ddof=1))
    )


def test_the_power_table_is_for_this_family():
    """Two standard deviations, eight seeds, seven comparisons: 92 %."""
    analysis = answer({f"arm{k}": noisy(seed=k) for k in range(8)})
    power = analysis["power"]
    assert power["family"] == 7
    assert power["power"][power["seeds"].index(8)][power["effects_sd"].index(2.0)] == pytest.approx(0.92, abs=0.005)
    spreads = [comparison["sd"] for comparison in analysis["comparisons"]]
    assert power["paired_sd"] == pytest.approx(np.median(spreads))


# Learning rates, machines, cost


def test_sensitivity_of_tuned_rates():
    """Of the tuning cells alone, with the rate that was chosen; the verdict rests on the main cells alone."""
    plan, results = ablation({"relu": noisy(), "gelu": noisy(0.03, seed=1)})
    plan["tuning"] = {
        "seeds": [1, 2], "grid": [0.001, 0.002], "eval_part": "even", "chosen": {"relu": 0.001, "gelu": 0.002},
        "extended": [], "at_edge": ["gelu"],
    }  # fmt: skip
    losses = {("relu", 0.001): [1.4, 1.6], ("relu", 0.002): [1.7, DIVERGED], ("gelu", 0.002): [1.3, 1.3]}
    for (arm, lr), found in losses.items():
        for seed, loss in zip((1, 2), found, strict=True):
            cell = planned_cell(arm, seed, lr, "tune")
            plan["cells"].insert(0, cell)
            results[cell["id"]] = result(loss)
    analysis = analyse(plan, results)
    assert analysis["sensitivity"] == [
        {"arm": "relu", "lr": 0.001, "n": 2, "mean": 1.5, "low": 1.4, "high": 1.6, "diverged": 0, "chosen": True},
        {"arm": "relu", "lr": 0.002, "n": 1, "mean": 1.7, "low": 1.7, "high": 1.7, "diverged": 1, "chosen": False},
        {"arm": "gelu", "lr": 0.002, "n": 2, "mean": 1.3, "low": 1.3, "high": 1.3, "diverged": 0, "chosen": True},
    ]
    assert only(analysis)["n"] == 8
    assert analysis["arms"][0]["cells"] == 8
    assert len(analysis["cells"]) == 22
    assert "gelu lies at the edge" in text(analysis)


def test_sensitivity_of_varied_rates():
    """Arms that differ in the rate alone are one line over rates."""
    names = ["relu, lr=0.002", "relu, lr=0.001", "gelu, lr=0.002", "gelu, lr=0.001"]
    plan, results = ablation({name: noisy(n=2, seed=k) for k, name in enumerate(names)})
    plan["factors"] = {"activation": ["relu", "gelu"], "lr": [0.002, 0.001]}
    for cell in plan["cells"]:
        cell["lr"] = float(cell["arm"].split("=")[1])
    rows = analyse(plan, results)["sensitivity"]
    assert [(row["arm"], row["lr"], row["n"]) for row in rows] == [
        ("relu", 0.001, 2), ("relu", 0.002, 2), ("gelu", 0.001, 2), ("gelu", 0.002, 2),
    ]  # fmt: skip
    assert not any(row["chosen"] for row in rows)


def test_cells_of_different_machines_and_versions_are_named():
    """Figures of mixed versions are comparable only with care; those of other code are told of and not used."""
    plan, results = ablation({"relu": noisy(), "gelu": noisy(seed=1)})
    assert analyse(plan, results)["provenance"] == {"code": "c0de", **ENVIRONMENT, "mixed": []}
    results[plan["cells"][-1]["id"]]["environment"] = {**ENVIRONMENT, "torch": "2.12.0", "threads": 2}
    plan["stale"] = [{"id": "0ld", "arm": "relu", "seed": 1337, "code": "0ther"}]
    provenance = analyse(plan, results)["provenance"]
    assert analyse(plan, results)["stale"] == plan["stale"]
    assert analyse(plan, dict(reversed(results.items())))["provenance"] == provenance
    assert (provenance["torch"], provenance["mixed"]) == ("2.13.0", ["torch", "threads"])


def test_cost_adds_up():
    """Seconds are summed over cells, the pace is the median, the memory the peak."""
    plan, results = ablation({"relu": noisy(n=3), "gelu": [PENDING] * 3})
    for found, pace in zip(results.values(), (0.1, 0.9, 0.2), strict=True):
        found["seconds_per_step"] = pace
    next(iter(results.values()))["peak_memory_bytes"] = 7_000_000
    cost = analyse(plan, results)["cost"]
    assert cost["arms"]["relu"] == {"seconds_per_step": 0.2, "peak_memory_bytes": 7_000_000, "seconds": 6.0}
    assert cost["arms"]["gelu"] == {"seconds_per_step": None, "peak_memory_bytes": None, "seconds": 0}
    assert cost["seconds"] == 6.0
