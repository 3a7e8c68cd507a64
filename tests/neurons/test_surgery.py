"""Surgery on neurons: a new start that changes nothing where a neuron was silent, cuts that leave the logits alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from minigpt.base.errors import UsageError
from minigpt.model import GPT, GPTConfig
from minigpt.neurons.probe import LayerStatistics, NeuronProbe
from minigpt.neurons.surgery import (
    check_choice,
    choose,
    parse_choice,
    plan_cuts,
    prune,
    recycle,
    watch_ranges,
    without_neurons,
)
from minigpt.training.config import RunConfig
from minigpt.training.optimizers import Optimizer, build_optimizer, load_state_tensors, state_tensors

CONFIG = GPTConfig(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=8, d_ff=12)
IDS = torch.randint(11, (6, 8), generator=torch.Generator().manual_seed(0))
OPTIMIZERS = ("adamw", "momentum", "lion", "muon")


def planted(activation: str = "relu", **changes: object) -> GPT:
    """Layer 0 with neurons 2 and 5 that never open; layer 1 with neuron 7 whose gate, or value, is 3 everywhere."""
    model = GPT(replace(CONFIG, activation=activation, **changes), seed=4)
    gated = model.blocks[0].mlp.act.branches == 2
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.w_in.weight *= 20  # else the logits would barely depend on the MLP
            block.mlp.w_out.weight *= 20
        first, second = model.blocks[0].mlp.w_in, model.blocks[1].mlp.w_in
        first.weight[[2, 5]] = 0
        if first.bias is not None:
            first.bias[[2, 5]] = -200.0  # there even SiLU is exactly 0
            for row in (7, 7 + 12)[: 2 if gated else 1]:
                second.weight[row], second.bias[row] = 0, 3.0
    return model


def trained(model: GPT, rule: str, steps: int = 3, lr: float = 1e-2) -> Optimizer:
    optimizer = build_optimizer(model, RunConfig(optimizer=rule))
    for _ in range(steps):
        model.zero_grad()
        F.cross_entropy(model(IDS[:, :-1]).flatten(0, 1), IDS[:, 1:].flatten()).backward()
        optimizer.step(lr)
    return optimizer


@torch.no_grad()
def watched(model: GPT) -> tuple[Tensor, list[LayerStatistics]]:
    with NeuronProbe(model) as probe:
        logits = model(IDS)
        return logits, probe.statistics()


# Which neurons


@pytest.mark.parametrize(
    "spec",
    ["", "ded", "dead:1", "none:0", "dormant", "dormant:", "dormant:x", "dormant:-1", "dormant:nan", "dormant:inf",
     "random", "random:0", "random:-1", "random:1.5", "random:9999999999", "random:1_0", "all"],
)  # fmt: skip
def test_a_choice_that_says_nothing_clear_is_refused(spec: str) -> None:
    """A misspelt mode must not recycle something else."""
    with pytest.raises(UsageError):
        parse_choice(spec)


def test_the_chosen_are_those_meant() -> None:
    """Against planted neurons: the dead, the dormant by an inclusive threshold, K at random in each layer."""
    model = planted()
    _, statistics = watched(model)
    dead = choose(parse_choice("dead"), model, statistics, 1, 0)
    assert set(dead[0].nonzero().flatten().tolist()) >= {2, 5}
    assert torch.equal(dead[0], statistics[0].fired == 0)
    nothing = choose(parse_choice("dormant:0"), model, statistics, 1, 0)
    assert torch.equal(nothing[0], dead[0])
    mean_h = statistics[1].sum_abs_h / statistics[1].tokens
    exactly = (mean_h[3] / mean_h.mean()).item()
    assert choose(parse_choice(f"dormant:{exactly * (1 + 1e-9)!r}"), model, statistics, 1, 0)[1][3]
    assert not choose(parse_choice(f"dormant:{exactly * (1 - 1e-9)!r}"), model, statistics, 1, 0)[1][3]
    drawn = [choose(parse_choice("random:5"), model, None, 1, step) for step in (0, 0, 1)]
    assert [int(mask.sum()) for mask in drawn[0]] == [5, 5]
    assert all(map(torch.equal, drawn[0], drawn[1]))
    assert not torch.equal(drawn[0][0], drawn[0][1])
    assert not torch.equal(drawn[0][0], drawn[2][0])
    assert not any(mask.any() for mask in choose(parse_choice("none"), model, None, 1, 0))


def test_random_living_ones_are_as_many_as_are_dead() -> None:
    """The control of recycling the dead: another set of equal size, drawn again for each step and layer."""
    model = planted()
    _, statistics = watched(model)
    dead = choose(parse_choice("dead"), model, statistics, 1, 0)
    drawn = [choose(parse_choice("random:dead"), model, statistics, 1, step) for step in range(8)]
    for masks in drawn:
        for mask, silent in zip(masks, dead, strict=True):
            assert int(mask.sum()) == int(silent.sum())
            assert not (mask & silent).any()
    assert all(map(torch.equal, drawn[0], choose(parse_choice("random:dead"), model, statistics, 1, 0)))
    assert len({tuple(masks[0].tolist()) for masks in drawn}) > 1
    mostly_dead = [replace(counted, fired=(torch.arange(len(counted.fired)) < 3).long()) for counted in statistics]
    for mask, counted in zip(choose(parse_choice("random:dead"), model, mostly_dead, 1, 0), mostly_dead, strict=True):
        assert int(mask.sum()) == len(counted.fired) - 3, "as many as are dead, though only three fire"
        assert mask[:3].all()


def test_more_than_a_layer_has_is_refused() -> None:
    """By the narrowest layer."""
    check_choice(parse_choice("random:12"), CONFIG.layer_widths)
    with pytest.raises(UsageError, match="layer 1 has 7"):
        check_choice(parse_choice("random:8"), replace(CONFIG, d_ff="0=12,1=7").layer_widths)


# Recycling


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", "reglu", "gelu"])
def test_recycling_the_silent_changes_no_logit(activation: str, bias: bool) -> None:
    """Where h was 0 on every token, the function is unchanged at that step, bit for bit; the neurons then live."""
    model = planted(activation, bias=bias)
    if not bias:
        with torch.no_grad():
            model.blocks[0].mlp.w_in.weight[[2, 5]] = 0  # z = 0: silent without a bias
    logits, statistics = watched(model)
    chosen = choose(parse_choice("dead"), model, statistics, 1, 0)
    assert {2, 5} <= set(chosen[0].nonzero().flatten().tolist())
    recycle(model, {}, chosen, seed=1, step=3)
    after, statistics = watched(model)
    assert torch.equal(after, logits)
    assert statistics[0].fired[[2, 5]].min() > 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("activation", ["relu", "swiglu"])
def test_exactly_the_chosen_entries_are_renewed(activation: str, optimizer: str) -> None:
    """New incoming weights, zeros in bias and outgoing weights and in every moment of them; all else is untouched."""
    model = planted(activation)
    remembering = trained(model, optimizer)
    before = {name: value.clone() for name, value in model.named_parameters()}
    moments = {name: value.clone() for name, value in state_tensors(model, remembering).items()}
    chosen = [torch.arange(12) == 4, torch.zeros(12, dtype=torch.bool)]
    recycle(model, remembering.memories, chosen, seed=1, step=3)
    rows = [4, 16] if activation == "swiglu" else [4]
    touched = {
        "blocks.0.mlp.w_in.weight": (rows, slice(None)),
        "blocks.0.mlp.w_in.bias": (rows,),
        "blocks.0.mlp.w_out.weight": (slice(None), [4]),
    }
    for name, value in model.named_parameters():
        changed = value.detach() != before[name]
        expected = torch.zeros_like(changed)
        if name in touched:
            expected[touched[name]] = True
        assert torch.equal(changed, expected), name
    assert model.blocks[0].mlp.w_out.weight[:, 4].abs().max() == 0
    assert model.blocks[0].mlp.w_in.bias[rows].abs().max() == 0
    cleared = 0
    for name, value in state_tensors(model, remembering).items():
        place = touched.get(name.split("/")[0])
        expected = moments[name].clone()
        if place is not None and value.dim():
            expected[place] = 0
            cleared += 1
        assert torch.equal(value, expected), name
    assert cleared >= 3


def test_new_weights_come_from_the_initial_distribution_and_from_nothing_else() -> None:
    """Their scale is that of the start; they depend on seed, step and number, not on which others are chosen."""
    wide = replace(CONFIG, n_embd=64, d_ff=256)
    everything, one = torch.ones(256, dtype=torch.bool), torch.arange(256) == 9
    nothing = torch.zeros(256, dtype=torch.bool)

    def renewed(config: GPTConfig, mask: Tensor, seed: int = 1, step: int = 3) -> Tensor:
        model = GPT(config)
        recycle(model, {}, [mask, nothing], seed=seed, step=step)
        return model.blocks[0].mlp.w_in.weight.detach()

    for init, std in (("gpt2", 0.02), ("matched", 1 / 8)):
        drawn = renewed(replace(wide, init=init), everything)
        assert drawn.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * drawn.numel()))
        assert not torch.equal(drawn, GPT(replace(wide, init=init)).blocks[0].mlp.w_in.weight)
    assert torch.equal(renewed(wide, everything)[9], renewed(wide, one)[9])
    assert not torch.equal(renewed(wide, one)[9], renewed(wide, one, seed=2)[9])
    assert not torch.equal(renewed(wide, one)[9], renewed(wide, one, step=4)[9])


def test_a_trapped_neuron_moves_only_by_decay() -> None:
    """No data gradient reaches its row: after n steps of AdamW it is its start times (1 − lr·decay)ⁿ."""
    model = planted()
    with torch.no_grad():
        model.blocks[0].mlp.w_in.weight[2] = 0.01 * torch.arange(1.0, 9.0)
    start = model.blocks[0].mlp.w_in.weight[2].detach().clone()
    alive = model.blocks[0].mlp.w_in.weight[0].detach().clone()
    trained(model, "adamw", steps=5, lr=1e-2)
    assert watched(model)[1][0].fired[2] == 0
    row = model.blocks[0].mlp.w_in.weight[2]
    torch.testing.assert_close(row, start * (1 - 1e-2 * 0.1) ** 5, rtol=1e-6, atol=0)
    assert model.blocks[0].mlp.w_in.bias[2] == -200.0
    assert (model.blocks[0].mlp.w_in.weight[0] - alive).abs().max() > 1e-3


# Pruning


@torch.no_grad()
def pruned(model: GPT) -> tuple[GPT, list]:
    model.eval()
    with watch_ranges(model) as ranges:
        model(IDS)
    cuts = plan_cuts(model, ranges)
    return prune(model, cuts), cuts


@pytest.mark.parametrize("activation", ["relu", "reglu", "gelu", "swiglu"])
def test_pruned_logits_are_equal(activation: str) -> None:
    """Dead neurons go, a constant one goes into the bias; what remains predicts the same with fewer parameters."""
    model = planted(activation)
    narrow, cuts = pruned(model)
    with torch.no_grad():
        before, after = model(IDS), narrow(IDS)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    assert {2, 5} <= set(cuts[0].removed.nonzero().flatten().tolist())
    assert cuts[1].removed[7]
    assert cuts[1].folded == 1
    assert narrow.parameter_count() < model.parameter_count()
    widths = [12 - int(cut.removed.sum()) for cut in cuts]
    assert [block.mlp.d_ff for block in narrow.blocks] == widths
    assert GPT(narrow.config).parameter_count() == narrow.parameter_count()
    with torch.no_grad():  # and it could have failed: without the fold the logits differ
        narrow.blocks[1].mlp.w_out.bias.copy_(model.blocks[1].mlp.w_out.bias)
        assert (narrow(IDS) - before).abs().max() > 1e-3


def test_without_a_bias_a_constant_neuron_stays() -> None:
    """There is nothing to fold it into. (Sigmoid of 0 is the constant that needs no bias.)"""
    model = planted("sigmoid", bias=False)
    with torch.no_grad():
        model.blocks[1].mlp.w_in.weight[7] = 0
    narrow, cuts = pruned(model)
    assert not cuts[1].removed[7]
    assert narrow.config == model.config


def test_a_layer_keeps_one_neuron() -> None:
    """A layer that is dead as a whole still has to be a layer."""
    model = planted()
    with torch.no_grad():
        model.blocks[0].mlp.w_in.weight.zero_()
        model.blocks[0].mlp.w_in.bias.fill_(-1.0)
    narrow, _ = pruned(model)
    assert narrow.blocks[0].mlp.d_ff == 1
    with torch.no_grad():
        torch.testing.assert_close(narrow(IDS), model(IDS), rtol=1e-5, atol=1e-5)


def test_only_the_removable_are_removed() -> None:
    """Further evidence, such as a proof, can be demanded."""
    model = planted()
    with watch_ranges(model) as ranges, torch.no_grad():
        model(IDS)
    cuts = plan_cuts(model, ranges, [torch.arange(12) == 5, torch.zeros(12, dtype=torch.bool)])
    assert [cut.removed.nonzero().flatten().tolist() for cut in cuts] == [[5], []]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("activation", ["relu", "reglu"])
def test_moments_stay_with_their_neurons(activation: str, optimizer: str) -> None:
    """What the optimizer remembers of the neurons that remain is cut to them, whatever the optimizer."""
    model = planted(activation)
    remembering = trained(model, optimizer)
    narrow, cuts = pruned(model)
    removed = [cut.removed for cut in cuts]
    config = RunConfig(optimizer=optimizer, lr=1e-2, warmup_steps=0, min_lr=0.0)
    narrow_optimizer = build_optimizer(narrow, config)
    kept = without_neurons(state_tensors(model, remembering), model, removed)
    load_state_tensors(narrow, narrow_optimizer, kept)
    again = state_tensors(narrow, narrow_optimizer)
    assert again.keys() == kept.keys()
    assert all(torch.equal(again[name], kept[name]) for name in kept)
    left = (~removed[0]).nonzero().flatten()
    name = next(name for name in kept if name.startswith("blocks.0.mlp.w_out.weight/") and kept[name].dim() == 2)
    assert torch.equal(kept[name], state_tensors(model, remembering)[name][:, left])
