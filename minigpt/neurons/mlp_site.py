"""A place in any model where hidden neurons are read, as `find_mlps.py` finds them.

Source of the place: Geva et al. 2021, arXiv:2012.14913, where the columns of the second matrix are the values that the
neurons write.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minigpt.neurons.provenance import every

_ASKED_AT_ONCE = 512


@dataclass(frozen=True)
class MLPSite:
    """One place where F neurons are read.

    h is the input of `down`, a module, or of the product with slice `expert` of its packed `parameter`. z is the output
    of `gate` from feature `start` on, every `step`-th; both are None where z could not be told. Where an adapter is
    added to a layer, `gate` is the module that adds them (and has no `gate_parameter`), and `writer` is the one around
    `down`.
    """

    name: str
    block: int
    neurons: int
    activation: str
    gated: bool
    down: nn.Module
    parameter: str
    expert: int | None
    gate: nn.Module | None
    gate_parameter: str
    start: int
    step: int
    norm: nn.Module | None
    rows_are_outputs: bool
    writer: nn.Module | None = None

    @property
    def label(self) -> str:
        """A name for this place alone: packed experts share a module, and so its name."""
        return self.name if self.expert is None else f"{self.name}[{self.expert}]"

    @property
    def seldom(self) -> bool:
        """Whether it is an expert, which only some tokens are sent to."""
        return self.expert is not None or ".experts." in self.name

    @property
    def weight(self) -> Tensor:
        """What the neurons write (C,F): column j is neuron j's; with an adapter, what both together write."""
        if self.writer is not None:
            return _written(self.writer, self.neurons, self.stored)
        return self.stored if self.rows_are_outputs else self.stored.T

    @property
    def stored(self) -> Tensor:
        """The parameter that reads the neurons, or its slice, as the model keeps it and without an adapter."""
        weight: Tensor = getattr(self.down, self.parameter).detach()
        return weight if self.expert is None else weight[self.expert]

    @property
    def features(self) -> slice:
        """Where z is in the output of `gate`."""
        return every(self.step, self.start, self.neurons)

    def z(self, output: Tensor) -> Tensor:
        """The pre-activations (..., F) in the output of `gate`."""
        return output[..., self.features]


@torch.no_grad()
def _written(writer: nn.Module, neurons: int, like: Tensor) -> Tensor:
    """What a linear module writes for each input feature (C,F), asked of it by a few at a time."""
    training = writer.training
    writer.eval()
    shift = writer(like.new_zeros(1, neurons))
    ones = torch.split(torch.eye(neurons, dtype=like.dtype, device=like.device), _ASKED_AT_ONCE)
    columns: Tensor = torch.cat([writer(some) - shift for some in ones]).T
    writer.train(training)
    return columns
