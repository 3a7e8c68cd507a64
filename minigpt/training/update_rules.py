"""Update rules: what one step makes of parameters, their gradients and what is remembered of each.

They call torch's fused and multi-tensor kernels themselves: its optimizer classes import its compiler when they are
built, which takes a second or two of every start.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# What a rule remembers of one parameter, by name; empty before its first update.
Memory = dict[str, Tensor]
# Takes parameters and, one for each, gradients and memories, then the rate and the decay; changes all but gradients.
Rule = Callable[[list[Tensor], list[Tensor], list[Memory], float, float], None]

ADAM_EPSILON = 1e-8
# A Muon step has the root mean square that AdamW's usually has (Liu et al. 2025, arXiv:2502.16982, eq. 4).
MUON_SCALE = 0.2
# Five of these steps take singular values between 0.005 and 1 to between 0.7 and 1.2 (Jordan et al. 2024, "Muon").
NEWTON_SCHULZ_STEPS = 5
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
SMALLEST_NORM = 1e-7


def adam(beta1: float, beta2: float, decoupled: bool) -> Rule:
    """Adam (Kingma & Ba 2015, algorithm 1); `decoupled` decays weights beside it (Loshchilov & Hutter 2019)."""
    kernel: Any = torch._fused_adamw_ if decoupled else torch._fused_adam_

    def update(
        parameters: list[Tensor], gradients: list[Tensor], memories: list[Memory], lr: float, decay: float
    ) -> None:
        for parameter, memory in zip(parameters, memories, strict=True):
            if "step" not in memory:
                memory["step"] = torch.zeros((), device=parameter.device)
        counts = [memory["step"] for memory in memories]
        means, squares = _recall("exp_avg", parameters, memories), _recall("exp_avg_sq", parameters, memories)
        torch._foreach_add_(counts, 1)
        settings = {"lr": lr, "beta1": beta1, "beta2": beta2, "weight_decay": decay, "eps": ADAM_EPSILON}
        kernel(parameters, gradients, means, squares, [], counts, **settings, amsgrad=False, maximize=False)

    return update


def adam_rows(
    weights: Tensor,
    gradients: Tensor,
    means: Tensor,
    squares: Tensor,
    counts: Tensor,
    lr: Tensor,
    beta1: Tensor,
    beta2: Tensor,
    decay: Tensor,
    decaying: int,
    decoupled: bool,
) -> None:
    """The same update of several models at once, each with its own settings; the first `decaying` numbers decay.

    Shapes: weights, gradients and moments (K,P), the rest (K,1).
    """
    if decoupled:
        weights[:, :decaying] *= 1 - lr * decay
    else:
        gradients[:, :decaying] += decay * weights[:, :decaying]
    means.lerp_(gradients, (1 - beta1).expand_as(gradients))
    squares.mul_(beta2).addcmul_(gradients, (1 - beta2) * gradients)
    spread = squares.sqrt() / (1 - beta2**counts).sqrt() + ADAM_EPSILON
    weights -= lr / (1 - beta1**counts) * means / spread


def lion(beta1: float, beta2: float) -> Rule:
    """Sign of an interpolated momentum, with decoupled decay (Chen et al. 2023, arXiv:2302.06675, algorithm 2)."""

    def update(
        parameters: list[Tensor], gradients: list[Tensor], memories: list[Memory], lr: float, decay: float
    ) -> None:
        momenta = _recall("exp_avg", parameters, memories)
        directions = torch._foreach_sign(torch._foreach_lerp(momenta, gradients, 1 - beta1))
        torch._foreach_mul_(parameters, 1 - lr * decay)
        torch._foreach_add_(parameters, directions, alpha=-lr)
        torch._foreach_lerp_(momenta, gradients, 1 - beta2)

    return update


def sgd(momentum: float, nesterov: bool) -> Rule:
    """Gradient descent with heavy-ball or Nesterov momentum (Sutskever et al. 2013); decay is part of the gradient."""

    def update(
        parameters: list[Tensor], gradients: list[Tensor], memories: list[Memory], lr: float, decay: float
    ) -> None:
        directions = torch._foreach_add(gradients, parameters, alpha=decay)
        if momentum:
            buffers = _recall("momentum_buffer", parameters, memories)
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, directions)
            directions = torch._foreach_add(directions, buffers, alpha=momentum) if nesterov else tuple(buffers)
        torch._foreach_add_(parameters, directions, alpha=-lr)

    return update


def muon(momentum: float, dtype: torch.dtype) -> Rule:
    """The nearest orthogonal matrix to a matrix's Nesterov momentum, with decoupled decay (Jordan et al. 2024, "Muon").

    Matrices of one shape, wide or tall, are turned in one stack of products in `dtype`.
    """

    def update(
        parameters: list[Tensor], gradients: list[Tensor], memories: list[Memory], lr: float, decay: float
    ) -> None:
        momenta = _recall("momentum_buffer", parameters, memories)
        torch._foreach_lerp_(momenta, gradients, 1 - momentum)
        directions = torch._foreach_lerp(gradients, momenta, momentum)
        torch._foreach_mul_(parameters, 1 - lr * decay)
        stacks: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for parameter, direction in zip(parameters, directions, strict=True):
            tall = direction.size(0) > direction.size(1)
            pair = (parameter.T, direction.T) if tall else (parameter, direction)  # each (rows, columns), not tall
            stacks.setdefault(tuple(pair[0].shape), []).append(pair)
        for (_, columns), pairs in stacks.items():
            turned = orthogonal(torch.stack([direction for _, direction in pairs]), dtype)
            scale = MUON_SCALE * math.sqrt(columns)
            torch._foreach_add_([parameter for parameter, _ in pairs], list(turned.unbind()), alpha=-lr * scale)

    return update


def orthogonal(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Nearly orthogonal matrices (N,rows,columns), rows ≤ columns, close to the given ones, by Newton–Schulz steps."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.to(dtype)
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=SMALLEST_NORM)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = torch.bmm(x, x.mT)  # (N,rows,rows)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.to(matrices.dtype)


def _recall(name: str, parameters: list[Tensor], memories: list[Memory]) -> list[Tensor]:
    """What is remembered under a name of each parameter, in its shape; zeros at first."""
    for parameter, memory in zip(parameters, memories, strict=True):
        if name not in memory:
            memory[name] = torch.zeros_like(parameter)
    return [memory[name] for memory in memories]
