"""Norms recovered from their answers: LayerNorm and RMSNorm of every make, and what is neither."""

from __future__ import annotations

import pytest
import torch
from tiny_architectures import some_ids, tiny
from torch import Tensor, nn

from minigpt.neurons.find_mlps import find_mlps
from minigpt.neurons.recovered_norm import recover_norm


def random_norm(norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("norm", "centred"),
    [
        (nn.LayerNorm(48), True),
        (nn.LayerNorm(48, bias=False), True),
        (nn.LayerNorm(48, elementwise_affine=False), True),
        (nn.RMSNorm(48, eps=1e-6), False),
    ],
)
def test_torchs_own_norms(norm: nn.Module, centred: bool, dtype: torch.dtype) -> None:
    """Gain, offset and centring are what the module holds, also where it holds none."""
    norm = random_norm(norm).to(dtype)
    found = recover_norm(norm, 48)
    assert found is not None
    assert found.centred is centred
    gain = getattr(norm, "weight", None)
    offset = getattr(norm, "bias", None)
    expected = torch.ones(48) if gain is None else gain.detach().float()
    torch.testing.assert_close(found.gain.float(), expected, rtol=1e-4, atol=1e-4)
    expected = torch.zeros(48) if offset is None else offset.detach().float()
    torch.testing.assert_close(found.offset.float(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", ["gemma", "nemotron", "olmo", "llama", "cohere", "opt"])
def test_norms_of_other_makes(model_type: str) -> None:
    """1 + γ, no parameters, other classes: the norm that feeds the MLP answers as recovered to a new vector."""
    model = tiny(model_type)
    site = find_mlps(model, some_ids())[0]
    assert site.norm is not None
    found = recover_norm(random_norm(site.norm), 32)
    assert found is not None
    x = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(9)) * 10
    centred = x - x.mean() if found.centred else x
    expected = centred / centred.square().mean().sqrt() * found.gain.float() + found.offset.float()
    torch.testing.assert_close(site.norm(x).detach(), expected, rtol=1e-3, atol=1e-3)


class Squashing(nn.Module):
    """Scale-free, but no norm."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sign()


@pytest.mark.parametrize(
    "module", [nn.Identity(), nn.Linear(48, 48), nn.Tanh(), Squashing(), nn.BatchNorm1d(48), nn.Linear(7, 48)]
)
def test_what_is_no_norm_bounds_nothing(module: nn.Module) -> None:
    """A certificate built on it would be false."""
    assert recover_norm(module, 48) is None
