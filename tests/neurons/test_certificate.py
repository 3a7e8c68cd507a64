"""The death certificate: never exceeded by any input, attained by one, and silent where it proves nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from minigpt.activations import list_activations
from minigpt.model import GPT, Block, GPTConfig
from minigpt.neurons import certificate
from minigpt.neurons.certificate import (
    adversarial_input,
    certified_dead,
    inapplicable,
    largest_computed_preactivation,
    largest_preactivation,
)

WIDTH = 24


def random_block(norm: str = "layernorm", activation: str = "relu", bias: bool = True, seed: int = 0) -> Block:
    """A block whose every parameter is redrawn, so that no term of the bound is 0 by chance."""
    model = GPT(
        GPTConfig(
            vocab_size=29, block_size=16, n_layer=1, n_head=2, n_embd=WIDTH, norm=norm, activation=activation, bias=bias
        ),
        seed,
    )
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.blocks[0].parameters():
            if parameter.dim():
                parameter.copy_(torch.randn(parameter.shape, generator=random))
    block = model.blocks[0]
    assert isinstance(block, Block)
    return block


@torch.no_grad()
def preactivation(block: Block, x: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """z (N,F) of raw inputs x (N,C): what the model computes, through its own norm."""
    block = block.to(dtype)
    z = block.mlp.act.preactivation(block.mlp.w_in(block.ln_2(x.to(dtype))))
    block.float()
    return z


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("activation", ["relu", "reglu"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_bound_is_attained_and_never_exceeded(norm: str, activation: str, bias: bool):
    """An adversarial input reaches it to 1e-5; of 20,000 random ones none passes it."""
    block = random_block(norm, activation, bias)
    bound = largest_preactivation(block)
    worst = torch.stack([adversarial_input(block, neuron) for neuron in range(len(bound))])
    reached = preactivation(block, 1e3 * worst).diagonal()  # large, so that the norm's eps does not matter
    torch.testing.assert_close(reached, bound, rtol=1e-5, atol=1e-5)
    random = torch.randn(20_000, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    best = preactivation(block, random).amax(0)
    assert (best <= bound).all()
    assert (best < bound - 0.1).any()


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_gradient_ascent_reaches_the_bound_and_stops_there(norm: str):
    """An attacker who knows nothing of the formula climbs to it from anywhere, and no further."""
    block = random_block(norm, seed=3).double()
    bound = largest_preactivation(block)
    size = 1e3  # large beside the norm's eps
    x = size * torch.randn(len(bound), WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for number in range(300):
        x.requires_grad_()
        z = block.mlp.w_in(block.ln_2(x)).diagonal()
        assert (z <= bound + 1e-12).all()
        (uphill,) = torch.autograd.grad(z.sum(), x)
        x = x.detach() + size * 0.95**number * F.normalize(uphill, dim=1)
        x = size * F.normalize(x, dim=1)
    torch.testing.assert_close(z.detach(), bound, rtol=1e-5, atol=1e-5)


@given(st.integers(0, 10_000), st.sampled_from(["float32", "bfloat16"]), st.floats(-3, 4))
@settings(max_examples=25, deadline=None)
def test_the_margin_covers_the_forward_passes_rounding(seed: int, dtype: str, decades: float):
    """In the precision of the run, at any scale of the input, no computed z passes the widened bound."""
    block = random_block(seed=seed)
    bound = largest_computed_preactivation(block, dtype)
    worst = torch.stack([adversarial_input(block, neuron) for neuron in range(len(bound))])
    noise = torch.randn(worst.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = (10**decades * torch.cat([worst, worst + 0.01 * noise, noise])).float()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
        z = block.mlp.w_in(block.ln_2(x)).double()
    assert (z <= bound).all()


def test_the_margin_is_wider_for_bfloat16():
    """Numbers of eight bits are rounded harder; the exact bound stays below both."""
    block = random_block()
    exact = largest_preactivation(block)
    single = largest_computed_preactivation(block, "float32")
    half = largest_computed_preactivation(block, "bfloat16")
    assert (exact < single).all()
    assert (single < half).all()
    assert ((half - exact) < 0.02 * (exact.abs() + WIDTH)).all()


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("activation", ["relu", "relu2", "reglu", "step"])
def test_certifies_just_the_planted_neurons(norm: str, activation: str):
    """A bias below minus the reach proves death; one above it proves nothing, however dead the neuron may be."""
    block = random_block(norm, activation)
    reach = largest_preactivation(block) - block.mlp.w_in.bias[: block.mlp.d_ff].double()
    with torch.no_grad():
        block.mlp.w_in.bias.zero_()
        block.mlp.w_in.bias[:5] = -reach[:5].float() - 1
        block.mlp.w_in.bias[5:9] = -reach[5:9].float() + 1
        block.mlp.w_in.weight[9] = 0
        block.mlp.w_in.bias[9] = -1
    expected = torch.zeros(block.mlp.d_ff, dtype=torch.bool)
    expected[[0, 1, 2, 3, 4, 9]] = True
    for dtype in ("float32", "bfloat16"):
        certified = certified_dead(block, dtype)
        assert certified is not None
        assert torch.equal(certified, expected)


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_without_biases_nothing_can_be_certified(norm: str):
    """Then some input wakes every neuron, so death is a matter of the text alone."""
    block = random_block(norm, bias=False)
    certified = certified_dead(block, "float32")
    assert certified is not None
    assert not certified.any()


@pytest.mark.parametrize("entry", list_activations(), ids=lambda entry: entry.name)
def test_speaks_only_of_activations_that_are_exactly_0(entry):
    """For the others the answer is unknown and says why; it is not 0 %."""
    block = random_block(activation=entry.name)
    assert (certified_dead(block, "float32") is None) is (not entry.exact_zeros)
    assert (inapplicable(block) is None) is entry.exact_zeros
    if not entry.exact_zeros:
        assert inapplicable(block) == f"{entry.name} is not exactly 0 for z <= 0"


def test_speaks_only_of_normalised_inputs():
    """Without a norm an input of any size arrives, and no bound holds."""
    block = random_block(norm="none")
    assert certified_dead(block, "float32") is None
    assert inapplicable(block) == "no normalisation bounds what the MLP reads"


def test_forgetting_the_shift_would_be_noticed(monkeypatch: pytest.MonkeyPatch):
    """Without w·β the bound is wrong, and an adversarial input passes it."""
    parts = certificate._parts

    def without_shift(block: Block) -> certificate.Parts:
        return replace(parts(block), offset=block.mlp.w_in.bias.detach().double())

    monkeypatch.setattr(certificate, "_parts", without_shift)
    with pytest.raises(AssertionError):
        test_the_bound_is_attained_and_never_exceeded("layernorm", "relu", True)
