"""Gradients over depth against another derivation, and over batches against made-up ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from claim_examples import (
    lively_model,
    opened,
    store,
)
from torch.nn import functional as F

from minigpt.claims.measurements import gradient_flow
from minigpt.claims.rows import gradients as rows
from minigpt.model import GPT, GPTConfig
from minigpt.text.batches import gather, window_starts

# ----------------------------------------------------------------------------------------------------------- over depth


@pytest.fixture(scope="module")
def depth_figures() -> dict[str, float | None]:
    return gradient_flow.depth_gradients(opened(lively_model(spread=1.0), seed=1), store())


def test_gradient_ratios_follow_another_derivation(depth_figures: dict[str, float | None]) -> None:
    """The same model, its gradient by torch.func instead of backward."""
    shape = {"vocab_size": 11, "block_size": 16, "n_head": 2, "n_embd": 12, "residual": False, "norm": "none"}
    model = GPT(GPTConfig(activation="sigmoid", n_layer=4, **shape), seed=1).double()  # type: ignore[arg-type]
    ids = store().tokens("train")
    inputs, targets = gather(ids, window_starts(1, 0, gradient_flow.DEPTH_WINDOWS, len(ids), 16, "claims/depth"), 16)

    def loss(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = torch.func.functional_call(model, parameters, (inputs,))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    found = torch.func.grad(loss)(dict(model.named_parameters()))
    first, last = (found[f"blocks.{layer}.mlp.w_in.weight"].norm().item() for layer in (0, 3))
    assert depth_figures["sigmoid/without/4"] == pytest.approx(math.log10(first / last))
    assert depth_figures["sigmoid/without/4/first"] == pytest.approx(math.log10(first))


def test_slopes_are_of_the_ratios(depth_figures: dict[str, float | None]) -> None:
    """Where a norm is 0, as it is after 24 layers of sigmoid, the other depths tell the slope."""
    assert depth_figures["sigmoid/without/24"] is None
    for name, depths in (("sigmoid/without", rows.DEPTHS[:-1]), ("relu/with", rows.DEPTHS)):
        ratios = [depth_figures[f"{name}/{depth}"] for depth in depths]
        centred = np.array(depths) - np.mean(depths)
        assert depth_figures[name] == pytest.approx(float(centred @ np.array(ratios) / (centred @ centred)))


def test_sigmoid_vanishes_only_without_residual_paths(depth_figures: dict[str, float | None]) -> None:
    """What is long known; the instrument must be able to see a gradient vanish, beyond float32's range too."""
    with_paths, without, first = (
        depth_figures[f"sigmoid/{key}"] or 0.0 for key in ("with", "without", "without/16/first")
    )
    assert without < -1 < -rows.LEAST_VANISHING < with_paths
    assert first < math.log10(torch.finfo(torch.float32).tiny)


# --------------------------------------------------------------------------------------------------------- over batches


def test_noise_and_signal_of_made_up_gradients() -> None:
    """Known variance and known mean, many draws; few draws without the correction would find too long a mean."""
    random = np.random.default_rng(4)
    mean = np.full(50, 0.1)
    found = [gradient_flow.noise_and_signal(torch.tensor(random.normal(mean, 2.0, (24, 50)))) for _ in range(400)]
    variance, signal = np.mean(found, axis=0)
    assert variance == pytest.approx(50 * 4.0, rel=0.02)
    assert signal == pytest.approx(50 * 0.01, abs=0.3)
    assert np.mean([f[1] for f in found]) + variance / 24 > 5 * signal


def test_gradients_of_a_large_batch_are_those_of_its_windows_together() -> None:
    model, ids = lively_model(spread=1.0), store().tokens("train")
    starts = torch.arange(gradient_flow.TOGETHER + 5) * 16
    windows = torch.tensor(np.stack([ids[s : s + 17] for s in starts.tolist()]).astype(int))
    loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
    parameters = list(model.parameters())
    expected = torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, parameters)])
    assert torch.allclose(gradient_flow._gradient(model, ids, starts), expected, atol=1e-7)


def test_noise_falls_as_the_batch_grows() -> None:
    """Windows are independent draws, so sixteen times as many leave a sixteenth of the variance."""
    figures = gradient_flow.gradient_noise(opened(lively_model(spread=1.0)), store())
    assert figures["fall"] == pytest.approx(math.log10(16), abs=0.1)
