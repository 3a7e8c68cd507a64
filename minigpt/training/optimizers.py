"""Optimizers by name: which rule updates which parameters, and what it remembers, by parameter name for checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minigpt.base.errors import CheckpointError
from minigpt.model import GPT
from minigpt.training.config import RunConfig
from minigpt.training.update_rules import Memory, Rule, adam, lion, muon, sgd

# Parameters of this many dimensions decay; biases, gains and an activation's own parameters only with `decay_all`.
MATRICES_FROM = 2


@dataclass(frozen=True)
class Group:
    """Parameters that one rule updates, all with one weight decay."""

    rule: Rule
    parameters: Sequence[nn.Parameter]
    weight_decay: float


@dataclass(frozen=True)
class Optimizer:
    """What updates a model, and what it remembers of each parameter; nothing before the first update."""

    groups: Sequence[Group]
    memories: dict[Tensor, Memory]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update every parameter that has a gradient."""
        for group in self.groups:
            moving: list[Tensor] = [parameter for parameter in group.parameters if parameter.grad is not None]
            gradients = [parameter.grad for parameter in moving if parameter.grad is not None]
            memories = [self.memories.setdefault(parameter, {}) for parameter in moving]
            if moving:
                group.rule(moving, gradients, memories, lr, group.weight_decay)


def build_optimizer(model: GPT, config: RunConfig) -> Optimizer:
    """Build what updates the model; `muon` turns the matrices inside the blocks and leaves the rest to AdamW."""
    parameters = list(model.parameters())
    adamw = adam(config.beta1, config.beta2, decoupled=True)
    if config.optimizer == "muon":
        hidden = {parameter for block in model.blocks for parameter in block.parameters() if parameter.dim() == 2}
        matrices = [parameter for parameter in parameters if parameter in hidden]
        others = [parameter for parameter in parameters if parameter not in hidden]
        turning = muon(config.beta1, torch.bfloat16 if config.dtype == "bfloat16" else torch.float32)
        return Optimizer([Group(turning, matrices, config.weight_decay), *_decay_groups(adamw, others, config)], {})
    rules = {
        "adamw": adamw,
        "adam": adam(config.beta1, config.beta2, decoupled=False),
        "lion": lion(config.beta1, config.beta2),
        "sgd": sgd(0.0, nesterov=False),
        "momentum": sgd(config.beta1, nesterov=False),
        "nesterov": sgd(config.beta1, nesterov=True),
    }
    return Optimizer(_decay_groups(rules[config.optimizer], parameters, config), {})


def _decay_groups(rule: Rule, parameters: list[nn.Parameter], config: RunConfig) -> list[Group]:
    groups = [
        Group(rule, [p for p in parameters if p.dim() >= MATRICES_FROM], config.weight_decay),
        Group(rule, [p for p in parameters if p.dim() < MATRICES_FROM], config.weight_decay * config.decay_all),
    ]
    return [group for group in groups if group.parameters]


def state_tensors(model: GPT, optimizer: Optimizer) -> dict[str, Tensor]:
    """What is remembered, as `parameter name/memory's name` -> tensor, whatever the optimizer."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.memories.get(parameter, {}).items()
    }


def load_state_tensors(model: GPT, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore what `state_tensors` gave.

    Raises:
        CheckpointError: a tensor belongs to no parameter of the model, or its shape does not fit.
    """
    parameters = dict(model.named_parameters())
    unknown = sorted({name.rpartition("/")[0] for name in tensors} - parameters.keys())
    if unknown:
        raise CheckpointError(f"optimizer state of unknown parameters; got {', '.join(unknown[:5])}; use another one")
    optimizer.memories.clear()
    for name, tensor in tensors.items():
        parameter_name, _, key = name.rpartition("/")
        parameter = parameters[parameter_name]
        if tensor.dim() and tensor.shape != parameter.shape:
            got, expected = tuple(tensor.shape), tuple(parameter.shape)
            raise CheckpointError(f"optimizer state {name} has shape {got}; the parameter has {expected}")
        optimizer.memories.setdefault(parameter, {})[key] = tensor.to(parameter.device, copy=True)
