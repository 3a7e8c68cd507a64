"""Optimizers by name: torch's own where torch has them, and their state by parameter name for checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from minigpt.errors import CheckpointError
from minigpt.model import GPT
from minigpt.training.config import RunConfig


class Lion(Optimizer):
    """Sign of an interpolated momentum, with decoupled decay (Chen et al. 2023, arXiv:2302.06675, algorithm 2)."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["lr"], beta1, beta2, group["weight_decay"])

    def _update(
        self, parameter: Tensor, gradient: Tensor, lr: float, beta1: float, beta2: float, weight_decay: float
    ) -> None:
        state = self.state[parameter]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(parameter)
        momentum = state["exp_avg"]
        parameter.mul_(1 - lr * weight_decay)
        parameter.add_(momentum.lerp(gradient, 1 - beta1).sign(), alpha=-lr)
        momentum.lerp_(gradient, 1 - beta2)


def build_optimizers(model: GPT, config: RunConfig) -> list[Optimizer]:
    """Build what updates the model: one optimizer, or two where `muon` leaves vectors and embeddings to AdamW."""
    parameters = list(model.parameters())
    betas = (config.beta1, config.beta2)
    if config.optimizer == "muon":
        return _muon_and_adamw(model, config)
    groups = _decay_groups(parameters, config)
    if config.optimizer == "adamw":
        return [AdamW(groups, lr=config.lr, betas=betas, fused=True)]
    if config.optimizer == "adam":
        return [Adam(groups, lr=config.lr, betas=betas, fused=True)]
    if config.optimizer == "lion":
        return [Lion(groups, lr=config.lr, betas=betas)]
    momentum = 0.0 if config.optimizer == "sgd" else config.beta1
    return [SGD(groups, lr=config.lr, momentum=momentum, nesterov=config.optimizer == "nesterov")]


def _muon_and_adamw(model: GPT, config: RunConfig) -> list[Optimizer]:
    """Muon for the matrices inside the blocks (Jordan et al. 2024), its step scaled to AdamW's (Liu et al. 2025)."""
    hidden = [parameter for parameter in model.blocks.parameters() if parameter.dim() == 2]
    chosen = {id(parameter) for parameter in hidden}
    others = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    muon = torch.optim.Muon(hidden, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
    groups = _decay_groups(others, config)
    return [muon, AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)]


def _decay_groups(parameters: list[nn.Parameter], config: RunConfig) -> list[dict[str, Any]]:
    """Matrices decay; biases, gains and an activation's own parameters only with `decay_all`."""
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": config.weight_decay * config.decay_all},
    ]
    return [group for group in groups if group["params"]]


def set_learning_rate(optimizers: list[Optimizer], lr: float) -> None:
    """Give every group the same rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr


def state_tensors(model: GPT, optimizers: list[Optimizer]) -> dict[str, Tensor]:
    """Optimizer state as `parameter name/state name` -> tensor, whatever the optimizer."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": value
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def load_state_tensors(model: GPT, optimizers: list[Optimizer], tensors: dict[str, Tensor]) -> None:
    """Restore what `state_tensors` gave.

    Raises:
        CheckpointError: a tensor belongs to no parameter of these optimizers, or its shape does not fit.
    """
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter_name, _, key = name.rpartition("/")
        by_parameter.setdefault(parameter_name, {})[key] = tensor
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    unknown = sorted(by_parameter.keys() - set(names.values()))
    if unknown:
        raise CheckpointError(f"optimizer state of unknown parameters; got {', '.join(unknown[:5])}; use another one")
    for optimizer in optimizers:
        # torch numbers the parameters of all groups in order, and casts and places each state tensor itself.
        ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        packed = optimizer.state_dict()
        packed["state"] = {
            number: _fitting(names[id(parameter)], parameter, by_parameter[names[id(parameter)]])
            for number, parameter in enumerate(ordered)
            if names[id(parameter)] in by_parameter
        }
        optimizer.load_state_dict(packed)


def _fitting(name: str, parameter: nn.Parameter, state: dict[str, Tensor]) -> dict[str, Tensor]:
    for key, tensor in state.items():
        if tensor.dim() and tensor.shape != parameter.shape:
            got, expected = tuple(tensor.shape), tuple(parameter.shape)
            raise CheckpointError(f"optimizer state {name}/{key} has shape {got}; the parameter has {expected}")
    return state
