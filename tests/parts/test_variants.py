"""Architectures for particular questions: BatchNorm, attention that only averages, neurons that begin nearly closed."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY_RUN, Command
from run_files import comparable, final_hash, stop_at
from scipy import stats
from small_models import lively_model, random_ids, small_config
from torch.nn import functional as F

from minigpt.base.errors import UsageError
from minigpt.model import GPT
from minigpt.neurons.certificate import certified_dead, inapplicable
from minigpt.neurons.surgery import HiddenRange, plan_cuts, prune
from minigpt.parts.dropout import dropout
from minigpt.parts.kv_cache import KVCache
from minigpt.parts.variants import CausalMean
from minigpt.training import checkpoints
from minigpt.training.inference import open_run

BATCHNORM_RUN = f"train {TINY_RUN} --norm batchnorm"


# BatchNorm


@pytest.mark.parametrize("bias", [True, False])
def test_batchnorm_is_the_textbooks(bias: bool):
    """Mean and variance over batch and time in training; the running ones in evaluation."""
    norm = GPT(small_config(norm="batchnorm", bias=bias), 0).ln_f
    x = 3 + 2 * torch.randn(5, 12, 16, generator=torch.Generator().manual_seed(0))
    flat = x.flatten(0, 1).double()
    variance, mean = torch.var_mean(flat, dim=0, correction=0)
    expected = (flat - mean) / (variance + 1e-5).sqrt()
    assert torch.allclose(norm.train()(x).flatten(0, 1).double(), expected, atol=1e-5)
    running = 0.1 * mean, 0.9 + 0.1 * flat.var(dim=0)
    expected = (flat - running[0]) / (running[1] + 1e-5).sqrt()
    assert torch.allclose(norm.eval()(x).flatten(0, 1).double(), expected, atol=1e-5)


def test_batchnorm_leaks_the_future_in_training_and_nowhere_else():
    """Changing the last token moves the logits of the first, unless running statistics are used."""
    model = lively_model(small_config(norm="batchnorm"))
    ids = random_ids(model.config, batch=2)
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % model.config.vocab_size
    with torch.no_grad():
        assert torch.equal(model.eval()(ids)[:, :-1], model(changed)[:, :-1])
        assert (model.train()(ids)[:, 0] - model(changed)[:, 0]).abs().max() > 1e-3


def test_running_statistics_survive_a_checkpoint_and_any_stop(
    minigpt: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, haste: None
):
    """Even a stop between the batches of one step leaves no trace of the batches already seen."""
    flags = f"{BATCHNORM_RUN} --grad-accumulation 3 --eval-every 0"
    assert minigpt(f"{flags} --out whole") == 0
    for check_number in (19, 20):
        with monkeypatch.context() as patch:
            stop_at(patch, check_number, signal.SIGTERM)
            assert minigpt(f"{flags} --out cut{check_number}") == 128 + signal.SIGTERM
        assert minigpt(f"train --resume cut{check_number}") == 0
        assert final_hash(Path(f"cut{check_number}")) == final_hash(Path("whole"))
        assert comparable(Path(f"cut{check_number}")) == comparable(Path("whole"))
    opened = open_run(Path("whole"))
    assert opened.model.blocks[0].ln_1.running_mean.abs().max() > 0
    assert final_hash(Path("whole")) == checkpoints.parameter_hash(opened.model)


def test_batchnorm_samples_through_the_cache():
    """What is cached in evaluation mode is what is computed without a cache."""
    model = lively_model(small_config(norm="batchnorm"))
    ids = random_ids(model.config)
    cache = KVCache(model.config, len(ids), model.device, torch.float32)
    with torch.no_grad():
        pieces = [model(piece, cache) for piece in ids.split((5, 1, 6), dim=1)]
        assert torch.allclose(torch.cat(pieces, dim=1), model(ids), atol=1e-5)


def test_no_certificate_behind_batchnorm_and_surgery_keeps_its_statistics():
    """Batch statistics bound no single input; a pruned model normalises as before."""
    model = lively_model(small_config(norm="batchnorm"))
    with torch.no_grad():
        model.train()(random_ids(model.config))
    model.eval()
    for block in model.blocks:
        assert inapplicable(block) == "no normalisation bounds what the MLP reads"
        assert certified_dead(block, "float32") is None
        block.mlp.w_in.weight.data[:3] = 0
        block.mlp.w_in.bias.data[:3] = -1
    ranges = [HiddenRange(torch.zeros(b.mlp.d_ff), (torch.arange(b.mlp.d_ff) > 2).float()) for b in model.blocks]
    pruned = prune(model, plan_cuts(model, ranges))
    ids = random_ids(model.config)
    assert pruned.config.layer_widths == (61, 61)
    assert torch.allclose(pruned(ids), model(ids), atol=1e-5)


# Attention that only averages


@pytest.mark.parametrize("cuts", [(12,), (5, 1, 6), (1,) * 12])
def test_mean_attention_averages_what_came_so_far(cuts: tuple[int, ...]):
    """Against a plain loop over positions, with the cache and without."""
    model = lively_model(small_config(attention="mean", norm="none")).double()
    attention = model.blocks[0].attn
    assert isinstance(attention, CausalMean)
    x = torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(1)).double()
    means = torch.stack([x[:, : place + 1].mean(dim=1) for place in range(12)], dim=1)
    expected = (means @ attention.w_v.weight.T + attention.w_v.bias) @ attention.w_out.weight.T
    assert torch.allclose(attention(x), expected + attention.w_out.bias, atol=1e-12)
    ids = random_ids(model.config)
    cache = KVCache(model.config, len(ids), model.device, torch.float64)
    with torch.no_grad():
        pieces = [model(piece, cache) for piece in ids.split(cuts, dim=1)]
        assert torch.allclose(torch.cat(pieces, dim=1), model(ids), atol=1e-12)


def deviation_from_linearity(**changes: object) -> float:
    """How far f(a) + f(b) − f(0) is from f(a + b), where f takes embeddings (B,T,C) to logits."""
    model = lively_model(small_config(**changes)).double()
    random = torch.Generator().manual_seed(2)
    a, b = (torch.randn(2, 12, 16, generator=random, dtype=torch.float64) for _ in range(2))

    def logits(x: torch.Tensor) -> torch.Tensor:
        for block in model.blocks:
            x = block(x)
        return model.lm_head(model.ln_f(x))

    with torch.no_grad():
        gap = logits(a) + logits(b) - logits(0 * a) - logits(a + b)
        return (gap.abs().max() / logits(a + b).abs().max()).item()


def test_without_any_nonlinearity_the_network_is_linear():
    """Identity, no norm and mean attention together; give back any one of the three, and it is not."""
    linear = {"activation": "identity", "norm": "none", "attention": "mean"}
    assert deviation_from_linearity(**linear) < 1e-13
    for name, nonlinear in (("activation", "relu"), ("norm", "layernorm"), ("attention", "written")):
        assert deviation_from_linearity(**{**linear, name: nonlinear}) > 1e-3, name


@pytest.mark.parametrize("optimizer", ["adamw", "momentum", "lion", "muon"])
def test_mean_attention_trains(minigpt: Command, workplace: Path, haste: None, optimizer: str):
    """It has no parameter without a gradient, so that every optimizer is content."""
    assert minigpt(f"train {TINY_RUN} --attention mean --optimizer {optimizer} --eval-every 0 --out run") == 0
    names = open_run(Path("run")).model.state_dict().keys()
    assert not any("qkv" in name for name in names)


def test_mean_attention_refuses_rotary_positions():
    """They turn queries and keys, of which it has none: accepting them would ignore them."""
    with pytest.raises(UsageError, match="attention mean has none"):
        small_config(attention="mean", position="rope")


# Neurons that begin nearly closed


@pytest.mark.parametrize("init", ["gpt2", "matched"])
@pytest.mark.parametrize(("activation", "shift"), [("relu", -3.0), ("relu", 0.5), ("reglu", -2.0)])
def test_a_biased_start_opens_as_many_neurons_as_the_normal_law_says(activation: str, shift: float, init: str):
    """P(z > 0) = Φ(K) over normalised inputs and neurons; of a gated layer that is the gate's."""
    config = small_config(n_embd=96, d_ff=2000, activation=activation, init=init, init_bias=shift)
    mlp = GPT(config, 3).blocks[0].mlp
    x = F.layer_norm(torch.randn(500, 96, generator=torch.Generator().manual_seed(4)), (96,))
    with torch.no_grad():
        opened = (mlp.w_in(x)[:, : mlp.d_ff] > 0).double().mean().item()
    # The spread over neurons, whose ‖w‖ varies by 7 %, is what remains of the error.
    assert opened == pytest.approx(stats.norm.cdf(shift), rel=0.12)
    assert not mlp.w_in.bias[mlp.d_ff :].any()


def test_a_biased_start_changes_nothing_else():
    """All other tensors are those of the seed."""
    config = small_config()
    plain, biased = (GPT(c, 1).state_dict() for c in (config, replace(config, init_bias=-2.0)))
    assert {name for name in plain if not torch.equal(plain[name], biased[name])} == {
        "blocks.0.mlp.w_in.bias",
        "blocks.1.mlp.w_in.bias",
    }


def test_a_biased_start_needs_biases(refused):
    """A shift that nothing carries would be ignored."""
    refused(2, f"train {TINY_RUN} --init-bias -3 --bias off --out run", says=("init-bias -3 needs biases",))
    with pytest.raises(UsageError, match="needs biases"):
        small_config(init_bias=-1.0, bias=False)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_that_share_and_keeps_the_mean(rate: float) -> None:
    """Four decisions come from one random number: they must be independent, at the rate asked for, and repeatable."""
    torch.manual_seed(3)
    dropped = dropout(torch.ones(400_001), rate, training=True)
    assert (dropped == 0).double().mean().item() == pytest.approx(rate, abs=0.004)
    assert dropped.double().mean().item() == pytest.approx(1, abs=0.03)
    assert dropped.unique().numel() == 2
    neighbours = torch.corrcoef(torch.stack([(dropped[place:400_000:4] == 0).double() for place in range(4)]))
    assert (neighbours - torch.eye(4)).abs().max() < 0.02
    torch.manual_seed(3)
    assert torch.equal(dropout(torch.ones(400_001), rate, training=True), dropped)
    assert torch.equal(dropout(dropped, rate, training=False), dropped)
