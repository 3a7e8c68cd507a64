"""Neuron health: every key against hand-built cases, the bounds against binomials, contributions against ablation."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from minigpt.base import storage
from minigpt.base.errors import DataError, UsageError
from minigpt.model import GPT, GPTConfig
from minigpt.neurons.bounds import silent_rate_upper
from minigpt.neurons.health import (
    LayerHealth,
    as_record,
    contribution,
    dead_fraction,
    dormant_fraction,
    effective_width,
    from_record,
    inert_fraction,
    layer_health,
    model_health,
)
from minigpt.neurons.probe import LayerStatistics, NeuronProbe


def count(h: Tensor, z: Tensor | None = None) -> LayerStatistics:
    """Statistics of hidden values h (N,F) and pre-activations z, h itself if not given."""
    z, h = (h if z is None else z), h.double()
    return LayerStatistics(
        tokens=h.size(0),
        fired=(h != 0).sum(0),
        opened=(z > 0).sum(0),
        sum_h=h.sum(0),
        sum_abs_h=h.abs().sum(0),
        sum_square_h=h.square().sum(0),
    )


def judge(h: Tensor, z: Tensor | None = None, outgoing: Tensor | None = None) -> LayerHealth:
    return layer_health(0, "relu", count(h, z), torch.ones(h.size(1)) if outgoing is None else outgoing)


def lively(tokens: int, neurons: int, seed: int = 0) -> Tensor:
    """Hidden values of healthy ReLU neurons: about half of them 0, sd 0.58."""
    return torch.randn(tokens, neurons, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).relu()


# One key after the other


def test_a_healthy_layer_has_nothing_to_report():
    """Honest zeros: nothing is dead, rare, dormant or inert among neurons that fire on half the tokens."""
    health = judge(lively(1000, 20))
    assert (health.layer, health.activation, health.neurons, health.tokens) == (0, "relu", 20, 1000)
    assert health.dead_fraction == health.never_positive_fraction == health.rare_fraction == health.always_fraction == 0
    assert health.dormant_fraction == {"0": 0, "0.025": 0, "0.1": 0}
    assert health.inert_fraction == 0
    assert health.density == pytest.approx(0.5, abs=0.02)


def test_dead_is_zero_on_every_token():
    """One firing in N tokens is life; a sparse neuron is not dead, and density is the mean share of tokens."""
    h = torch.zeros(1000, 4)
    h[:, 0] = 1.0
    h[17, 1] = 1e-30
    h[:250, 2] = -2.0
    health = judge(h)
    assert health.dead_fraction == 0.25
    assert health.always_fraction == 0.25
    assert health.density == pytest.approx((1 + 0.001 + 0.25 + 0) / 4)
    assert health.never_positive_fraction == 0.5  # the third is negative, the fourth never anything


@pytest.mark.parametrize(("firings", "expected"), [(0, 0.0), (1, 0.5), (9, 0.5), (10, 0.0), (11, 0.0)])
def test_rare_is_below_one_token_in_ten_thousand(firings: int, expected: float):
    """At exactly 1e-4 a neuron is no longer rare; at 0 it is dead, not rare."""
    h = torch.ones(100_000, 2)
    h[firings:, 1] = 0
    assert judge(h).rare_fraction == expected


def test_never_positive_and_dead_part_for_smooth_activations():
    """A GELU whose gate stays shut writes small negative values: shut, but not dead."""
    z = -1 - lively(500, 4)
    health = judge(F.gelu(z), z)
    assert health.never_positive_fraction == 1
    assert health.dead_fraction == 0
    assert health.density == 1


@pytest.mark.parametrize(("tau", "expected"), [(0.0, 1 / 4), (0.025, 2 / 4), (0.1, 3 / 4), (0.0249, 1 / 4)])
def test_dormancy_includes_its_threshold(tau: float, expected: float):
    """Sokar's released code uses ≤; with < the threshold 0 would find nothing."""
    mean = 1.0  # of the four below
    magnitudes = torch.tensor([0.0, 0.025 * mean, 0.1 * mean, 0.0], dtype=torch.float64)
    magnitudes[3] = 4 * mean - magnitudes.sum()
    assert dormant_fraction(magnitudes, tau) == expected


@pytest.mark.parametrize("tau", [0.0, 0.025, 0.1])
def test_a_silent_layer_is_wholly_dormant(tau: float):
    """0/0 must not become NaN or 0 %."""
    assert dormant_fraction(torch.zeros(5, dtype=torch.float64), tau) == 1
    health = judge(torch.zeros(100, 5))
    assert health.dead_fraction == health.inert_fraction == health.dormant_fraction[f"{tau:g}"] == 1
    assert health.density == 0


def test_a_gelu_stuck_at_its_minimum_is_alive_and_useless():
    """The flaw of zero counts and of dormancy: −0.17 on every token is neither dead nor dormant, only inert."""
    z = torch.randn(2000, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z[:, 0] = -0.7518
    health = judge(F.gelu(z), z)
    assert F.gelu(z[0, 0]).item() == pytest.approx(-0.17, abs=1e-4)
    assert health.dead_fraction == 0
    assert health.dormant_fraction == {"0": 0, "0.025": 0, "0.1": 0}
    assert health.never_positive_fraction == 0.1
    assert health.inert_fraction == 0.1


@pytest.mark.parametrize("value", [1e-20, 0.1, 1 / 3, 7.0, 1e15])
@pytest.mark.parametrize("tokens", [100, 100_000])
def test_a_constant_neuron_is_inert_but_not_dormant(value: float, tokens: int):
    """Whatever float64 leaves of its variance is rounding; a bias could do its work."""
    h = lively(tokens, 2)
    h[:, 1] = value
    counted = count(h)
    assert contribution(counted, torch.ones(2))[1] == 0
    assert inert_fraction(contribution(counted, torch.ones(2))) == 0.5
    assert judge(h[:, 1:]).dormant_fraction["0.1"] == 0


def test_a_neuron_that_nobody_reads_is_inert():
    """A column of zeros in w_out makes the liveliest neuron useless; it is neither dead nor dormant."""
    outgoing = torch.ones(10, dtype=torch.float64)
    outgoing[3] = 0
    health = judge(lively(1000, 10), outgoing=outgoing)
    assert health.inert_fraction == 0.1
    assert health.dead_fraction == health.dormant_fraction["0.1"] == 0


def test_duplicates_are_healthy_one_by_one():
    """Two equal neurons are expendable together, which no per-neuron key may claim to see."""
    h = lively(1000, 10)
    h[:, 1] = h[:, 0]
    counted = count(h)
    weights = contribution(counted, torch.ones(10))
    assert weights[0] == weights[1] > 0
    assert judge(h).dead_fraction == judge(h).inert_fraction == 0


@given(st.integers(0, 1000), st.floats(1e-6, 1e6))
@settings(max_examples=30, deadline=None)
def test_health_does_not_depend_on_the_scale_of_h(seed: int, scale: float):
    """Every key compares with the layer's own mean or with 0, so units cancel."""
    h = lively(300, 12, seed) * torch.linspace(0, 1, 12, dtype=torch.float64) ** 4
    scaled, plain = judge(h * scale), judge(h)
    assert scaled.effective_width == pytest.approx(plain.effective_width)
    assert replace(scaled, effective_width=plain.effective_width) == plain


# How sure


@pytest.mark.parametrize(
    ("tokens", "neurons", "expected"),
    [
        (65_536, 1, "4.6e-05"),
        (65_536, 2048, "1.6e-04"),
        (1_048_576, 1, "2.9e-06"),
        (1_048_576, 2048, "1.0e-05"),
        (20_000_000, 1, "1.5e-07"),
        (20_000_000, 2048, "5.3e-07"),
    ],
)
def test_bound_equals_the_published_formula(tokens: int, neurons: int, expected: str):
    """1 − (0.05/M)^(1/N): about 3/N for one neuron, the rule of three."""
    assert f"{silent_rate_upper(tokens, neurons):.1e}" == expected
    assert silent_rate_upper(tokens, neurons) == pytest.approx(1 - (0.05 / neurons) ** (1 / tokens), rel=1e-8)


@pytest.mark.parametrize(("tokens", "neurons"), [(100, 1), (5000, 512), (1_000_000, 2048)])
def test_a_neuron_at_the_bound_is_missed_just_that_often(tokens: int, neurons: int):
    """At the bound, the binomial probability of no firing is 0.05/M exactly (scipy)."""
    from scipy import stats

    bound = silent_rate_upper(tokens, neurons)
    assert stats.binom.pmf(0, tokens, bound) == pytest.approx(0.05 / neurons, rel=1e-6)
    assert stats.binomtest(0, tokens).proportion_ci(0.9, "exact").high == pytest.approx(silent_rate_upper(tokens))


def test_the_bound_holds_for_the_whole_layer():
    """Of 4000 simulated layers whose neurons all fire at the bound, about 5 % show a silent neuron."""
    tokens, neurons = 400, 50
    rate = silent_rate_upper(tokens, neurons)
    fired = torch.binomial(
        torch.full((4000, neurons), float(tokens)),
        torch.full((4000, neurons), rate),
        generator=torch.Generator().manual_seed(0),
    )
    assert (fired == 0).any(dim=1).double().mean().item() == pytest.approx(
        1 - (1 - 0.05 / neurons) ** neurons, abs=0.01
    )


def test_dead_upper_of_a_layer_counts_its_neurons():
    """The bound speaks of all neurons of the layer together."""
    assert judge(lively(1000, 20)).dead_upper == silent_rate_upper(1000, 20)


@pytest.mark.parametrize(("tokens", "neurons"), [(0, 5), (5, 0), (-1, 1)])
def test_no_bound_without_data(tokens: int, neurons: int):
    """A bound from nothing would be a figure without meaning."""
    with pytest.raises(UsageError, match="probe some text"):
        silent_rate_upper(tokens, neurons)


# What a contribution means


@pytest.mark.parametrize("activation", ["relu", "gelu", "swiglu", "tanh", "softmax"])
def test_contribution_is_the_error_that_ablating_adds(activation: str):
    """C_j² is the mean squared error, summed over C, of the layer's write with h_j replaced by its mean."""
    model = GPT(
        GPTConfig(vocab_size=29, block_size=16, n_layer=1, n_head=2, n_embd=12, activation=activation, init="matched"),
        seed=1,
    )
    mlp = model.blocks[0].mlp
    ids = torch.randint(29, (8, 16), generator=torch.Generator().manual_seed(0))
    hidden: list[Tensor] = []
    mlp.act.register_forward_hook(lambda module, inputs, h: hidden.append(h.flatten(0, 1).double()))
    with NeuronProbe(model) as probe, torch.no_grad():
        model(ids)
    h = hidden[0]
    w_out = mlp.w_out.weight.detach().double()
    measured = contribution(probe.statistics()[0], w_out.norm(dim=0))
    for neuron in range(mlp.d_ff):
        ablated = h.clone()
        ablated[:, neuron] = h[:, neuron].mean()
        error = ((ablated - h) @ w_out.T).square().sum(1).mean()
        torch.testing.assert_close(measured[neuron] ** 2, error, rtol=1e-8, atol=1e-30)


def test_inert_share_is_inclusive_and_relative_to_the_layer():
    """At 2.5 % of the layer's mean a neuron is inert; just above it is not."""
    assert inert_fraction(torch.tensor([0.025, 1.0, 1.975], dtype=torch.float64)) == pytest.approx(1 / 3)
    assert inert_fraction(torch.tensor([0.026, 1.0, 1.974], dtype=torch.float64)) == 0
    assert inert_fraction(torch.zeros(3, dtype=torch.float64)) == 1


def test_zeroing_dead_neurons_changes_no_logit():
    """Dead means that nothing is lost: without them the model computes the same, bit for bit."""
    model = GPT(GPTConfig(vocab_size=29, block_size=16, n_layer=2, n_head=2, n_embd=16), seed=1).eval()
    ids = torch.randint(29, (8, 16), generator=torch.Generator().manual_seed(0))
    mlp = model.blocks[0].mlp
    with torch.no_grad():
        mlp.w_in.bias[::3] = -5
        before = model(ids)
        with NeuronProbe(model) as probe:
            model(ids)
        dead = probe.statistics()[0].fired == 0
        assert dead.sum() == 22
        mlp.w_out.weight[:, dead] = 0
        assert torch.equal(model(ids), before)


@pytest.mark.parametrize("count", [1, 7, 100])
def test_effective_width_of_equal_contributions_is_their_number(count: int):
    """(ΣC²)²/ΣC⁴: neurons that contribute nothing do not count, and units cancel."""
    contributions = torch.zeros(100, dtype=torch.float64)
    contributions[:count] = 1e-200
    assert effective_width(contributions) == pytest.approx(count)
    assert effective_width(torch.zeros(5, dtype=torch.float64)) == 0
    assert effective_width(torch.tensor([3.0, 4.0]).double()) == pytest.approx(25**2 / (81 + 256))


# The model as a whole, and the record


def test_the_models_share_counts_neurons_not_layers():
    """A small dead layer beside a large live one is a small share: 8 of 8 + 24."""
    layers = [judge(torch.zeros(10, 8)), judge(torch.ones(10, 24))]
    assert dead_fraction(layers) == 0.25


def test_model_health_names_each_layer():
    """Index, activation and width come from the layer itself."""
    model = GPT(
        GPTConfig(vocab_size=29, block_size=16, n_layer=2, n_head=2, n_embd=24, activation="0=relu,1=swiglu"), seed=0
    )
    with NeuronProbe(model) as probe, torch.no_grad():
        model(torch.zeros(2, 8, dtype=torch.int64))
    layers = model_health(model, probe.statistics())
    assert [(layer.layer, layer.activation, layer.neurons, layer.tokens) for layer in layers] == [
        (0, "relu", 96, 16),
        (1, "swiglu", 64, 16),
    ]


def test_a_record_survives_strict_json():
    """What `metrics.jsonl` keeps is what was measured, to the last digit."""
    health = judge(lively(777, 13))
    text = storage.to_json(as_record(health))
    assert from_record(storage.parse_json(text, "test", DataError)) == health
    assert all(math.isfinite(value) for value in json.loads(text).values() if isinstance(value, float))
    assert set(as_record(health)) >= {"layer", "activation", "neurons", "dead_fraction", "dead_upper", "density"}
