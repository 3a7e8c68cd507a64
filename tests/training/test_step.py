"""One training step: accumulation, clipping, the L1 term, and divergence that names its place."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from small_models import CONFIG, IDS, small_model, weights
from torch._functorch import config as functorch_config
from torch.nn import functional as F

from minigpt.base.errors import DivergedError
from minigpt.model import GPT
from minigpt.text.batches import gather, window_starts
from minigpt.training import runtime
from minigpt.training.config import RunConfig
from minigpt.training.optimizers import build_optimizer
from minigpt.training.step import StepResult, Trainee, take_step


def train(model: GPT, config: RunConfig, steps: int = 1, first: int = 0) -> list[StepResult]:
    trainee = Trainee(model, model, build_optimizer(model, config), IDS, config)
    return [take_step(trainee, step) for step in range(first, first + steps)]


def mean_hidden(model: GPT) -> float:
    """Mean |h| over neurons, layers and some tokens."""
    kept: list[torch.Tensor] = []
    hooks = [block.mlp.act.register_forward_hook(lambda m, i, h: kept.append(h.abs().mean())) for block in model.blocks]
    with torch.no_grad():
        model(gather(IDS, torch.arange(0, 1600, 16), 16)[0])
    for hook in hooks:
        hook.remove()
    return torch.stack(kept).mean().item()


def test_reports_loss_norm_and_rate_of_the_step():
    """Loss and norm of the weights before the update, on the windows of that step, and the schedule's rate."""
    model = small_model()
    inputs, targets = gather(IDS, window_starts(CONFIG.seed, 4, 8, len(IDS), 16), 16)
    loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    norm = math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients))
    result = train(model, CONFIG, first=4)[0]
    assert result.loss == pytest.approx(loss.item(), rel=1e-6)
    assert result.grad_norm == pytest.approx(norm, rel=1e-5)
    assert 1e-3 < result.lr < 1e-2


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_accumulating_equals_one_large_batch(optimizer: str):
    """2 × 8 windows and 1 × 16 are the same windows, the same loss and the same update."""
    large, small = small_model(), small_model()
    one = train(large, replace(CONFIG, optimizer=optimizer, batch_size=16, lr=1e-3), steps=3)
    two = train(small, replace(CONFIG, optimizer=optimizer, batch_size=8, grad_accumulation=2, lr=1e-3), steps=3)
    for a, b in zip(one, two, strict=True):
        assert a.loss == pytest.approx(b.loss, abs=1e-6)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-4)
    if optimizer == "sgd":  # AdamW divides by the gradient's size, and blows up the rounding of tiny ones
        for a, b in zip(weights(large), weights(small), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_a_step_is_a_function_of_weights_configuration_and_number():
    """Dropout included: what was drawn before must not matter, another step must differ."""
    losses = []
    for disturbance, step in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(disturbance)
        losses.append(train(small_model(dropout=0.3), replace(CONFIG, dropout=0.3), first=step)[0].loss)
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("limit", [0.0, 0.01, 1e6])
def test_clipping_bounds_the_gradient_and_reports_its_true_norm(limit: float):
    """With plain SGD the update's length is lr times the clipped norm; 0 switches clipping off."""
    model = small_model()
    before = weights(model)
    config = replace(CONFIG, optimizer="sgd", weight_decay=0.0, grad_clip=limit)
    result = train(model, config)[0]
    moved = math.sqrt(sum((a - b).double().square().sum().item() for a, b in zip(weights(model), before, strict=True)))
    assert result.grad_norm > 0.1
    assert moved / result.lr == pytest.approx(min(result.grad_norm, limit or math.inf), rel=1e-3)


def test_l1_shrinks_hidden_values():
    """The term acts on |h|, is not part of the reported loss, and leaves no hook behind."""
    plain, sparse = small_model(), small_model()
    first = train(plain, CONFIG, steps=40)[0]
    first_sparse = train(sparse, replace(CONFIG, l1=10.0), steps=40)[0]
    assert first.loss == first_sparse.loss
    assert mean_hidden(sparse) < 0.5 * mean_hidden(plain)
    assert all(not module._forward_hooks for module in sparse.modules())


@pytest.mark.parametrize("accumulation", [1, 2])
def test_l1_is_the_mean_over_layers_neurons_and_tokens(accumulation: int):
    """Its gradient equals that of l1 · mean |h|, also when gradients accumulate."""
    model, by_hand = small_model(), small_model()
    config = replace(CONFIG, l1=3.0, batch_size=8 // accumulation, grad_accumulation=accumulation)
    train(model, config)
    inputs, targets = gather(IDS, window_starts(CONFIG.seed, 0, 8, len(IDS), 16), 16)
    hidden: list[torch.Tensor] = []
    for block in by_hand.blocks:
        block.mlp.act.register_forward_hook(lambda m, i, h: hidden.append(h))
    loss = F.cross_entropy(by_hand(inputs).flatten(0, 1), targets.flatten())
    (loss + 3.0 * torch.stack(hidden).abs().mean()).backward()
    for a, b in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"), [("blocks.1.mlp.w_in.weight", math.nan), ("wte.weight", math.inf), ("ln_f.bias", -math.inf)]
)
def test_a_bad_weight_is_named(name: str, value: float):
    """The error tells step and parameter, and no weight has moved."""
    model = small_model()
    with torch.no_grad():
        dict(model.named_parameters())[name].view(-1)[3] = value
    before = weights(model)
    with pytest.raises(DivergedError, match=rf"the loss is .* at step 8 .*first not finite: {name};.*--lr"):
        train(model, CONFIG, first=7)
    assert all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(weights(model), before, strict=True))


def test_an_overflowing_layer_is_named():
    """All weights finite, one so large that its layer overflows: the first such output is the culprit."""
    model = small_model(activation="relu2")
    with torch.no_grad():
        model.blocks[1].mlp.w_in.weight.fill_(1e30)
    before = weights(model)
    with pytest.raises(DivergedError, match=r"at step 1 .*first not finite: output of blocks\.1\.mlp\.act"):
        train(model, CONFIG)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))


def test_a_bad_gradient_stops_the_step_though_the_loss_is_fine():
    """Loss finite, gradient not: clipping would turn every weight into NaN."""
    model = small_model()
    model.blocks[0].mlp.w_out.weight.register_hook(lambda gradient: gradient * math.inf)
    before = weights(model)
    for clip in (0.0, 1.0):
        with pytest.raises(DivergedError, match=r"gradient norm is .*gradient of blocks\.0\.mlp\.w_out\.weight"):
            train(model, replace(CONFIG, grad_clip=clip))
        assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))


def test_bfloat16_steps_keep_float32_weights():
    """Autocast computes products in bfloat16; weights, gradients and optimizer state stay float32."""
    model = small_model()
    result = train(model, replace(CONFIG, dtype="bfloat16"), steps=3)[-1]
    assert math.isfinite(result.loss)
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())


# The compiled step


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of an import inside torch
def test_a_compiled_step_keeps_no_mask_of_relu(monkeypatch: pytest.MonkeyPatch):
    """torch's CPU kernels store and load a byte mask one value at a time, which made compiling ReLU a loss."""
    monkeypatch.setattr(functorch_config, "ban_recompute_materialized_backward", True)  # restored afterwards
    model = small_model()
    runtime.forward_of(model, "on")
    # The same cut between forward and backward as in the real compiler, without its minute of C++.
    forward = torch.compile(model, dynamic=False, backend="aot_eager_decomp_partition")
    with runtime.autocast(model.device, "bfloat16"):
        node = forward(torch.zeros(2, 8, dtype=torch.int64)).grad_fn
    while "Compiled" not in type(node).__name__:
        node = node.next_functions[0][0]
    assert node.saved_tensors
    assert all(tensor.dtype != torch.bool for tensor in node.saved_tensors)
