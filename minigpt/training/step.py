"""One training step: batches, loss, gradient, the check that both are finite, the update."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minigpt.base import randomness
from minigpt.base.errors import DivergedError
from minigpt.model import GPT
from minigpt.neurons.life import LayerGradients, read_gradients
from minigpt.text.batches import Tokens, gather, window_starts
from minigpt.training.config import RunConfig
from minigpt.training.costs import mean_cost
from minigpt.training.interventions import hidden_magnitudes, replaced_tokens, statistics_restored_on_failure
from minigpt.training.not_finite import first_bad
from minigpt.training.optimizers import Optimizer
from minigpt.training.ranks import ALONE, Ranks
from minigpt.training.runtime import autocast
from minigpt.training.schedules import learning_rate


@dataclass(frozen=True)
class Trainee:
    """All that a step reads and changes; `forward` is the model or its compiled form, `config` is resolved."""

    model: GPT
    forward: Callable[[Tensor], Tensor]
    optimizer: Optimizer
    ids: Tokens
    config: RunConfig
    ranks: Ranks = ALONE


@dataclass(frozen=True)
class StepResult:
    """Mean cost of the step's tokens, in nats if it is cross-entropy, before the update and without the L1 term; and
    the gradient's norm.

    `gradients` is what they told of each layer's neurons, where that was asked for.
    """

    loss: float
    grad_norm: float
    lr: float
    gradients: list[LayerGradients | None] | None = None


def take_step(
    trainee: Trainee, step: int, between_batches: Callable[[], None] = lambda: None, watch_neurons: bool = False
) -> StepResult:
    """Update the model once: a pure function of weights, configuration and step; `between_batches` may raise to stop.

    Of several ranks each takes its part of the windows; the result is of all, and all make the same update.

    Raises:
        DivergedError: loss or gradient norm is not finite; the weights are as before the step.
    """
    model, config, ranks = trainee.model, trainee.config, trainee.ranks
    if config.dropout:
        randomness.seed_dropout(config.seed, step, ranks.rank)
    windows = config.batch_size * config.grad_accumulation
    starts = window_starts(config.seed, step, windows, len(trainee.ids), config.block_size)
    noise = replaced_tokens(config, model.config.vocab_size, step, ranks)
    model.zero_grad(set_to_none=True)
    losses: list[Tensor] = []
    with statistics_restored_on_failure(model):
        for micro_starts, micro_noise in zip(ranks.share(starts, config.batch_size), noise, strict=False):
            between_batches()
            if len(micro_starts):
                inputs, targets = gather(trainee.ids, micro_starts, config.block_size, micro_noise)
                losses.append(_accumulate_gradient(trainee, inputs, targets, parts=windows / len(micro_starts)))
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    loss, grad_norm = _add_up(ranks, gradients, losses)
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise DivergedError(divergence(trainee, step, starts, loss, grad_norm))
    evidence = read_gradients(model) if watch_neurons else None
    if config.grad_clip and grad_norm > config.grad_clip:
        torch._foreach_mul_(gradients, config.grad_clip / grad_norm)
    lr = learning_rate(config, step)
    trainee.optimizer.step(lr)
    return StepResult(loss, grad_norm, lr, evidence)


def _accumulate_gradient(trainee: Trainee, inputs: Tensor, targets: Tensor, parts: float) -> Tensor:
    """Add one micro-batch, one of `parts` in the step, to the gradients; return its share of the mean loss."""
    model, config = trainee.model, trainee.config
    inputs, targets = inputs.to(model.device), targets.to(model.device)  # (B,T)
    with autocast(model.device, config.dtype), hidden_magnitudes(model, config.l1) as magnitudes:
        logits = trainee.forward(inputs)  # (B,T,V)
    loss = mean_cost(config.cost, logits.float().flatten(0, 1), targets.flatten()) / parts
    penalty = sum(magnitudes, torch.zeros((), device=loss.device)) * config.l1 / parts
    (loss + penalty if config.l1 else loss).backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _add_up(ranks: Ranks, gradients: list[Tensor], losses: list[Tensor]) -> tuple[float, float]:
    """Replace the gradients by their sums over all ranks; return the sum of the losses and the gradients' norm.

    NOTE: on a GPU reading a figure waits for all that comes before it, so they are read together.
    """
    if ranks.size > 1:
        *sums, total = ranks.sums([*gradients, torch.stack(losses).sum()])
        torch._foreach_copy_(gradients, sums)
        losses = [total]
    grad_norm, *shares = torch.stack([nn.utils.get_total_norm(gradients), *losses]).tolist()
    return sum(shares), grad_norm


def divergence(trainee: Trainee, step: int, starts: Tensor, loss: float, grad_norm: float) -> str:
    """Say at which step, on which windows and in which layer the first figure stopped being finite."""
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient norm is {grad_norm} (loss {loss:.4g})"
    inputs, _ = gather(trainee.ids, starts[: trainee.config.batch_size], trainee.config.block_size)
    place = first_bad(trainee.model, inputs.to(trainee.model.device)) or "the loss itself"
    where = f"step {step + 1} (windows at tokens {starts[:3].tolist()}…)"
    advice = "the last checkpoint is good; lower --lr, lengthen --warmup-steps or keep --grad-clip on"
    return f"{what} at {where}; first not finite: {place}; {advice}"
