"""Initial weights: a pure function of architecture and seed.

Each tensor is drawn from its own generator, so two architectures that share a seed share every tensor whose name
and shape agree, up to its scale.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from minigpt.activations import init_gain, parse_activation
from minigpt.base import randomness
from minigpt.parts.architecture import Architecture

GPT2_STD = 0.02


@torch.no_grad()
def initialise(model: nn.Module, shape: Architecture, seed: int) -> None:
    """Draw every matrix and set biases to zero, except `init_bias`; norms and activations keep what they begin with."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.zero_()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            noise = torch.randn(parameter.shape, generator=randomness.generator(seed, f"init/{name}"))
            parameter.copy_(noise * weight_std(shape, name, parameter.size(1)))
        elif name.endswith("mlp.w_in.bias") and shape.init_bias:
            neurons = model.get_parameter(name.replace("w_in.bias", "w_out.weight")).size(1)
            parameter[:neurons] = shape.init_bias * initial_spread(shape)


def weight_std(shape: Architecture, name: str, inputs: int) -> float:
    """Standard deviation at the start of the matrix of that name, by the number of its inputs.

    GPT-2 (§2.3 of its paper): 0.02, and 1/√(2L) of it for what writes to the residual stream. `matched` gives the
    MLP's pre-activations unit variance under a normalised input, and divides `w_out` by the standard deviation of
    the hidden value, so that every activation writes as if its hidden vector had unit variance.
    """
    if name.endswith("mlp.w_in.weight"):
        return incoming_std(shape)
    if not name.endswith("w_out.weight"):
        return GPT2_STD
    residual_std = GPT2_STD / math.sqrt(2 * shape.n_layer)
    if name.endswith("mlp.w_out.weight") and shape.init == "matched":
        layer = int(name.split(".")[1])
        return residual_std * init_gain(parse_activation(shape.activation, shape.n_layer)[layer], inputs)
    return residual_std


def incoming_std(shape: Architecture) -> float:
    """Standard deviation at the start of `w_in`, and of the rows that replace its own later."""
    return 1 / math.sqrt(shape.n_embd) if shape.init == "matched" else GPT2_STD


def initial_spread(shape: Architecture) -> float:
    """Standard deviation of a neuron's z at the start, under a normalised input; the unit of `init_bias`."""
    return incoming_std(shape) * math.sqrt(shape.n_embd)
