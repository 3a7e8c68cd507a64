"""Low-rank adapters beside linear layers: z is what the activation reads, and what neurons write includes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_architectures import some_ids, tiny
from torch import Tensor, nn

from minigpt.neurons.find_mlps import find_mlps
from minigpt.neurons.mlp_site import MLPSite
from minigpt.neurons.probe import NeuronProbe
from minigpt.neurons.site_health import outgoing_norms_of, site_certificate

pytestmark = pytest.mark.filterwarnings("ignore")


class LowRank(nn.Module):
    """A layer and an adapter of rank 2, the way that adapters are commonly wrapped around a layer."""

    def __init__(self, base_layer: Any) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.Linear(base_layer.in_features, 2, bias=False)
        self.lora_B = nn.Linear(2, base_layer.out_features, bias=False)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base_layer(x)
        return result + self.lora_B(self.lora_A(self.dropout(x))) * 0.5


def adapted(model_type: str, *names: str) -> nn.Module:
    """A tiny model, these layers of whose MLPs have an adapter that is not zero."""
    model = tiny(model_type)
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and path.split(".")[-1] in names:
            setattr(model.get_submodule(path.rpartition(".")[0]), path.split(".")[-1], LowRank(module))
    return model.eval()


def watched(model: nn.Module, paths: dict[str, str]) -> dict[str, Tensor]:
    """Inputs or outputs of modules in one forward pass, caught by hooks written here."""
    caught: dict[str, Tensor] = {}
    for path, what in paths.items():
        model.get_submodule(path).register_forward_hook(
            lambda _, inputs, output, key=path, what=what: caught.update({key: inputs[0] if what == "in" else output})
        )
    with torch.no_grad():
        model(some_ids())
    return {path: value.reshape(-1, value.size(-1)) for path, value in caught.items()}


@pytest.mark.parametrize(
    ("model_type", "up", "down", "activation"),
    [
        ("opt", "fc1", "fc2", "relu"),
        ("llama", "gate_proj", "down_proj", "swiglu"),
        ("nemotron", "up_proj", "", "relu2"),
    ],
)
def test_z_is_the_sum_with_the_adapter(model_type: str, up: str, down: str, activation: str) -> None:
    """The layer below alone would give other openings, and an activation that nobody recognises."""
    model = adapted(model_type, up, down)
    sites = find_mlps(model, some_ids())
    assert [site.activation for site in sites] == [activation] * 2
    with torch.no_grad(), NeuronProbe.for_modules({site.name: site for site in sites}) as probe:
        model(some_ids())
    for site, counted in zip(sites, probe.statistics(), strict=True):
        wrapper = next(path for path, module in model.named_modules() if module is site.gate)
        seen = watched(model, {wrapper: "out", site.name: "in", f"{wrapper}.base_layer": "out"})
        assert counted.z_known
        assert counted.opened.tolist() == (seen[wrapper] > 0).sum(0).tolist()
        assert counted.opened.tolist() != (seen[f"{wrapper}.base_layer"] > 0).sum(0).tolist()
        assert counted.fired.tolist() == (seen[site.name] != 0).sum(0).tolist()


def test_what_neurons_write_includes_the_adapter() -> None:
    """The columns of the layer alone are not what reaches the residual stream."""
    site = find_mlps(adapted("opt", "fc2"), some_ids())[0]
    assert isinstance(site.writer, LowRank)
    whole = site.down.weight + 0.5 * site.writer.lora_B.weight @ site.writer.lora_A.weight  # type: ignore[operator]
    torch.testing.assert_close(site.weight, whole.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outgoing_norms_of(site), whole.detach().double().norm(dim=0), rtol=1e-4, atol=1e-5)


def test_an_adapter_that_is_still_zero_proves_nothing() -> None:
    """It will be trained: a proof from the weights of the layer alone would not outlive the first step."""
    model = adapted("opt", "fc1")
    for module in model.modules():
        if isinstance(module, LowRank):
            nn.init.zeros_(module.lora_B.weight)
    site: MLPSite = find_mlps(model, some_ids())[0]
    assert site.activation == "relu"
    assert isinstance(site.gate, LowRank)
    assert site_certificate(site, "float32") is None


class Beside(nn.Module):
    """A model that adds the adapter itself, in no module whose output z would be."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.up, self.side = nn.Embedding(99, 8), nn.Linear(8, 16), nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        made: Tensor = x + self.down(torch.relu(self.up(x) + self.side(x)))
        return made


def test_a_sum_that_no_module_makes_is_not_taken_for_z() -> None:
    """Then z is not known, which is said, and h is counted all the same."""
    model = Beside().eval()
    (site,) = find_mlps(model, some_ids())
    with torch.no_grad(), NeuronProbe.for_modules({"mlp": site}) as probe:
        model(some_ids())
    (counted,) = probe.statistics()
    assert site.gate is None
    assert not counted.z_known
    assert counted.tokens == some_ids().numel()
