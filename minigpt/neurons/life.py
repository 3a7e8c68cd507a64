"""The life of every neuron while a model trains: who fell silent, who died, who came back.

Two witnesses, of unequal weight:

- The gradients of a logged step. Column j of the gradient of `w_out` is Σ h_j · ∂L/∂y over the step's tokens: if it is
  not 0, neuron j fired. If it is exactly 0, the neuron was *silent* on this one batch, which is an early warning and
  no death: a neuron that fires on one token in 10,000 is silent on most batches.
- An evaluation, whose probe sees h itself on many more tokens.

So a neuron **dies** at an evaluation in which h = 0 on every token, and **revives** at the next evaluation or logged
step that sees it fire. Hence the dead after an evaluation are exactly those that its `dead_fraction` counts, and no
neuron stays dead against evidence. Death is thus said of the evaluation's tokens: a neuron that only other text
excites, or only dropout, will die and revive again and again, and `again` in the events tells such lives from one
lasting death.

A neuron is **trapped** if no logged step of a window moved it: the gradient of its row (rows, if gated) of `w_in` was
exactly 0. All gradients are read before clipping; with an L1 term they contain it. Of a finished model
`trapped_neurons` says the same of a text. A dead neuron of an exactly zero activation is trapped on the text on which
it is dead; of a smooth activation it takes underflow. Weight decay, and Adam's first moment until it has faded, may
still move a trapped neuron.

This file changes no parameter and draws no random number. It decides nothing from weights alone, and how sure a
silence is stands in `bounds.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from minigpt.base.errors import CheckpointError
from minigpt.model import GPT
from minigpt.neurons.knockout import Batch
from minigpt.neurons.probe import LayerStatistics, plain_blocks

# Logged steps without any gradient after which a neuron counts as trapped.
TRAPPED_WINDOW = 10
NEVER = -1

Event = dict[str, Any]


@dataclass(frozen=True)
class LayerGradients:
    """What one step's gradients tell of a layer: `fired`, h ≠ 0 on some token; `pulled`, `w_in` had a gradient.

    Shapes: both (F,), bool, on the CPU.
    """

    fired: Tensor
    pulled: Tensor


def read_gradients(model: GPT) -> list[LayerGradients | None]:
    """Read the evidence of each layer after a backward pass, before anything scales the gradients.

    None for a layer whose `w_out` has no gradient at all: then nothing reached it, and silence would prove nothing.
    """
    mlps = [block.mlp for block in model.blocks]
    return [layer_gradients(mlp.w_out.weight.grad, mlp.w_in.weight.grad, mlp.act.branches)[0] for mlp in mlps]


def layer_gradients(written: Tensor | None, read: Tensor | None, branches: int) -> list[LayerGradients | None]:
    """The evidence of one layer from the gradients of its `w_out` and `w_in`, for one model or each of several.

    Shapes: written (C,F), read (branches·F,C); of several models both with a leading axis.
    """
    assert written is not None
    assert read is not None
    # NOTE: the largest magnitude is several times faster to find than whether any is not 0.
    fired = (written.abs().amax(dim=-2) > 0).cpu()  # (…,C,F) -> (…,F)
    moved = read.abs().amax(dim=-1) > 0  # (…,branches·F,C) -> (…,branches·F)
    pulled = moved.view(*moved.shape[:-1], branches, -1).any(dim=-2).cpu()  # (…,F)
    rows = zip(fired.view(-1, fired.size(-1)), pulled.view(-1, fired.size(-1)), strict=True)
    return [LayerGradients(*row) if row[0].any() else None for row in rows]


def silent_counts(gradients: Sequence[LayerGradients | None]) -> list[int | None]:
    """How many neurons of each layer were silent on one step's batch; None where nothing is known."""
    return [None if layer is None else int((~layer.fired).sum()) for layer in gradients]


@dataclass
class LayerLife:
    """The life of one layer's F neurons so far.

    dead        h was 0 on every token of the last evaluation, and no logged step has seen it fire since
    deaths      how often it has died
    last_fired  the last logged step whose batch made it fire; `NEVER` if none did
    unmoved     logged steps in a row without a gradient of `w_in`
    watched     logged steps that told something of the layer, ()

    Shapes: (F,) where nothing else is said; on the CPU.
    """

    dead: Tensor
    deaths: Tensor
    last_fired: Tensor
    unmoved: Tensor
    watched: Tensor


class LifeTable:
    """The lives of all layers; part of a checkpoint, so that a resumed training tells the same story."""

    def __init__(self, model: GPT) -> None:
        self.layers = [_unborn(block.mlp.d_ff) for block in model.blocks]

    def see_step(self, step: int, gradients: Sequence[LayerGradients | None]) -> list[Event]:
        """Take note of the gradients of the update that made `step`; return the revivals as events."""
        events = []
        for index, (life, seen) in enumerate(zip(self.layers, gradients, strict=True)):
            if seen is None:
                continue
            life.watched += 1
            life.last_fired[seen.fired] = step
            life.unmoved = torch.where(seen.pulled, 0, life.unmoved + 1)
            events += _event("neurons_revived", step, index, life, life.dead & seen.fired)
            life.dead = life.dead & ~seen.fired
        return events

    def see_evaluation(self, step: int, statistics: Sequence[LayerStatistics]) -> list[Event]:
        """Take note of what an evaluation after `step` updates counted; return deaths and revivals as events."""
        events = []
        for index, (life, counted) in enumerate(zip(self.layers, statistics, strict=True)):
            silent = counted.fired == 0
            died, revived = silent & ~life.dead, life.dead & ~silent
            life.deaths += died
            life.dead = silent
            events += _event("neurons_died", step, index, life, died)
            events += _event("neurons_revived", step, index, life, revived)
        return events

    def trapped_counts(self) -> list[int | None]:
        """How many neurons of each layer are trapped; None until the window is full."""
        full = [int(life.watched) >= TRAPPED_WINDOW for life in self.layers]
        counts = [int((life.unmoved >= TRAPPED_WINDOW).sum()) for life in self.layers]
        return [count if known else None for count, known in zip(counts, full, strict=True)]

    def begin_anew(self, chosen: Sequence[Tensor]) -> None:
        """Neurons that were recycled, one mask (F,) a layer, are no longer dead; that they had died is remembered."""
        for life, mask in zip(self.layers, chosen, strict=True):
            life.dead = life.dead & ~mask
            life.unmoved = torch.where(mask, 0, life.unmoved)

    def without(self, removed: Sequence[Tensor]) -> dict[str, Tensor]:
        """The tensors of the table of a model from which neurons, one mask (F,) a layer, were cut."""
        kept = [~mask for mask in removed]
        return {
            name: tensor[kept[int(name.split("/")[0])]] if tensor.dim() else tensor
            for name, tensor in self.tensors().items()
        }

    def tensors(self) -> dict[str, Tensor]:
        """The table as `layer/field` -> tensor."""
        return {
            f"{index}/{name}": value for index, life in enumerate(self.layers) for name, value in vars(life).items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave.

        Raises:
            CheckpointError: it is the table of another model.
        """
        expected = self.tensors()
        fits = expected.keys() == tensors.keys() and all(
            tensors[name].shape == value.shape and tensors[name].dtype == value.dtype
            for name, value in expected.items()
        )
        if not fits:
            raise CheckpointError(
                "the neurons' life table is not of this model; its shapes differ; use another checkpoint"
            )
        for index in range(len(self.layers)):
            stored = {item.name: tensors[f"{index}/{item.name}"].clone() for item in fields(LayerLife)}
            self.layers[index] = LayerLife(**stored)


def _unborn(neurons: int) -> LayerLife:
    def zeros(dtype: torch.dtype) -> Tensor:
        return torch.zeros(neurons, dtype=dtype, device="cpu")

    return LayerLife(
        dead=zeros(torch.bool),
        deaths=zeros(torch.int64),
        last_fired=zeros(torch.int64) + NEVER,
        unmoved=zeros(torch.int64),
        watched=torch.zeros((), dtype=torch.int64, device="cpu"),
    )


def _event(name: str, step: int, layer: int, life: LayerLife, chosen: Tensor) -> list[Event]:
    """The record of what happened to the `chosen` neurons (F,) of a layer; none if there are none.

    `again` are those whose death is, or was, not their first; `last_fired` is null where no logged step saw one fire.
    """
    if not chosen.any():
        return []
    last_fired = [None if step == NEVER else step for step in life.last_fired[chosen].tolist()]
    return [
        {
            "kind": "event",
            "event": name,
            "step": step,
            "layer": layer,
            "neurons": chosen.nonzero().flatten().tolist(),
            "again": (chosen & (life.deaths > 1)).nonzero().flatten().tolist(),
            "last_fired": last_fired,
        }
    ]


def trapped_neurons(model: GPT, batches: Iterable[Batch]) -> list[Tensor]:
    """Which neurons (F,) of each layer had a gradient of exactly 0 in every batch; no gradient is left behind.

    Of a gated neuron both rows must be without gradient.

    NOTE: under autocast, enter it again for this pass: weights that it cast under `no_grad` have no gradient.
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
