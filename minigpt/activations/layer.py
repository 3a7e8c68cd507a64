"""The activation of one layer as a module, with parameters where the function learns.

Which functions there are is the registry's business, how a spec is written that of `specs.py`; initialising weights and
building the MLP around an activation are the model's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from minigpt.activations.registry import ActivationEntry
from minigpt.activations.specs import canonical_spec, resolve_spec


class Activation(nn.Module):
    """The activation of one layer, with parameters where it learns.

    Shapes: pre-activations (B, T, branches · F) -> h (B, T, F). Of two branches the FIRST half is the gate.
    """

    def __init__(self, entry: ActivationEntry, arguments: Mapping[str, float]) -> None:
        super().__init__()
        self.entry = entry
        self.spec = canonical_spec(entry, arguments)
        self.branches = entry.branches
        self._constants = {name: value for name, value in arguments.items() if name not in entry.learnable}
        for name in entry.learnable:
            # NOTE: zero-dimensional, because a float32 vector would promote a bfloat16 z.
            self.register_parameter(name, nn.Parameter(torch.tensor(arguments[name])))

    def forward(self, x: Tensor) -> Tensor:
        if self.branches == 1:
            return self.phi(x)
        gate, value = x.chunk(2, dim=-1)  # (B, T, 2F) -> (B, T, F) each
        return self.phi(gate) * value

    def phi(self, z: Tensor) -> Tensor:
        """Return φ(z), in the dtype of z (autocast would return some functions in float32)."""
        return self.entry.function(z, **self._constants, **dict(self.named_parameters())).to(z.dtype)

    def preactivation(self, x: Tensor) -> Tensor:
        """Return z (B, T, F), which of two branches is the gate."""
        return x if self.branches == 1 else x.chunk(2, dim=-1)[0]

    def slope_bound(self) -> float | None:
        """Return sup |φ'| at the present parameters; None where φ' is unbounded or not elementwise."""
        learned = {name: parameter.item() for name, parameter in self.named_parameters()}
        return self.entry.slope_bound_at({**self._constants, **learned})

    def extra_repr(self) -> str:
        return self.spec


def build_activation(spec: str) -> Activation:
    """Return a fresh activation for one layer.

    Raises: UsageError for an unknown name or an argument that is not allowed.
    """
    return Activation(*resolve_spec(spec))
