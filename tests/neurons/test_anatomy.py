"""The anatomy of single neurons: where z lies, the bias, and the activation, on a model whose z is known."""

from __future__ import annotations

import pytest
import torch

from minigpt.model import GPT, GPTConfig
from minigpt.neurons.anatomy import BINS, activation_curve, biases, z_histograms
from minigpt.neurons.hooks import hooked
from minigpt.neurons.knockout import Batch
from minigpt.neurons.probe import plain_blocks


def model(activation: str = "relu", bias: bool = True) -> GPT:
    config = GPTConfig(
        vocab_size=29, block_size=16, n_layer=2, n_head=2, n_embd=16, d_ff=20, activation=activation, bias=bias
    )
    return GPT(config, seed=1).eval()


def text() -> list[Batch]:
    ids = torch.randint(29, (3, 8, 17), generator=torch.Generator().manual_seed(0))
    return [(batch[:, :-1], batch[:, 1:]) for batch in ids]


@pytest.mark.parametrize("activation", ["relu", "swiglu"])
def test_a_histogram_counts_every_token_once(activation: str) -> None:
    """Its bins hold all tokens and reach from the lowest z to the highest, and to 0; of two branches it is the gate."""
    gpt, seen = model(activation), []
    act = plain_blocks(gpt)[1].mlp.act
    with (
        torch.no_grad(),
        hooked([(act, lambda module, inputs, h: seen.append(module.preactivation(inputs[0])[..., 4]))]),
    ):
        for inputs, _ in text():
            gpt(inputs)
    z = torch.cat(seen).flatten()
    (_, (_, found)) = z_histograms(gpt, [[0], [0, 4]], text())
    assert len(found["counts"]) == BINS
    assert sum(found["counts"]) == len(z) == 3 * 8 * 16
    assert found["low"] == pytest.approx(min(0, z.min().item()), rel=1e-3)
    assert found["high"] == pytest.approx(max(0, z.max().item()), rel=1e-3)


def test_a_dead_neuron_has_all_of_its_z_below_zero() -> None:
    """And its bias says why."""
    gpt = model()
    block = plain_blocks(gpt)[0]
    with torch.no_grad():
        block.mlp.w_in.bias[3] = -20.0
    ((found,), _) = z_histograms(gpt, [[3], []], text())
    assert found["high"] == 0.0
    assert found["low"] < -15
    assert biases(block, [3]) == [-20.0]
    assert biases(plain_blocks(model(bias=False))[0], [3]) == [None]


def test_the_curve_is_the_activations() -> None:
    """ReLU's points are exact; where neurons of a layer depend on each other there is no curve."""
    curve = activation_curve(plain_blocks(model())[0])
    assert curve is not None
    assert all(h == max(0.0, z) for z, h in curve)
    assert activation_curve(plain_blocks(model("softmax"))[0]) is None
