"""The probe: it counts exactly, sees planted death, changes nothing, and refuses what it would count wrongly."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from minigpt.base.errors import UsageError
from minigpt.model import GPT, GPTConfig
from minigpt.neurons.health import model_health
from minigpt.neurons.probe import LayerStatistics, NeuronProbe

COUNTS = ("tokens", "fired", "opened")
SUMS = ("sum_h", "sum_abs_h", "sum_square_h")


def small_model(activation: str = "relu", seed: int = 0, **changes: object) -> GPT:
    sizes: dict[str, object] = {"vocab_size": 29, "block_size": 16, "n_layer": 3, "n_head": 2, "n_embd": 16}
    return GPT(GPTConfig(activation=activation, **(sizes | changes)), seed).eval()  # type: ignore[arg-type]


def random_ids(batch: int = 12, time: int = 16, seed: int = 0) -> Tensor:
    return torch.randint(29, (batch, time), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def probed(model: GPT, batches: list[Tensor]) -> list[LayerStatistics]:
    with NeuronProbe(model) as probe:
        for ids in batches:
            model(ids)
    return probe.statistics()


@torch.no_grad()
def plant_dead(model: GPT, layer: int, neurons: list[int]) -> None:
    """Neurons whose pre-activation is −1 whatever the input."""
    w_in = model.blocks[layer].mlp.w_in
    w_in.weight[neurons] = 0
    w_in.bias[neurons] = -1


def assert_equal_statistics(one: LayerStatistics, two: LayerStatistics) -> None:
    assert one.tokens == two.tokens
    for name in COUNTS[1:]:
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    for name in SUMS:
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=1e-12, atol=1e-12)


# What it counts


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("planted", [0, 1, 7, 64])
def test_reports_exactly_the_planted_dead_neurons(planted: int, bfloat16: bool):
    """The instrument's first duty: k dead neurons in one layer are k there and none elsewhere."""
    model = small_model(seed=2, init="matched")
    neurons = torch.randperm(64, generator=torch.Generator().manual_seed(planted))[:planted].sort().values
    plant_dead(model, 1, neurons.tolist())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        statistics = probed(model, [random_ids(), random_ids(seed=1)])
    assert torch.equal((statistics[1].fired == 0).nonzero().flatten(), neurons)
    assert [layer.dead_fraction for layer in model_health(model, statistics)] == [0, planted / 64, 0]
    assert all(layer.tokens == 2 * 12 * 16 for layer in statistics)


@pytest.mark.parametrize("activation", ["relu", "gelu", "0=prelu,1=tanh,2=reglu", "swiglu"])
@given(cuts=st.sets(st.integers(1, 11)), order=st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_statistics_equal_an_offline_computation(activation: str, cuts: set[int], order):
    """However the text is cut into batches, in whatever order parts are merged: the same counts and sums."""
    model = small_model(activation, init="matched")
    ids = random_ids()
    edges = [0, *sorted(cuts), 12]
    batches = [ids[first:last] for first, last in pairwise(edges)]
    stored: list[list[tuple[Tensor, Tensor]]] = [[] for _ in model.blocks]
    handles = [
        block.mlp.act.register_forward_hook(lambda m, i, h, kept=kept: kept.append((i[0], h)))
        for block, kept in zip(model.blocks, stored, strict=True)
    ]
    whole = probed(model, batches)
    for handle in handles:
        handle.remove()
    parts = [probed(model, [batch]) for batch in batches]
    order.shuffle(parts)
    for layer, kept in enumerate(stored):
        x = torch.cat([x.flatten(0, 1) for x, _ in kept])
        h = torch.cat([h.flatten(0, 1) for _, h in kept])
        z = x if x.shape == h.shape else x[:, : h.size(1)]
        h64 = h.double()
        offline = LayerStatistics(
            tokens=len(h),
            fired=(h != 0).sum(0),
            opened=(z > 0).sum(0),
            sum_h=h64.sum(0),
            sum_abs_h=h64.abs().sum(0),
            sum_square_h=h64.square().sum(0),
        )
        assert_equal_statistics(whole[layer], offline)
        merged = parts[0][layer]
        for part in parts[1:]:
            merged = merged.merge(part[layer])
        assert_equal_statistics(merged, offline)


def test_statistics_are_exact_integers_and_float64():
    """float32 counts stand still at 2²⁴ = 16,777,216 tokens, which a large evaluation passes."""
    layer = probed(small_model(), [random_ids()])[0]
    assert {field.name for field in fields(layer)} == {*COUNTS, *SUMS, "deep", "z_known"}
    assert {layer.fired.dtype, layer.opened.dtype} == {torch.int64}
    assert {getattr(layer, name).dtype for name in SUMS} == {torch.float64}


@pytest.mark.parametrize("start", [2**24, 2**31, 2**40])
def test_counts_go_on_past_the_limits_of_float32_and_int32(start: int):
    """After 2²⁴ and 2³¹ tokens one more token is still one more."""
    model = small_model()
    ids = random_ids()
    alone = probed(model, [ids])
    with NeuronProbe(model) as probe, torch.no_grad():
        for counter, _ in probe._counters:
            counter.tokens += start
            counter.fired += start
            counter.opened += start
        model(ids)
    for layer, base in zip(probe.statistics(), alone, strict=True):
        assert layer.tokens == start + base.tokens
        assert torch.equal(layer.fired, start + base.fired)
        assert torch.equal(layer.opened, start + base.opened)


@pytest.mark.parametrize("activation", ["reglu", "swiglu", "glu", "bilinear"])
def test_z_of_a_gated_layer_is_the_gates_input(activation: str):
    """A gate that never opens is `never positive` whatever the value branch does."""
    model = small_model(activation)
    mlp = model.blocks[0].mlp
    with torch.no_grad():
        mlp.w_in.weight[:3] = 0
        mlp.w_in.bias[:3] = torch.tensor([-1.0, 1.0, -2.0])  # three gates: shut, open, shut
        mlp.w_in.weight[mlp.d_ff + 4] = 0
        mlp.w_in.bias[mlp.d_ff + 4] = -1.0  # a value branch, not a gate
    layer = probed(model, [random_ids()])[0]
    assert layer.opened[:3].tolist() == [0, layer.tokens, 0]
    assert 0 < layer.opened[4] < layer.tokens
    assert (layer.fired[[0, 2]] == 0).all() == (activation == "reglu")


def test_open_means_above_zero():
    """A pre-activation of exactly 0 is shut, for ReLU gives 0 there and no gradient; −0.0 is no firing either."""
    model = small_model("identity")
    w_in = model.blocks[0].mlp.w_in
    with torch.no_grad():
        w_in.weight[:4] = 0
        w_in.bias[:4] = torch.tensor([0.0, -0.0, 1e-30, -1e-30])
    layer = probed(model, [random_ids()])[0]
    assert layer.opened[:4].tolist() == [0, 0, layer.tokens, 0]
    assert layer.fired[:4].tolist() == [0, 0, layer.tokens, layer.tokens]


# What it must not change


@pytest.mark.parametrize("activation", ["relu", "swiglu", "prelu"])
def test_probing_changes_nothing(activation: str):
    """Logits and gradients bit for bit, training flags and the random state as they were."""
    ids = random_ids()
    runs = []
    for probing in (False, True):
        model = small_model(activation, dropout=0.3).train()
        model.blocks[1].mlp.eval()
        flags = [module.training for module in model.modules()]
        probe = NeuronProbe(model)
        torch.manual_seed(5)
        if probing:
            with probe:
                logits = model(ids)
        else:
            logits = model(ids)
        state = torch.get_rng_state()
        F.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
        assert [module.training for module in model.modules()] == flags
        runs.append((logits, state, [parameter.grad for parameter in model.parameters()]))
    (plain, plain_state, plain_gradients), (logits, state, gradients) = runs
    assert torch.equal(plain, logits)
    assert torch.equal(plain_state, state)
    assert all(torch.equal(one, two) for one, two in zip(plain_gradients, gradients, strict=True))


def test_draws_no_random_number():
    """Else evaluating more often would change what is learned."""
    model = small_model()
    before = torch.get_rng_state()
    probed(model, [random_ids()])
    assert torch.equal(torch.get_rng_state(), before)


def test_hooks_are_gone_afterwards_even_after_an_error():
    """A hook left behind would count, and cost, for ever."""
    model = small_model()
    with pytest.raises(UsageError, match="do not fit"), NeuronProbe(model):
        model(random_ids(time=17))
    assert all(not module._forward_hooks for module in model.modules())
    with NeuronProbe(model) as probe:
        model(random_ids())
    before = probe.statistics()
    model(random_ids())
    assert_equal_statistics(before[0], probe.statistics()[0])
    assert all(not module._forward_hooks for module in model.modules())


def test_a_second_use_begins_anew():
    """Counts of an earlier text must not leak into the next."""
    model = small_model()
    probe = NeuronProbe(model)
    for _ in range(2):
        with probe, torch.no_grad():
            model(random_ids())
        assert probe.statistics()[0].tokens == 12 * 16


# What it refuses


def test_refuses_a_compiled_model():
    """Hooks added after compiling never fire (pytorch#117758): every neuron would read as dead."""
    with pytest.raises(UsageError, match="plain model; got OptimizedModule"):
        NeuronProbe(torch.compile(small_model(), backend="eager"))


def test_refuses_a_model_compiled_in_place():
    """`module.compile()` keeps the type and compiles the call all the same."""
    model = small_model()
    model.compile(backend="eager")
    with pytest.raises(UsageError, match="compiled"):
        NeuronProbe(model)
    model = small_model()
    model.blocks[1].mlp.compile(backend="eager")
    with pytest.raises(UsageError, match="compiled"):
        NeuronProbe(model)


def test_refuses_to_speak_without_having_seen_a_token():
    """No token and all dead look the same in the counts."""
    model = small_model()
    with NeuronProbe(model) as probe:
        pass
    with pytest.raises(UsageError, match="saw no token"):
        probe.statistics()
    with pytest.raises(UsageError, match="saw no token"):
        NeuronProbe(model).statistics()


def test_refuses_a_shared_activation_module():
    """Two layers that share one module would be counted as one."""
    model = small_model()
    model.blocks[2].mlp.act = model.blocks[0].mlp.act
    with pytest.raises(UsageError, match="two layers share one"):
        NeuronProbe(model)
