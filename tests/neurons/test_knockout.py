"""What neurons are worth: ablations equal surgery on the weights, the search equals trying everything."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from minigpt.base.health_columns import ALLOWED_RISE
from minigpt.model import GPT, GPTConfig
from minigpt.neurons import expendable as search
from minigpt.neurons.expendable import expendable, largest_feasible, zero_least_active
from minigpt.neurons.health import contribution, outgoing_norms
from minigpt.neurons.knockout import Batch, loss_without, mean_hidden, perplexity, read_up_to, replaced, zero
from minigpt.neurons.layer_statistics import LayerStatistics
from minigpt.neurons.life import trapped_neurons
from minigpt.neurons.probe import NeuronProbe, plain_blocks

WIDTHS = (24, 24)


@pytest.fixture
def model() -> GPT:
    """Random weights, large enough that each neuron moves the logits."""
    model = GPT(
        GPTConfig(vocab_size=29, block_size=16, n_layer=2, n_head=2, n_embd=16, d_ff=24, init="matched"), seed=4
    ).eval()
    with torch.no_grad():
        model.wte.weight *= 30
        for block in plain_blocks(model):
            block.mlp.w_out.weight *= 30
    return model


def text(batches: int = 3, seed: int = 0) -> list[Batch]:
    ids = torch.randint(29, (batches, 8, 17), generator=torch.Generator().manual_seed(seed))
    return [(batch[:, :-1], batch[:, 1:]) for batch in ids]


@torch.no_grad()
def predicted(model: GPT, batches: list[Batch]) -> list[Batch]:
    """The same inputs, followed by what the model expects: a text that it knows, so that losing a neuron hurts."""
    return [(inputs, model(inputs).argmax(-1)) for inputs, _ in batches]


def masks(*chosen: list[int]) -> list[Tensor]:
    flags = [torch.zeros(width, dtype=torch.bool) for width in WIDTHS]
    for flag, neurons in zip(flags, chosen, strict=False):
        flag[neurons] = True
    return flags


@torch.no_grad()
def loss_of(model: GPT, batches: list[Batch]) -> float:
    losses = [F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="none") for x, y in batches]
    return torch.cat(losses).double().mean().item()


@torch.no_grad()
def counted(model: GPT, batches: list[Batch]) -> list[LayerStatistics]:
    with NeuronProbe(model) as probe:
        for inputs, _ in batches:
            model(inputs)
    return probe.statistics()


# Replacing


@pytest.mark.parametrize("first", [0, 1])
def test_mean_ablation_equals_folding_the_mean_into_the_bias(model: GPT, first: int):
    """Take a neuron's column out of w_out, add its mean write to the bias behind: the same loss, without any hook."""
    batches, removed = text(), masks([] if first else [0, 3, 5], [1, 2])
    means = mean_hidden(model, text(seed=9))
    ablated = loss_without(model, read_up_to(model, first, batches), removed, means)
    with torch.no_grad():
        for block, mask, mean in zip(plain_blocks(model), removed, means, strict=True):
            w_out = block.mlp.w_out
            w_out.bias += w_out.weight[:, mask] @ mean[mask].float()
            w_out.weight[:, mask] = 0
    assert ablated == pytest.approx(loss_of(model, batches), rel=1e-6)


def test_nothing_removed_changes_nothing(model: GPT):
    """From whatever layer the pass is taken up, the loss is that of the whole model; no hook stays."""
    batches = text()
    for layer in (0, 1):
        at_layer = read_up_to(model, layer, batches)
        assert loss_without(model, at_layer, masks(), mean_hidden(model, batches)) == pytest.approx(
            loss_of(model, batches), rel=1e-6
        )
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_hooks_go_after_an_error_too(model: GPT):
    """A replacement left behind would falsify every later figure."""
    with pytest.raises(ZeroDivisionError), replaced(model, masks([1], [2]), [torch.zeros(24)] * 2):
        raise ZeroDivisionError
    assert all(not module._forward_hooks for module in model.modules())


def test_zeroing_dead_neurons_changes_no_logit_and_a_live_one_does(model: GPT):
    """Dead means that nothing is lost: exactly. The check can fail: a live neuron moves the logits."""
    with torch.no_grad():
        plain_blocks(model)[0].mlp.w_in.bias[:7] = -9
    batches = text()
    dead = [layer.fired == 0 for layer in counted(model, batches)]
    assert dead[0].sum() >= 7
    done = zero(model, batches, dead)
    assert done.largest_logit_change == 0
    assert done.loss_before == done.loss_after == pytest.approx(loss_of(model, batches), rel=1e-6)
    assert zero(model, batches, masks([20])).largest_logit_change > 1e-3


def test_perplexity_overflows_to_infinity():
    """What zeroing half a model costs may be any number; it must not be an OverflowError."""
    assert perplexity(1.0) == math.e
    assert perplexity(1e4) == math.inf


# Searching


@given(st.integers(1, 300), st.integers(0, 300))
def test_bisection_finds_the_edge(size: int, edge: int):
    """With enough steps it is the largest feasible count; with few, a feasible one not far below."""
    edge = min(edge, size)
    asked: list[int] = []

    def feasible(count: int) -> bool:
        asked.append(count)
        return count <= edge

    assert largest_feasible(0, size, feasible, steps=10) == edge
    assert largest_feasible(edge, size, feasible, steps=10) == edge
    coarse = largest_feasible(0, size, feasible, steps=4)
    assert coarse <= edge <= coarse + math.ceil(size / 2**4) + 1
    assert 0 not in asked, "that nothing can be spared needs no evaluation"


@pytest.mark.parametrize("layer", [0, 1, None])
def test_expendable_equals_trying_every_prefix(model: GPT, layer: int | None):
    """EF@1 %: the longest prefix, least contribution first, whose joint ablation costs at most 1 %."""
    with torch.no_grad():
        for block in plain_blocks(model):
            block.mlp.w_out.weight *= torch.linspace(0, 1, 24) ** 4
    batches, others = predicted(model, text()), text(seed=7)
    means = mean_hidden(model, others)
    scores = [
        contribution(layer, outgoing_norms(block.mlp))
        for layer, block in zip(counted(model, others), plain_blocks(model), strict=True)
    ]
    flat = torch.cat([score / score.mean() for score in scores])
    candidates = torch.arange(48) if layer is None else torch.arange(24) + 24 * layer
    order = candidates[flat[candidates].argsort()]
    at_start = read_up_to(model, 0, batches)
    feasible = []
    for count in range(len(order) + 1):
        flags = torch.zeros(48, dtype=torch.bool)
        flags[order[:count]] = True
        loss = loss_without(model, at_start, list(flags.split(24)), means)
        if math.exp(loss - loss_of(model, batches)) <= 1 + ALLOWED_RISE:
            feasible.append(count)
    found = expendable(model, read_up_to(model, layer or 0, batches), means, scores, layer)
    count = round(found.fraction * len(order))
    assert 0 < count < len(order), "the example should have an edge"
    assert count in feasible
    assert count + 1 not in feasible
    assert all(fraction < found.fraction for fraction in found.random)
    assert all(rise > ALLOWED_RISE for rise in found.random_rise)


def test_a_layer_that_does_nothing_is_wholly_expendable(model: GPT):
    """All neurons constant: 100 %, in any order, and at no cost."""
    batches = text()
    with torch.no_grad():
        plain_blocks(model)[1].mlp.w_in.weight.zero_()
    scores = [contribution(layer, torch.ones(24)) for layer in counted(model, batches)]
    found = expendable(model, read_up_to(model, 1, batches), mean_hidden(model, batches), scores, 1)
    assert found.fraction == 1
    assert found.random == (1, 1, 1)
    assert found.random_rise == pytest.approx((0, 0, 0), abs=1e-6)


def test_opposed_duplicates_are_expendable_together(model: GPT, monkeypatch: pytest.MonkeyPatch):
    """Alive, contributing and useless: what no count of zeros and no score of single neurons can see."""
    mlp = plain_blocks(model)[0].mlp
    with torch.no_grad():
        mlp.w_in.weight[12:] = mlp.w_in.weight[:12]
        mlp.w_out.weight[:, 12:] = -mlp.w_out.weight[:, :12]
    batches = text()
    statistics = counted(model, batches)
    scores = [contribution(layer, outgoing_norms(mlp)) for layer in statistics]
    assert (statistics[0].fired > 0).all()
    assert (scores[0] > 0).all()
    found = expendable(model, read_up_to(model, 0, batches), mean_hidden(model, text(seed=3)), scores, 0)
    assert found.fraction == 1
    monkeypatch.setattr(search, "ALLOWED_RISE", -1.0)
    nothing = expendable(model, read_up_to(model, 0, batches), mean_hidden(model, batches), scores, 0)
    assert nothing.fraction == 0


def test_the_least_active_go_first(model: GPT):
    """Zeroing the silent half costs nothing while a random half does; the counts are of the whole model."""
    with torch.no_grad():
        for block in plain_blocks(model):
            block.mlp.w_in.weight[:12] = 0
            block.mlp.w_in.bias[:12] = -1
    batches = predicted(model, text())
    base = loss_of(model, batches)
    activities = [layer.sum_abs_h / layer.tokens for layer in counted(model, batches)]
    points = zero_least_active(model, read_up_to(model, 0, batches), activities)
    assert [point.neurons for point in points] == [0, 0, 2, 5, 12, 24]
    assert [point.share for point in points] == [count / 48 for count in (0, 0, 2, 5, 12, 24)]
    assert [point.loss for point in points] == pytest.approx([base] * 6, rel=1e-6)
    assert abs(points[-1].random_loss - base) > 1e-3


# Trapped


@pytest.mark.parametrize("activation", ["relu", "reglu"])
def test_dead_neurons_are_trapped_and_others_are_not(activation: str):
    """h = 0 on every token of an exactly zero activation lets no gradient through; .grad stays untouched."""
    model = GPT(
        GPTConfig(
            vocab_size=29, block_size=16, n_layer=2, n_head=2, n_embd=16, d_ff=24, activation=activation, init="matched"
        ),
        seed=4,
    ).eval()
    with torch.no_grad():
        mlp = plain_blocks(model)[1].mlp
        mlp.w_in.weight[[3, 8]] = 0
        mlp.w_in.bias[[3, 8]] = -1
        mlp.w_out.weight[:, 5] = 0
    trapped = trapped_neurons(model, text())
    assert [mask.nonzero().flatten().tolist() for mask in trapped] == [[], [3, 5, 8]]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_one_gradient_in_the_window_frees_a_neuron(model: GPT):
    """Trapped speaks of the whole window: a neuron of one token is free once that token comes."""
    (inputs, targets), *_ = text(1)
    batches = list(zip(inputs.split(1), targets.split(1), strict=True))
    with torch.no_grad():
        plain_blocks(model)[0].mlp.w_in.bias -= 1.5
    per_batch = [trapped_neurons(model, [batch])[0] for batch in batches]
    together = trapped_neurons(model, batches)[0]
    assert torch.equal(together, torch.stack(per_batch).all(0))
    assert together.sum() < min(int(alone.sum()) for alone in per_batch), "the example has no such neuron"


def test_weight_decay_alone_moves_a_trapped_neuron(model: GPT):
    """Under SGD with decay its incoming weights shrink by exactly that factor; a living one's do not."""
    mlp = plain_blocks(model)[0].mlp
    with torch.no_grad():
        mlp.w_in.bias[2] = -50
    before = mlp.w_in.weight.detach().clone()
    optimizer = torch.optim.SGD([mlp.w_in.weight], lr=0.1, weight_decay=0.5)
    inputs, targets = text(1)[0]
    F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
    optimizer.step()
    assert trapped_neurons(model, text(1))[0][2]
    torch.testing.assert_close(mlp.w_in.weight[2], before[2] * (1 - 0.1 * 0.5), rtol=1e-6, atol=0)
    assert not torch.allclose(mlp.w_in.weight[3], before[3] * (1 - 0.1 * 0.5), rtol=1e-6, atol=0)
