"""Where a number first stopped being finite: the parameter, output or gradient to name when a training diverges."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minigpt.neurons.hooks import Hook, hooked


def first_bad(model: nn.Module, inputs: Tensor) -> str:
    """What is not finite first, of parameters, outputs for inputs (B,T) and gradients; an empty string if all are."""
    return first_bad_parameter(model) or first_bad_output(model, inputs) or first_bad_gradient(model)


def first_bad_parameter(model: nn.Module) -> str:
    """Name of the first parameter that is not finite, or an empty string."""
    return next((name for name, value in model.named_parameters() if not torch.isfinite(value).all()), "")


def first_bad_gradient(model: nn.Module) -> str:
    """Name of the first parameter whose gradient is not finite, or an empty string."""
    gradients = ((name, parameter.grad) for name, parameter in model.named_parameters())
    return next((f"gradient of {name}" for name, g in gradients if g is not None and not torch.isfinite(g).all()), "")


@torch.no_grad()
def first_bad_output(model: nn.Module, inputs: Tensor) -> str:
    """Name of the first module, in order of computation, whose output is not finite, or an empty string."""
    bad: list[str] = []

    def watch(name: str) -> Hook:
        def hook(module: nn.Module, arguments: object, output: Tensor) -> None:
            if not torch.isfinite(output).all():
                bad.append(f"output of {name}")

        return hook

    with hooked((module, watch(name)) for name, module in model.named_modules() if name):
        model(inputs)
    return bad[0] if bad else ""
