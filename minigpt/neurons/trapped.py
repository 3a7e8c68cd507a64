"""Which neurons cannot learn at present: the data gradient of their incoming weights is exactly 0.

A dead neuron of an exactly zero activation is trapped on the text on which it is dead. Of a smooth activation it takes
underflow. Weight decay, and Adam's first moment until it has faded, may still move a trapped neuron.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from minigpt.model import GPT
from minigpt.neurons.knockout import Batch
from minigpt.neurons.probe import plain_blocks


def trapped_neurons(model: GPT, batches: Iterable[Batch]) -> list[Tensor]:
    """Which neurons (F,) of each layer had a gradient of exactly 0 in every batch; no gradient is left behind.

    Of a gated neuron both rows must be without gradient.

    NOTE: under autocast, enter it anew for this pass: weights that it cast under `no_grad` have no gradient.
    """
    mlps = [block.mlp for block in plain_blocks(model)]
    moved = [torch.zeros(mlp.d_ff, dtype=torch.bool, device=model.device) for mlp in mlps]
    with torch.enable_grad():
        for inputs, targets in batches:
            logits = model(inputs.to(model.device))  # (B,T,V)
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets.to(model.device).flatten())
            gradients = torch.autograd.grad(loss, [mlp.w_in.weight for mlp in mlps])
            for seen, gradient, mlp in zip(moved, gradients, mlps, strict=True):
                rows = gradient.abs().amax(dim=1) > 0  # (branches·F,)
                seen |= rows.view(mlp.act.branches, mlp.d_ff).any(dim=0)
    return [~seen.cpu() for seen in moved]
