"""One training step: batches, loss, gradient, the check that both are finite, the update."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt.base import randomness
from minigpt.base.errors import DivergedError
from minigpt.model import GPT, BatchNorm, Block
from minigpt.neurons.life import LayerGradients, read_gradients
from minigpt.text.batches import Tokens, gather, token_noise, window_starts
from minigpt.training.config import RunConfig
from minigpt.training.optimizers import Optimizer
from minigpt.training.ranks import ALONE, Ranks
from minigpt.training.runtime import autocast
from minigpt.training.schedules import learning_rate


@dataclass(frozen=True)
class StepResult:
    """Mean loss of the step's tokens in nats, before the update, without the L1 term; and the gradient's norm.

    `gradients` is what they told of each layer's neurons, where that was asked for.
    """

    loss: float
    grad_norm: float
    lr: float
    gradients: list[LayerGradients | None] | None = None


def take_step(
    model: GPT,
    forward: Callable[[Tensor], Tensor],
    optimizer: Optimizer,
    ids: Tokens,
    config: RunConfig,
    step: int,
    between_batches: Callable[[], None],
    watch_neurons: bool = False,
    ranks: Ranks = ALONE,
) -> StepResult:
    """Update `model` once; `forward` is the model or its compiled form. A pure function of weights, config and step.

    Of several ranks each takes its part of the windows; the result is of all, and all make the same update.

    Raises:
        DivergedError: loss or gradient norm is not finite; the weights are as before the step.
    """
    if config.dropout:
        randomness.seed_dropout(config.seed, step, ranks.rank)
    starts = window_starts(config.seed, step, config.batch_size * config.grad_accumulation, len(ids), config.block_size)
    model.zero_grad(set_to_none=True)
    losses: list[Tensor] = []
    noise = _noise(model, config, step, ranks)
    with _statistics_restored_on_failure(model, config):
        for micro_starts, micro_noise in zip(ranks.share(starts, config.batch_size), noise, strict=False):
            between_batches()
            if len(micro_starts):
                inputs, targets = gather(ids, micro_starts, config.block_size, micro_noise)
                parts = len(starts) / len(micro_starts)
                losses.append(_accumulate_gradient(model, forward, inputs, targets, config, parts))
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    loss, grad_norm = _add_up(ranks, gradients, losses)
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise DivergedError(_describe(model, ids, starts, config, step, loss, grad_norm))
    evidence = read_gradients(model) if watch_neurons else None
    if config.grad_clip and grad_norm > config.grad_clip:
        torch._foreach_mul_(gradients, config.grad_clip / grad_norm)
    lr = learning_rate(config, step)
    optimizer.step(lr)
    return StepResult(loss, grad_norm, lr, evidence)


def _noise(model: GPT, config: RunConfig, step: int, ranks: Ranks) -> Iterable[Tensor | None]:
    """What replaces the tokens of each micro-batch, drawn for the whole step at once; None: they stay."""
    if not config.token_noise:
        return itertools.repeat(None)
    windows, vocab_size = config.batch_size * config.grad_accumulation, model.config.vocab_size
    noise = token_noise(config.seed, step, windows, config.block_size, vocab_size, config.token_noise)
    return ranks.share(noise, config.batch_size)


def _accumulate_gradient(
    model: GPT, forward: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor, config: RunConfig, parts: float
) -> Tensor:
    """Add one micro-batch's share, one of so many `parts`, to the gradients; return its share of the mean loss."""
    inputs, targets = inputs.to(model.device), targets.to(model.device)  # (B,T)
    with autocast(model.device, config.dtype), _hidden_magnitudes(model, config.l1) as magnitudes:
        logits = forward(inputs)  # (B,T,V)
    loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten()) / parts
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


@contextlib.contextmanager
def _statistics_restored_on_failure(model: GPT, config: RunConfig) -> Iterator[None]:
    """Give BatchNorm the running statistics back that it had, if a step is broken off between its batches."""
    if config.norm != "batchnorm":
        yield
        return
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    try:
        yield
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            norm.load_state_dict(buffers, strict=False)
        raise


@contextlib.contextmanager
def _hidden_magnitudes(model: GPT, wanted: float) -> Iterator[list[Tensor]]:
    """Collect each layer's share of the mean |h| over all neurons and tokens of a forward pass."""
    magnitudes: list[Tensor] = []
    if not wanted:
        yield magnitudes
        return

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], hidden: Tensor) -> None:
        magnitudes.append(hidden.float().abs().mean() / len(model.blocks))

    handles = [block.mlp.act.register_forward_hook(keep) for block in model.blocks if isinstance(block, Block)]
    try:
        yield magnitudes
    finally:
        for handle in handles:
            handle.remove()


def _describe(
    model: GPT, ids: Tokens, starts: Tensor, config: RunConfig, step: int, loss: float, grad_norm: float
) -> str:
    """Say at which step, on which windows and in which layer the first figure stopped being finite."""
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient norm is {grad_norm} (loss {loss:.4g})"
    inputs, _ = gather(ids, starts[: config.batch_size], config.block_size)
    place = first_bad_parameter(model) or first_bad_output(model, inputs.to(model.device)) or first_bad_gradient(model)
    where = f"step {step + 1} (windows at tokens {starts[:3].tolist()}…)"
    advice = "the last checkpoint is good; lower --lr, lengthen --warmup-steps or keep --grad-clip on"
    return f"{what} at {where}; first not finite: {place or 'the loss itself'}; {advice}"


def first_bad_parameter(model: GPT) -> str:
    """Name of the first parameter that is not finite, or an empty string."""
    return next((name for name, value in model.named_parameters() if not torch.isfinite(value).all()), "")


def first_bad_gradient(model: GPT) -> str:
    """Name of the first parameter whose gradient is not finite, or an empty string."""
    gradients = ((name, parameter.grad) for name, parameter in model.named_parameters())
    return next((f"gradient of {name}" for name, g in gradients if g is not None and not torch.isfinite(g).all()), "")


@torch.no_grad()
def first_bad_output(model: GPT, inputs: Tensor) -> str:
    """Name of the first module, in order of computation, whose output is not finite, or an empty string."""
    bad: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, arguments: object, output: Tensor) -> None:
            if not torch.isfinite(output).all():
                bad.append(f"output of {name}")

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return bad[0] if bad else ""
