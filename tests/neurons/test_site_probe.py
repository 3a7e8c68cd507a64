"""Counts at places of any model: exact against a loop written apart, with masks, experts, half precision; refusals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import lively_model, random_ids, small_config
from tiny_architectures import ARCHITECTURES, some_ids, tiny
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minigpt.base.errors import DivergedError, UsageError
from minigpt.neurons import site_probe
from minigpt.neurons.find_mlps import evaluating, find_mlps
from minigpt.neurons.health import model_health
from minigpt.neurons.layer_statistics import DeepStatistics, LayerStatistics
from minigpt.neurons.mlp_site import MLPSite
from minigpt.neurons.probe import NeuronProbe
from minigpt.neurons.site_health import site_certificate, sites_health

pytestmark = pytest.mark.filterwarnings("ignore")

DEAD, CONSTANT, ALWAYS = 3, 5, 7


class Watch(TorchFunctionMode):
    """The loop written apart: every input of a product with one weight, row by row, in Python numbers."""

    def __init__(self, site: MLPSite) -> None:
        super().__init__()
        weight = getattr(site.down, site.parameter)
        self.place = (weight if site.expert is None else weight[site.expert]).data_ptr()
        self.size = site.weight.numel()
        self.rows: list[list[float]] = []

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in ("linear", "addmm", "mm", "matmul", "__matmul__"):
            for read, weight in itertools.pairwise(args):
                if isinstance(weight, Tensor) and (weight.data_ptr(), weight.numel()) == (self.place, self.size):
                    self.rows += read.detach().double().reshape(-1, read.shape[-1]).tolist()
        return func(*args, **(kwargs or {}))


def plant(site: MLPSite) -> None:
    """Give three neurons of a site a known life: one never fires, where the activation allows; all by weights alone."""
    weight: Tensor = getattr(site.gate, site.gate_parameter).data
    weight = weight if site.expert is None else weight[site.expert]
    rows = weight if site.rows_are_outputs else weight.T
    rows[site.start + site.step * DEAD] = 0.0
    bias = getattr(site.gate, "bias", None)
    if isinstance(bias, Tensor):
        bias.data[site.start + site.step * DEAD] = 0.0
        rows[site.start + site.step * CONSTANT] = 0.0
        bias.data[site.start + site.step * CONSTANT] = 2.0


def brute(rows: list[list[float]]) -> tuple[int, list[int], list[float]]:
    """Tokens, how often each neuron fired, and its sum."""
    if not rows:
        return 0, [], []
    columns = list(zip(*rows, strict=True))
    return len(rows), [sum(value != 0 for value in column) for column in columns], [math.fsum(c) for c in columns]


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_counts_are_those_of_a_loop_written_apart(model_type: str) -> None:
    """Each site of each architecture, experts with their own tokens; a neuron planted dead is dead, alone or not."""
    model = tiny(model_type)
    sites = find_mlps(model, some_ids())
    for site in sites:
        if site.gate is not None:
            plant(site)
    ids = some_ids(3, 11)
    places = {f"{number}": site for number, site in enumerate(sites)}
    with evaluating(model), NeuronProbe.for_modules(places) as probe:
        model(ids)
        model(ids[:1, :4])
    counted = probe.statistics()
    for site, found in zip(sites, counted, strict=True):
        watch = Watch(site)
        with evaluating(model), watch:
            model(ids)
            model(ids[:1, :4])
        tokens, fired, sums = brute(watch.rows)
        assert found.tokens == tokens
        if tokens:
            assert found.fired.tolist() == fired
            assert found.sum_h.tolist() == pytest.approx(sums, rel=1e-9, abs=1e-9)
            if site.activation in ("relu", "relu2", "gelu", "gelu_tanh", "swiglu", "geglu_tanh"):
                assert fired[DEAD] == 0
    assert sum(found.tokens for found in counted) >= 3 * 11 + 4
    if all(site.expert is None for site in sites):
        calls = {found.tokens for found in counted}
        assert calls == {3 * 11 + 4}


@pytest.mark.parametrize("activation", ["relu", "gelu", "swiglu"])
def test_it_agrees_with_the_probe_of_our_own_models(activation: str) -> None:
    """The same model by `find_mlps`, by its activation modules and by `NeuronProbe(model)`: the same statistics."""
    model = lively_model(small_config(activation=activation, n_layer=3))
    ids = random_ids(model.config, batch=5)
    sites = find_mlps(model, ids)
    by_activation = {f"{k}": block.mlp.act for k, block in enumerate(model.blocks)}
    with (
        torch.no_grad(),
        NeuronProbe(model) as ours,
        NeuronProbe.for_modules({site.name: site for site in sites}) as theirs,
        NeuronProbe.for_modules(by_activation) as modules,
    ):
        model(ids)
    for one, two, three in zip(ours.statistics(), theirs.statistics(), modules.statistics(), strict=True):
        for other in (two, three):
            assert (one.tokens, one.fired.tolist(), one.opened.tolist()) == (
                other.tokens, other.fired.tolist(), other.opened.tolist()
            )  # fmt: skip
            torch.testing.assert_close(one.sum_square_h, other.sum_square_h, rtol=1e-12, atol=0)
    health = sites_health({site.name: site for site in sites}, theirs.statistics())
    for mine, found in zip(model_health(model, ours.statistics()), health, strict=True):
        assert mine.inert_fraction == found.inert_fraction
        assert mine.never_positive_fraction == found.never_positive_fraction
    unknown = sites_health(by_activation, modules.statistics())[0]
    assert math.isnan(unknown.inert_fraction)
    assert unknown.dead_fraction == health[0].dead_fraction


def simple() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))


def statistics_of(net: nn.Sequential, place: nn.Module, x: Tensor, mask: Tensor | None = None) -> LayerStatistics:
    with torch.no_grad(), NeuronProbe.for_modules({"mlp": place}) as probe:
        probe.mask = mask
        net(x)
    return probe.statistics()[0]


def test_plain_modules_two_or_three_dimensions() -> None:
    """An activation or the layer after it; (N,C) as (B,T,C); merged by sums."""
    net, x = simple(), torch.randn(6, 4, 8)
    whole = statistics_of(net, net[1], x)
    assert whole.tokens == 24
    assert whole.fired.tolist() == (net[1](net[0](x)) != 0).sum((0, 1)).tolist()
    for other in (statistics_of(net, net[2], x), statistics_of(net, net[1], x.reshape(24, 8))):
        assert other.fired.tolist() == whole.fired.tolist()
    assert not statistics_of(net, net[2], x).z_known
    parts = statistics_of(net, net[1], x[:2]).merge(statistics_of(net, net[1], x[2:]))
    assert (parts.tokens, parts.fired.tolist()) == (whole.tokens, whole.fired.tolist())


def test_padding_is_left_out() -> None:
    """Half of what padding would add is not zero, and would hide the dead."""
    net, x = simple(), torch.randn(6, 4, 8)
    mask = torch.arange(4) < torch.tensor([[4], [1], [2], [4], [3], [0]])
    counted = statistics_of(net, net[1], x, mask=mask)
    assert counted.tokens == int(mask.sum())
    assert counted.fired.tolist() == (net[1](net[0](x[mask])) != 0).sum(0).tolist()
    with pytest.raises(UsageError, match=r"saw 24 tokens, the mask has 20"):
        statistics_of(net, net[1], x, mask=torch.ones(5, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_counts_what_is_computed(dtype: torch.dtype) -> None:
    """Zeros are those of the dtype that the model runs in; sums are float64."""
    net, x = simple().to(dtype), torch.randn(5, 7, 8).to(dtype)
    counted = statistics_of(net, net[1], x)
    h = net[1](net[0](x))
    assert counted.fired.tolist() == (h != 0).sum((0, 1)).tolist()
    torch.testing.assert_close(counted.sum_h, h.double().sum((0, 1)))


def test_a_shared_layer_counts_each_call() -> None:
    """ALBERT calls one MLP for every block: its neurons see each token as often."""
    layer = simple()
    with torch.no_grad(), NeuronProbe.for_modules({"shared": layer[1]}) as probe:
        x = torch.randn(3, 5, 8)
        for _ in range(4):
            x = layer(x)
    assert probe.statistics()[0].tokens == 60


@pytest.mark.parametrize("activation", ["relu", "gelu", "swiglu"])
@pytest.mark.parametrize("cached", [1 << 18, 300])
def test_sequences_and_slopes_are_those_of_the_deep_probe(
    activation: str, cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same model by its sites: first firings, largest z, flat tokens; however it is cut to fit the cache."""
    monkeypatch.setattr(site_probe, "CACHED_VALUES", cached)
    model = lively_model(small_config(activation=activation, n_layer=2))
    sites = {site.name: site for site in find_mlps(model, random_ids(model.config))}
    batches = [random_ids(model.config, batch=size) for size in (5, 2)]
    with (
        torch.no_grad(),
        NeuronProbe(model, deep=True) as ours,
        NeuronProbe.for_modules(sites, deep=True, slopes=True) as theirs,
    ):
        for ids in batches:
            theirs.expect(ids.shape)
            model(ids)
    for one, two in zip(ours.statistics(), theirs.statistics(), strict=True):
        mine, found = one.deep, two.deep
        assert mine is not None
        assert found is not None
        assert found.sequences == mine.sequences == 7
        for name in ("fired_sequences", "first_sequence", "max_z"):
            assert torch.equal(getattr(found, name), getattr(mine, name)), name
        assert mine.slopes is not None
        assert found.slopes is not None
        assert torch.equal(found.slopes.flat, mine.slopes.flat)
        torch.testing.assert_close(found.slopes.sum_square_slope, mine.slopes.sum_square_slope)


def deep_of(model: nn.Module, ids: Tensor, mask: Tensor | None = None) -> list[DeepStatistics | None]:
    places = {f"{number}": site for number, site in enumerate(find_mlps(model, ids))}
    with evaluating(model), NeuronProbe.for_modules(places, deep=True, slopes=True) as probe:
        probe.expect(ids.shape, mask)
        model(ids)
    return [found.deep for found in probe.statistics() if found.tokens]


def test_sequences_of_two_dimensions_and_of_a_part_of_the_positions() -> None:
    """OPT's h is (B·T,F): the ids say where a sequence ends; the first position left out leaves whole sequences."""
    ids = some_ids(3, 11)
    model: Any = tiny("opt")
    later = torch.ones(3, 11).index_fill(1, torch.tensor([0]), 0)
    read: list[Tensor] = []
    model.model.decoder.layers[0].fc2.register_forward_pre_hook(
        lambda _, inputs: read.append(inputs[0].reshape(3, 11, -1))
    )
    for mask, first in ((None, 0), (later, 1)):
        found = deep_of(model, ids, mask)[0]
        assert found is not None
        assert found.sequences == 3
        assert found.fired_sequences.tolist() == (read[-1][:, first:] != 0).any(1).sum(0).tolist()


def test_sequences_that_cannot_be_told_are_not_made_up() -> None:
    """Experts get tokens of any sequence, a shared layer gets each of them again, padding leaves them uneven."""
    ids = some_ids(4, 8)
    assert set(deep_of(tiny("qwen3_moe"), ids)) == {None}
    assert set(deep_of(tiny("opt"), ids, torch.arange(8) < torch.tensor([[8], [3], [5], [8]]))) == {None}
    layer = simple()
    with torch.no_grad(), NeuronProbe.for_modules({"shared": layer[1]}, deep=True) as probe:
        probe.expect((3, 5))
        layer(layer(torch.randn(3, 5, 8)))
    assert probe.statistics()[0].deep is None


def test_what_cannot_be_counted_is_refused() -> None:
    """Compiled, empty, quantised, unused, not finite, or twice by checkpointing: each with its reason."""
    from torch.utils.checkpoint import checkpoint

    net = simple()
    with pytest.raises(UsageError, match="compiled"):
        NeuronProbe.for_modules({"mlp": torch.compile(net)})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="meta device"):
        NeuronProbe.for_modules({"mlp": simple().to("meta")[2]})
    with pytest.raises(UsageError, match="saw no token"), NeuronProbe.for_modules({"mlp": net[1]}) as probe:
        probe.statistics()
    with pytest.raises(DivergedError, match="mlp has hidden values that are not finite"):
        statistics_of(net, net[1], torch.full((2, 3, 8), math.nan))
    with pytest.raises(UsageError, match="gradient checkpointing"), NeuronProbe.for_modules({"mlp": net[1]}):
        checkpoint(net, torch.randn(2, 3, 8, requires_grad=True), use_reentrant=False).sum().backward()


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_experts_leave_padding_out(model_type: str) -> None:
    """With a mask, each expert counts what it counts on the tokens alone, though it sees them in another order."""
    model, ids = tiny(model_type), some_ids(3, 8)
    lengths = (8, 3, 5)
    places = {f"{number}": site for number, site in enumerate(find_mlps(model, ids)) if site.block == 0}
    with evaluating(model), NeuronProbe.for_modules(places) as padded:
        padded.mask = torch.arange(8) < torch.tensor(lengths)[:, None]
        model(ids)
    with evaluating(model), NeuronProbe.for_modules(places) as alone:
        for row, length in zip(ids, lengths, strict=True):
            model(row[None, :length])
    for one, two in zip(padded.statistics(), alone.statistics(), strict=True):
        assert (one.tokens, one.fired.tolist(), one.opened.tolist()) == (
            two.tokens, two.fired.tolist(), two.opened.tolist()
        )  # fmt: skip
    sent = model.config.num_experts_per_tok  # type: ignore[union-attr]
    assert sum(found.tokens for found in padded.statistics()) == sum(lengths) * sent


def test_experts_whose_tokens_cannot_be_followed_refuse_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask would leave out other tokens than the padding: no figure is better than that one."""
    monkeypatch.setattr(site_probe, "_row_numbers", lambda func, args: None)
    model, ids = tiny("mixtral"), some_ids(3, 8)
    places = {f"{number}": site for number, site in enumerate(find_mlps(model, ids))}
    with evaluating(model), NeuronProbe.for_modules(places) as probe:
        probe.mask = torch.ones(3, 8)
        with pytest.raises(UsageError, match=r"order that cannot be followed.*evaluate without padding"):
            model(ids)


def test_experts_in_one_fused_product_are_not_taken_for_unused() -> None:
    """By default transformers runs packed experts at once, which no hook sees: all of them would look dead."""
    model: Any = tiny("qwen3_moe")
    places = {f"{number}": site for number, site in enumerate(find_mlps(model, some_ids()))}
    with torch.no_grad(), NeuronProbe.for_modules(places) as probe:
        model(some_ids())
    with pytest.raises(UsageError, match=r'one by one with model.set_experts_implementation\("eager"\)'):
        probe.statistics()


def test_hooks_are_gone_afterwards() -> None:
    """Also after an error inside."""
    net = simple()
    with pytest.raises(ZeroDivisionError), NeuronProbe.for_modules({"mlp": net[1], "reader": net[2]}):
        1 / 0  # noqa: B018
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("model_type", ["opt", "nemotron", "persimmon", "arcee"])
def test_planted_death_is_proven_from_the_weights(model_type: str) -> None:
    """A bias that no normalised input can overcome: proven; all others are not, and none of them exceeds its bound."""
    model = tiny(model_type, **({"mlp_bias": True} if model_type == "arcee" else {}))
    site = find_mlps(model, some_ids())[0]
    assert site.gate is not None
    if getattr(site.gate, "bias", None) is None:
        assert not site_certificate(site, "float32").any()  # type: ignore[union-attr]
        return
    with torch.no_grad():
        site.gate.bias[DEAD] = -1000.0  # type: ignore[index]
    proven = site_certificate(site, "float32")
    assert proven is not None
    assert proven.nonzero().flatten().tolist() == [DEAD]


def test_nothing_is_proven_of_smooth_neurons_or_without_a_norm() -> None:
    """GELU is not exactly 0, and OLMo2 has no norm before its MLP."""
    for model_type in ("gpt2", "olmo2"):
        assert site_certificate(find_mlps(tiny(model_type), some_ids())[0], "float32") is None
