"""The examination as a whole: verdicts, curves and records against counts made by hand."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from minigpt.activations import list_activations
from minigpt.base import storage
from minigpt.model import GPT, GPTConfig
from minigpt.neurons import census, explorer
from minigpt.neurons.bounds import silent_rate_upper, truly_silent
from minigpt.neurons.calibration import planted_model, planted_text
from minigpt.neurons.census import COLUMNS, NeuronTable, as_csv
from minigpt.neurons.curves import contribution_curve, dormancy_curve, firing_rate_histogram
from minigpt.neurons.diagnosis import Diagnosis, Texts, diagnose
from minigpt.neurons.explorer import choose_neurons, promotions
from minigpt.neurons.knockout import Batch
from minigpt.neurons.layer_statistics import LayerStatistics
from minigpt.neurons.probe import plain_blocks

# The contract with whoever reads `neurons.json`.
LAYER_KEYS = {
    "layer", "activation", "neurons", "tokens",
    "sequences", "dead_fraction", "dead_upper", "dead_upper_one",
    "dead_upper_sequences", "never_positive_fraction", "density", "rare_fraction",
    "always_fraction", "dormant_fraction", "inert_fraction", "saturated_fraction",
    "linear_fraction", "saturated_and_linear_fraction", "trapped_fraction", "certified_dead_fraction",
    "expendable_fraction", "expendable_interval", "expendable_random", "effective_width", "dormancy_curve",
    "never_versus_tokens", "chao1", "verdicts", "firing_rate_histogram",
    "contribution_curve", "undefined",
}  # fmt: skip


def examine(model: GPT, probed: list[Batch], means: list[Batch], losses: list[Batch]) -> Diagnosis:
    def track(items: Iterable[Any], label: str) -> Iterable[Any]:
        return items

    texts = Texts(probed, means, losses)
    return diagnose(model, texts, "float32", str, contextlib.nullcontext, track)


def text(batches: int = 3, seed: int = 0, vocab_size: int = 29) -> list[Batch]:
    ids = torch.randint(vocab_size, (batches, 8, 17), generator=torch.Generator().manual_seed(seed))
    return [(batch[:, :-1], batch[:, 1:]) for batch in ids]


def statistics(fired: list[int], tokens: int) -> LayerStatistics:
    counts = torch.tensor(fired)
    return LayerStatistics(tokens, counts, counts, counts.double(), counts.double(), counts.double())


@pytest.fixture(scope="module")
def planted() -> Diagnosis:
    batches = planted_text()
    return examine(planted_model(), batches, batches[:2], batches[2:4])


# Planted neurons, all the way through


def test_each_planted_neuron_gets_its_verdict(planted: Diagnosis):
    """Certified, dead on this text only, rare, and alive: always on, constant, duplicate, unread."""
    assert planted.tables[0].verdict[:8] == ["certified", "dead", "rare", *["alive"] * 5]
    layer = planted.layers[0]
    assert layer["verdicts"]["certified"] == layer["verdicts"]["dead"] == layer["verdicts"]["rare"] == 1
    assert layer["verdicts"]["alive"] == 13
    assert layer["certified_dead_fraction"] == 1 / 16
    assert layer["dead_fraction"] == 2 / 16
    assert layer["rare_fraction"] == 1 / 16
    assert layer["tokens"] == 65_536
    assert layer["sequences"] == 1024


def test_planted_neurons_in_the_table(planted: Diagnosis):
    """Rates, bounds and spreads that follow from the construction."""
    table = planted.tables[0]
    assert table.firing_rate[:5].tolist() == [0, 0, 3 / 65_536, 1, 1]
    assert table.sequence_rate[:5].tolist() == [0, 0, 3 / 1024, 1, 1]
    assert table.mean_h[4] == 1
    assert table.sd_h[4] == 0
    assert table.max_z[:2].tolist() == pytest.approx([-1, -1 - 7**-0.5], abs=1e-4)
    assert table.certificate_bound is not None
    assert table.certificate_bound[:2].tolist() == pytest.approx([-1, 7**0.5 - 1], abs=1e-4)


def test_planted_slopes(planted: Diagnosis):
    """ReLU's slope is 0 or 1: the silent and the rare are flat on 99 % of tokens, those always on are linear too."""
    layer = planted.layers[0]
    rate = planted.tables[0].firing_rate
    sd = (rate * (1 - rate)).sqrt()
    assert layer["saturated_fraction"] == (1 - rate >= 0.99).double().mean().item()
    assert layer["linear_fraction"] == (sd < 0.05).double().mean().item()
    assert layer["saturated_and_linear_fraction"] == ((1 - rate >= 0.99) & (sd < 0.05)).double().mean().item()
    assert layer["linear_fraction"] > layer["saturated_and_linear_fraction"] >= 3 / 16


def test_dead_neurons_are_not_missed(planted: Diagnosis):
    """Zeroing all of them changes no logit and no perplexity."""
    done = planted.model["dead_zeroed"]
    assert done["neurons"] == 2
    assert done["largest_logit_change"] == 0
    assert done["perplexity_before"] == done["perplexity_after"]


def test_bounds_are_given_for_one_neuron_for_all_and_by_sequence(planted: Diagnosis):
    """One rate excluded for a neuron looked at alone, a higher one for the layer, the highest by sequence."""
    layer = planted.layers[0]
    assert layer["dead_upper_one"] == silent_rate_upper(65_536)
    assert layer["dead_upper"] == silent_rate_upper(65_536, 16)
    assert layer["dead_upper_sequences"] == silent_rate_upper(1024, 16)
    assert layer["chao1"] == {"never": 2, "once": 0, "twice": 0, "truly_dead": 2}
    assert layer["never_versus_tokens"][-1] == {"tokens": 65_536, "never": 2}


def test_a_neuron_that_fires_against_its_proof_is_a_bug(monkeypatch: pytest.MonkeyPatch):
    """Proof and count contradict each other only if one of them is wrong: nothing is published then."""
    monkeypatch.setattr(census, "certified_dead", lambda block, dtype: torch.ones(16, dtype=torch.bool))
    with pytest.raises(AssertionError, match="proven dead"):
        examine(planted_model(), planted_text()[:1], [], [])


# What is undefined


@pytest.mark.parametrize("entry", list_activations(), ids=lambda entry: entry.name)
def test_every_activation_gets_every_key(entry):
    """All keys of the contract, each a number or null with a reason; strict JSON."""
    model = GPT(
        GPTConfig(vocab_size=29, block_size=16, n_layer=2, n_head=2, n_embd=16, activation=entry.name), seed=1
    ).eval()
    found = examine(model, text(1), text(1, 1), text(1, 2))
    for layer in found.layers:
        assert set(layer) == LAYER_KEYS
        missing = {name for name, value in layer.items() if value is None}
        assert missing <= set(layer["undefined"]) | {"contribution_curve"}
        assert set(layer["undefined"]) <= missing
        assert (layer["saturated_fraction"] is None) is (entry.name in ("softmax", "step", "step_ste"))
        assert (layer["certified_dead_fraction"] is None) is (not entry.exact_zeros)
        assert sum(layer["verdicts"].values()) == layer["neurons"]
    storage.parse_json(storage.to_json([found.layers, found.model, found.explored]), "test", ValueError)  # type: ignore[arg-type]


def test_without_another_text_nothing_is_ablated():
    """No figure rather than one from the text that the neurons were chosen by."""
    found = examine(
        GPT(GPTConfig(vocab_size=29, block_size=16, n_layer=2, n_head=2, n_embd=16), seed=1).eval(), text(), [], []
    )
    layer = found.layers[0]
    assert layer["expendable_fraction"] is layer["expendable_random"] is layer["trapped_fraction"] is None
    assert set(layer["undefined"]) == {"expendable_fraction", "trapped_fraction"}
    assert found.model["expendable_fraction"] is found.model["least_active_zeroed"] is None


# Estimates and curves


@pytest.mark.parametrize(
    ("counts", "expected"), [((100, 0, 0), 100), ((100, 10, 4), 91), ((100, 1, 0), 100), ((3, 10, 0), 0)]
)
def test_chao_estimates_the_truly_silent(counts: tuple[int, int, int], expected: float):
    """never − once(once − 1)/(2(twice + 1)), and never below 0."""
    assert truly_silent(*counts) == expected


def test_chao_is_nearer_to_the_truth_than_the_count():
    """100 truly dead of 2048 with heavy-tailed rates: on few tokens the count is too high, the estimate closer."""
    random = np.random.default_rng(0)
    counted, estimated = [], []
    for _ in range(20):
        rates = 10 ** random.uniform(-6, -1, 1948)
        fired = random.binomial(16_384, rates)
        never, once, twice = (int((fired == times).sum()) for times in (0, 1, 2))
        counted.append(never + 100)
        estimated.append(truly_silent(never + 100, once, twice))
    assert 100 < np.mean(estimated) < np.mean(counted) - 100


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60))
def test_histogram_counts_every_neuron_once(fired: list[int]):
    """Those that never fired apart, rate 1 in the last bin; none is lost at an edge."""
    histogram = firing_rate_histogram(statistics(fired, 1000))
    assert sum(histogram["counts"]) + histogram["never"] == len(fired)
    assert histogram["never"] == fired.count(0)
    assert histogram["counts"][-1] >= fired.count(1000)
    assert len(histogram["log10_edges"]) == len(histogram["counts"]) + 1
    assert histogram["log10_edges"][-1] == 0


def test_histogram_reaches_down_to_the_smallest_rate():
    """One firing in 30 million tokens has its bin too."""
    histogram = firing_rate_histogram(statistics([1, 30_000_000], 30_000_000))
    assert histogram["log10_edges"][0] == -8
    assert sum(histogram["counts"]) == 2


@given(st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=80).filter(any))
def test_contribution_curve_rises_from_0_to_1(contributions: list[float]):
    """The largest first, so it never lies under the diagonal and ends with everything."""
    curve = contribution_curve(torch.tensor(contributions, dtype=torch.float64))
    assert curve is not None
    shares = [point["share_of_contribution"] for point in curve]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, pytest.approx(1))
    assert all(point["share_of_contribution"] >= point["share_of_neurons"] - 1e-9 for point in curve)
    assert contribution_curve(torch.zeros(5)) is None


def test_dormancy_curve_passes_through_the_published_thresholds():
    """At τ = 0, 0.025 and 0.1 it is what `dormant_fraction` says; it never falls."""
    magnitudes = torch.cat([torch.zeros(2), torch.full((3,), 0.02), torch.ones(5)]).double()
    curve = {point["tau"]: point["fraction"] for point in dormancy_curve(magnitudes)}
    assert (curve[0.0], curve[0.025], curve[0.05]) == (0.2, 0.2, 0.5)
    assert list(curve.values()) == sorted(curve.values())


# The table and the explorer


def test_csv_has_a_row_for_every_neuron(planted: Diagnosis):
    """Numbers come back to the last digit; a figure that does not exist is an empty field."""
    rows = list(csv.DictReader(io.StringIO(as_csv(planted.tables))))
    assert len(rows) == 16
    assert tuple(rows[0]) == COLUMNS
    assert [row["verdict"] for row in rows] == planted.tables[0].verdict
    assert [float(row["contribution"]) for row in rows] == planted.tables[0].contribution.tolist()
    smooth = examine(
        GPT(GPTConfig(vocab_size=29, block_size=16, n_layer=1, n_head=2, n_embd=16, activation="gelu"), seed=1).eval(),
        text(1),
        [],
        [],
    )
    assert {row["certificate_bound"] for row in csv.DictReader(io.StringIO(as_csv(smooth.tables)))} == {""}


@pytest.fixture(scope="module")
def explored() -> tuple[GPT, list[Batch], Diagnosis]:
    model = GPT(
        GPTConfig(vocab_size=29, block_size=16, n_layer=2, n_head=2, n_embd=16, d_ff=80, init="matched"), seed=1
    ).eval()
    with torch.no_grad():
        plain_blocks(model)[0].mlp.w_in.bias[:70] = -20
    return model, text(5), examine(model, text(5), [], [])


def test_passages_are_those_of_the_largest_h(explored: tuple[GPT, list[Batch], Diagnosis]):
    """Against all hidden values kept: the three sequences with the largest |h|, the strongest first, peak marked."""
    model, batches, found = explored
    kept: list[Tensor] = []
    handle = plain_blocks(model)[1].mlp.act.register_forward_hook(lambda module, inputs, h: kept.append(h))
    with torch.no_grad():
        for inputs, _ in batches:
            model(inputs)
    handle.remove()
    h = torch.cat(kept)  # (sequences,T,F)
    sequences = {tuple(ids): number for number, ids in enumerate(torch.cat([x for x, _ in batches]).tolist())}
    for neuron in found.explored[1]["neurons"][:12]:
        peaks = h[:, :, neuron["neuron"]].abs().amax(1)
        shown = [sequences[tuple(map(int, passage["tokens"]))] for passage in neuron["passages"]]
        assert len(set(shown)) == 3
        assert torch.equal(peaks[shown], peaks.sort(descending=True).values[:3])
        for passage, sequence in zip(neuron["passages"], shown, strict=True):
            values = h[sequence, :, neuron["neuron"]]
            assert passage["values"] == pytest.approx(values.tolist(), rel=1e-3, abs=1e-5)
            assert passage["peak"] == values.abs().argmax()


def test_the_explorer_is_bounded(explored: tuple[GPT, list[Batch], Diagnosis], monkeypatch: pytest.MonkeyPatch):
    """A fixed number of strong ones, of the rest and of dead ones; none twice, and the dead have no passages."""
    _, _, found = explored
    for layer in found.explored:
        numbers = [neuron["neuron"] for neuron in layer["neurons"]]
        assert len(set(numbers)) == len(numbers) <= explorer.STRONGEST + explorer.SPREAD + explorer.MOST_DEAD
    first = found.explored[0]["neurons"]
    dead = [neuron for neuron in first if neuron["verdict"] in ("certified", "dead")]
    assert len(dead) == explorer.MOST_DEAD < 70
    assert all(neuron["passages"] == [] for neuron in dead)
    assert len(json.dumps(found.explored)) < 3 * 32 * 2 * 3000


def test_the_strongest_contributors_come_first(explored: tuple[GPT, list[Batch], Diagnosis]):
    """Then a spread that reaches the weakest living neuron."""
    table: NeuronTable = explored[2].tables[1]
    chosen = choose_neurons(table)
    order = [n for n in table.contribution.argsort(descending=True).tolist() if table.verdict[n] in ("rare", "alive")]
    assert chosen[: explorer.STRONGEST] == order[: explorer.STRONGEST]
    assert chosen[-1] == order[-1]


def test_promoted_tokens_are_those_whose_logits_rise():
    """In the last layer, without a norm's division, the promotion is the derivative of the logits by h."""
    model = GPT(
        GPTConfig(vocab_size=29, block_size=16, n_layer=1, n_head=2, n_embd=16, norm="none", init="matched"), seed=2
    ).eval()
    mlp = plain_blocks(model)[0].mlp
    hidden = torch.zeros(mlp.d_ff, requires_grad=True)
    handle = mlp.act.register_forward_hook(lambda module, inputs, h: h + hidden)
    logits = model(torch.zeros(1, 1, dtype=torch.int64))[0, 0]
    derivative = torch.stack([torch.autograd.grad(logit, hidden, retain_graph=True)[0] for logit in logits])
    handle.remove()
    torch.testing.assert_close(promotions(model, 0, [3, 7]), derivative[:, [3, 7]].T)


def test_a_long_passage_is_cut_around_its_peak():
    """At either end of a long context the window slides, so that the peak stays inside."""
    for peak in (0, 5, 500, 1000, 1023):
        values = [0.0] * 1024
        values[peak] = -2.0
        shaded = explorer._shaded(list(range(1024)), values, str)
        assert len(shaded["tokens"]) == len(shaded["values"]) == explorer.PASSAGE_TOKENS
        assert shaded["tokens"][shaded["peak"]] == str(peak)
        assert shaded["values"][shaded["peak"]] == -2
