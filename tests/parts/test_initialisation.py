"""The start of training: known scales, equal starts for the arms of a seed, and nothing but the seed in the weights."""

from __future__ import annotations

import math

import pytest
import torch
from small_models import ELEMENTWISE, random_ids, small_config
from torch.nn import functional as F

from minigpt.model import GPT
from minigpt.parts.architecture import INITS, NORMS
from minigpt.parts.initialisation import GPT2_STD


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("norm", NORMS)
def test_first_loss_is_that_of_a_uniform_guess(norm: str, init: str):
    """A first loss above ln V means that the initial scale is wrong, and the first steps repair it."""
    config = small_config(vocab_size=200, n_embd=64, norm=norm, init=init, activation="gelu")
    ids = random_ids(config, batch=40)
    targets = random_ids(config, batch=40, seed=1)
    with torch.no_grad():
        loss = F.cross_entropy(GPT(config, seed=0)(ids).flatten(0, 1), targets.flatten())
    assert loss.item() == pytest.approx(math.log(200), abs=0.05)


def test_initial_scale_is_gpt2s():
    """0.02 for every matrix, 0.02/√(2L) for the two that write to the residual stream, biases 0, gains 1."""
    config = small_config(vocab_size=100, block_size=64, n_layer=3, n_embd=64, tie_embeddings=False)
    for name, parameter in GPT(config, seed=1).named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif ".ln_" in f".{name}":
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            expected = GPT2_STD / math.sqrt(6) if name.endswith("w_out.weight") else GPT2_STD
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
            assert abs(parameter.mean().item()) < 5 * expected / math.sqrt(parameter.numel()), name


@pytest.mark.parametrize("activation", ELEMENTWISE)
def test_matched_init_gives_every_activation_the_same_scale(activation: str):
    """Pre-activations of unit variance, and a write of one size: else an ablation compares scales, not functions."""
    config = small_config(n_layer=1, n_embd=96, init="matched", activation=activation)
    mlp = GPT(config, seed=0).blocks[0].mlp
    random = torch.Generator().manual_seed(0)
    normalised = F.layer_norm(torch.randn(4000, 96, generator=random), (96,))
    with torch.no_grad():
        assert mlp.w_in(normalised).var().item() == pytest.approx(1, rel=0.1)
        write = mlp(normalised)
    residual_std = GPT2_STD / math.sqrt(2)
    size = write.var(dim=0).mean().sqrt().item() / (residual_std * math.sqrt(mlp.d_ff))
    assert size == pytest.approx(1, rel=0.06)


def test_arms_of_a_seed_share_their_initial_weights():
    """Paired comparisons need equal starts: whatever agrees in name and shape agrees in value."""
    relu, gelu, swiglu = (GPT(small_config(activation=name), 7).state_dict() for name in ("relu", "gelu", "swiglu"))
    assert relu.keys() == gelu.keys() == swiglu.keys()
    assert all(torch.equal(relu[name], gelu[name]) for name in relu)
    different = {name for name in relu if relu[name].shape != swiglu[name].shape}
    assert {name.split(".")[2] for name in different} == {"mlp"}
    assert all(torch.equal(relu[name], swiglu[name]) for name in relu.keys() - different)


def test_adding_a_layer_or_a_bias_keeps_the_other_weights():
    """Each tensor has its own generator, so nothing depends on the order of construction."""
    base = GPT(small_config(init="matched"), 7).state_dict()
    other = GPT(small_config(init="matched", norm="rmsnorm", bias=False, tie_embeddings=False), 7).state_dict()
    shared = [name for name in base.keys() & other.keys() if name.endswith("weight") and name != "lm_head.weight"]
    assert len(shared) == 2 + 2 * 6 + 1
    assert all(torch.equal(base[name], other[name]) for name in shared)


def test_another_seed_gives_other_weights():
    """A seed that is ignored would make every replicate the same."""
    one, two = GPT(small_config(), 1), GPT(small_config(), 2)
    assert all(not torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True) if a.dim() == 2)


def test_initial_weights_ignore_what_was_drawn_before():
    """The weights follow from the seed, whatever was drawn before."""
    torch.manual_seed(1)
    one = GPT(small_config(), 5).state_dict()
    torch.manual_seed(2)
    two = GPT(small_config(), 5).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
