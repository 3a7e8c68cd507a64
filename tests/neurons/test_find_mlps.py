"""MLPs found in models of other people: the right places, the right activation, and refusals with their reason."""

from __future__ import annotations

import pytest
import torch
from small_models import small_config
from tiny_architectures import ARCHITECTURES, some_ids, tiny
from torch import Tensor, nn

from minigpt.activations import list_activations
from minigpt.base.errors import UsageError
from minigpt.model import GPT
from minigpt.neurons import find_mlps as find_mlps_module
from minigpt.neurons.find_mlps import find_mlps
from minigpt.neurons.mlp_site import MLPSite


def captured(model: nn.Module, module: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
    """What a module read and wrote in one forward pass."""
    kept: list[tuple[Tensor, Tensor]] = []
    handle = module.register_forward_hook(lambda m, inputs, output: kept.append((inputs[0], output)))
    with torch.no_grad():
        model(ids)
    handle.remove()
    return kept[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_architecture_is_found_without_its_name(model_type: str) -> None:
    """Each block's neurons once, as many as the configuration says, with the activation that computes them."""
    _, neurons, sites_of_a_block, activation = ARCHITECTURES[model_type]
    sites = find_mlps(tiny(model_type), some_ids())
    assert [site.block for site in sites] == [block for block in (0, 1) for _ in range(sites_of_a_block)]
    assert {(site.neurons, site.activation) for site in sites} == {(neurons, activation)}
    assert all(site.weight.shape == (32, neurons) for site in sites)
    if sites_of_a_block > 1:
        assert [site.expert for site in sites] == [*range(sites_of_a_block)] * 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", ["gpt2", "phi3", "gemma", "falcon", "olmo2"])
def test_z_is_what_the_activation_reads(model_type: str) -> None:
    """Recomputing h from the z of the site, and for gated layers its sign, gives what the projection reads."""
    model, ids = tiny(model_type), some_ids()
    for site in find_mlps(model, ids):
        assert site.gate is not None
        z = site.z(captured(model, site.gate, ids)[1])
        h = captured(model, site.down, ids)[0]
        assert z.shape == h.shape
        entry = next(entry for entry in list_activations() if entry.name == site.activation)
        phi = entry.function(z)
        if site.gated:
            value = h / phi
            assert torch.isfinite(value[phi.abs() > 1e-6]).all()
        else:
            torch.testing.assert_close(phi, h)


@pytest.mark.parametrize("spec", [entry.name for entry in list_activations() if entry.name != "identity"])
def test_our_own_models_are_found(spec: str) -> None:
    """Every activation of the registry that bends: in each layer, at `w_out`, with its width; linear ones have none."""
    model = GPT(small_config(activation=spec))
    ids = torch.randint(31, (2, 12), generator=torch.Generator().manual_seed(0))
    if not next(entry for entry in list_activations() if entry.name == spec).elementwise:
        with pytest.raises(UsageError, match="no MLP was recognised"):
            find_mlps(model, ids)
        return
    sites = find_mlps(model, ids)
    assert [site.down for site in sites] == [block.mlp.w_out for block in model.blocks]
    assert [site.gate for site in sites] == [block.mlp.w_in for block in model.blocks]
    assert [site.neurons for site in sites] == list(model.config.layer_widths)
    assert [site.norm for site in sites] == [block.ln_2 for block in model.blocks]


@pytest.mark.filterwarnings("ignore")
def test_dense_and_packed_layers_side_by_side() -> None:
    """A shared expert beside routed ones: all are found, the routed ones by their slice."""
    model = tiny(
        "qwen2_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, shared_expert_intermediate_size=40
    )
    sites = find_mlps(model, some_ids())
    assert sorted((site.block, site.neurons, site.expert) for site in sites if site.expert is not None) == [
        (block, 24, expert) for block in (0, 1) for expert in range(4)
    ]
    assert [(site.block, site.neurons) for site in sites if site.expert is None] == [(0, 40), (1, 40)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model_type", "reason"), [("mamba", "no MLP was recognised"), ("nemotron_h", "disagree")])
def test_what_has_no_mlp_in_each_block_is_refused(model_type: str, reason: str) -> None:
    """A state-space model's gates are no neurons; counting half the blocks would be miscounting."""
    with pytest.raises(UsageError, match=reason) as refusal:
        find_mlps(tiny(model_type), some_ids())
    assert "for_modules" in str(refusal.value)


class Misleading(nn.Module):
    """An MLP whose output does not depend on its second matrix alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.up, self.down = nn.Embedding(99, 8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        h = self.up(x).relu()
        return x + self.down(h) + self.down.weight.sum()


def test_a_site_that_fails_its_test_is_refused() -> None:
    """Where clearing a column is not silencing a neuron, its figures would be of something else."""
    with pytest.raises(UsageError, match="down is not where its neurons are read"):
        find_mlps(Misleading().eval(), some_ids())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_or_empty_model_is_refused() -> None:
    """Hooks would never fire in the first; the second has no values."""
    with pytest.raises(UsageError, match="compiled"):
        find_mlps(torch.compile(GPT(small_config())), some_ids())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="meta device"):
        find_mlps(GPT(small_config()).to("meta"), some_ids())


def test_a_model_is_left_as_it_was() -> None:
    """Mode, weights and hooks; finding sites clears columns and gives them back."""
    model = GPT(small_config(dropout=0.5)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    find_mlps(model, torch.randint(31, (2, 12)))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_test_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the wrong neuron were silenced, every site would be refused."""
    silenced = find_mlps_module._Silenced
    monkeypatch.setattr(find_mlps_module, "_Silenced", lambda weight, neuron: silenced(weight, neuron - 1))
    with pytest.raises(UsageError, match="is not where"):
        find_mlps(GPT(small_config(init="matched", init_bias=0.5)), torch.randint(31, (2, 12)))


def test_sites_are_plain_data() -> None:
    """A site names its place; what it needs at run time are modules of the model itself."""
    site = find_mlps(GPT(small_config()), torch.randint(31, (2, 12)))[0]
    assert isinstance(site, MLPSite)
    assert (site.name, site.parameter, site.gate_parameter) == ("blocks.0.mlp.w_out", "weight", "weight")
