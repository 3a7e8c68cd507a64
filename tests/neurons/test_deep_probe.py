"""The deep probe: sequences, first firings and slopes are those of an offline computation, for every activation."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minigpt.activations import ActivationEntry, build_activation, list_activations
from minigpt.model import GPT, GPTConfig
from minigpt.neurons.curves import never_versus_tokens
from minigpt.neurons.layer_statistics import DeepStatistics, LayerStatistics, SlopeStatistics
from minigpt.neurons.probe import NeuronProbe
from minigpt.neurons.slopes import FLAT_SHARE, flat_below, slope, undefined_slope

SMOOTH = [entry for entry in list_activations() if undefined_slope(build_activation(entry.name)) is None]


def small_model(activation: str, seed: int = 0) -> GPT:
    return GPT(
        GPTConfig(vocab_size=29, block_size=16, n_layer=2, n_head=2, n_embd=16, activation=activation, init="matched"),
        seed,
    ).eval()


def random_ids(batch: int = 12, seed: int = 0) -> Tensor:
    return torch.randint(29, (batch, 16), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def probed(model: GPT, batches: list[Tensor]) -> list[LayerStatistics]:
    with NeuronProbe(model, deep=True) as probe:
        for ids in batches:
            model(ids)
    return probe.statistics()


def offline(z: Tensor, h: Tensor, activation) -> DeepStatistics:  # type: ignore[no-untyped-def]
    """From stored z and h (sequences,T,F): the definitions, word for word, in float64."""
    fired = (h != 0).any(1)  # (sequences,F)
    firsts = [next((i for i, hit in enumerate(column) if hit), len(column)) for column in fired.T.tolist()]
    slopes = slope(activation, z).double().flatten(0, 1)
    return DeepStatistics(
        sequences=len(h),
        fired_sequences=fired.sum(0),
        first_sequence=torch.tensor(firsts),
        max_z=z.double().amax((0, 1)),
        slopes=SlopeStatistics(
            flat=(slopes.abs() < flat_below(activation)).sum(0),
            sum_slope=slopes.sum(0),
            sum_square_slope=slopes.square().sum(0),
        ),
    )


def assert_equal(one: DeepStatistics | None, two: DeepStatistics) -> None:
    assert one is not None
    assert one.sequences == two.sequences
    for name in ("fired_sequences", "first_sequence", "max_z"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    assert one.slopes is not None
    assert two.slopes is not None
    assert torch.equal(one.slopes.flat, two.slopes.flat)
    torch.testing.assert_close(one.slopes.sum_slope, two.slopes.sum_slope, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one.slopes.sum_square_slope, two.slopes.sum_square_slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu", "prelu", "reglu", "tanh"])
@given(cuts=st.sets(st.integers(1, 11)))
@settings(max_examples=10, deadline=None)
def test_statistics_equal_an_offline_computation(activation: str, cuts: set[int]):
    """However the text is cut into batches or parts: the same counts, and the same first firing, once merged."""
    model = small_model(activation)
    with torch.no_grad():
        model.blocks[0].mlp.w_in.bias[:20] = -3.0  # so that some fire seldom or never
    ids = random_ids()
    stored: list[tuple[Tensor, Tensor]] = []
    act = model.blocks[0].mlp.act
    handle = act.register_forward_hook(lambda module, inputs, h: stored.append((module.preactivation(inputs[0]), h)))
    batches = [ids[first:last] for first, last in pairwise([0, *sorted(cuts), 12])]
    whole = probed(model, batches)[0]
    handle.remove()
    expected = offline(torch.cat([z for z, _ in stored]), torch.cat([h for _, h in stored]), act)
    assert_equal(whole.deep, expected)
    merged, *rest = [probed(model, [batch])[0] for batch in batches]
    for part in rest:
        merged = merged.merge(part)
    assert_equal(merged.deep, expected)


def test_merging_is_associative():
    """Ranks may merge pairwise or one after the other: when a neuron first fired is the same."""
    model = small_model("relu")
    with torch.no_grad():
        model.blocks[0].mlp.w_in.bias -= 2.5
    one, two, three = (probed(model, [random_ids(4, seed)])[0] for seed in range(3))
    left, right = one.merge(two).merge(three).deep, one.merge(two.merge(three)).deep
    assert right is not None
    assert_equal(left, right)
    assert (right.first_sequence == right.sequences).any(), "the example has no silent neuron"
    assert ((right.first_sequence > 0) & (right.first_sequence < right.sequences)).any()


def test_statistics_of_different_depth_do_not_merge():
    """A sum of something and nothing would be a wrong figure."""
    model = small_model("relu")
    deep = probed(model, [random_ids()])[0]
    with NeuronProbe(model) as plain, torch.no_grad():
        model(random_ids())
    with pytest.raises(AssertionError, match="not"):
        deep.merge(plain.statistics()[0])


@pytest.mark.parametrize("start", [2**24, 2**31, 2**40])
def test_counts_go_on_past_the_limits_of_float32_and_int32(start: int):
    """After 2²⁴ and 2³¹ sequences one more is still one more."""
    model, ids = small_model("gelu"), random_ids()
    alone = probed(model, [ids])[0].deep
    assert alone is not None
    assert alone.slopes is not None
    with NeuronProbe(model, deep=True) as probe, torch.no_grad():
        counter = probe._counters[0][1]
        assert counter is not None
        counter.sequences += start
        counter.fired_sequences += start
        counter.flat += start
        model(ids)
    deep = probe.statistics()[0].deep
    assert deep is not None
    assert deep.slopes is not None
    assert deep.sequences == start + alone.sequences
    assert torch.equal(deep.fired_sequences, start + alone.fired_sequences)
    assert torch.equal(deep.slopes.flat, start + alone.slopes.flat)
    assert torch.equal(deep.first_sequence, start + alone.first_sequence)


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
def test_looking_deeper_changes_nothing(bfloat16: bool):
    """Logits and gradients bit for bit, although slopes are taken by autograd inside the forward pass."""
    ids, results = random_ids(), []
    for deep in (False, True):
        model = small_model("prelu").train()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16), NeuronProbe(model, deep=deep):
            logits = model(ids)
        logits.float().logsumexp(-1).sum().backward()
        results.append((logits, [parameter.grad for parameter in model.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(one, two) for one, two in zip(results[0][1], results[1][1], strict=True))  # type: ignore[arg-type]


# Slopes


@pytest.mark.parametrize("entry", SMOOTH, ids=lambda entry: entry.name)
def test_slopes_are_central_differences(entry: ActivationEntry):
    """Against float64 differences of φ itself, away from its kinks at whole numbers."""
    activation = build_activation(entry.name)
    z = torch.linspace(-7.5, 7.5, 400)
    z = z[(z - z.round()).abs() > 0.01]
    exact = copy.deepcopy(activation).double()
    step = 1e-5
    with torch.no_grad():
        difference = (exact.phi(z.double() + step) - exact.phi(z.double() - step)) / (2 * step)
    torch.testing.assert_close(slope(activation, z).double(), difference, rtol=1e-4, atol=1e-4)
    bound = activation.slope_bound()
    reference = bound if bound is not None else slope(activation, torch.tensor(1.0)).item()
    assert flat_below(activation) == pytest.approx(FLAT_SHARE * reference)


def test_learned_parameters_count_as_they_are_now():
    """A PReLU that has learned the slope 0.01 is flat below 0; at its initial 0.25 it is not."""
    activation = build_activation("prelu")
    z = torch.tensor([-1.0, 1.0])
    assert slope(activation, z).tolist() == [0.25, 1.0]
    with torch.no_grad():
        activation.slope.fill_(0.01)  # type: ignore[operator,union-attr]
    assert slope(activation, z).tolist() == pytest.approx([0.01, 1.0])
    assert slope(activation, z)[0] < flat_below(activation)


def test_unbounded_slopes_are_measured_against_the_one_at_1():
    """ReLU²'s slope 2z has no maximum; at z = 1 it is 2."""
    assert flat_below(build_activation("relu2")) == pytest.approx(FLAT_SHARE * 2)


@pytest.mark.parametrize(
    ("activation", "reason"), [("softmax", "elementwise"), ("step", "0 everywhere"), ("step_ste", "deliberately not")]
)
def test_no_slope_where_there_is_none(activation: str, reason: str):
    """The figure is missing, with its reason; it is not 0."""
    assert reason in str(undefined_slope(build_activation(activation)))
    layer = probed(small_model(activation), [random_ids()])[0]
    assert layer.deep is not None
    assert layer.deep.slopes is None


# Never fired, by tokens


def test_never_versus_tokens_falls_to_the_number_of_the_silent():
    """Neuron j fires first in sequence j: after n sequences n of them have been seen."""
    model = small_model("relu")
    layer = probed(model, [random_ids(10)])[0]
    assert layer.deep is not None
    neurons = layer.fired.numel()
    deep = DeepStatistics(10, layer.deep.fired_sequences, torch.arange(neurons).clamp_max(10), layer.deep.max_z, None)
    curve = never_versus_tokens(LayerStatistics(**{**vars(layer), "deep": deep}))
    assert [point["tokens"] for point in curve] == [16, 32, 64, 128, 160]
    assert [point["never"] for point in curve] == [neurons - n for n in (1, 2, 4, 8, 10)]
