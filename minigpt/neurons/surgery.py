"""Surgery on neurons: which ones, giving them a new start, cutting them out.

Recycling follows ReDo (Sokar et al. 2023, arXiv:2302.12902, algorithm 1): incoming weights are redrawn, the incoming
bias, the outgoing weights and what the optimizer remembers of all of them are zero. So a neuron whose h was 0 can be
recycled without changing what the model computes. Pruning removes neurons that only ever were 0, and folds those that
only ever were one other number into the bias behind them.

Everything here is a pure function of model, optimizer state, masks and a seed: no text is read and nothing is written.

NOTE: softmax couples the neurons of a layer: there a recycled neuron changes the others, though it writes nothing.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from minigpt.activations import canonical_widths, parse_activation, resolve_spec
from minigpt.base import randomness
from minigpt.base.errors import UsageError, did_you_mean
from minigpt.model import GPT, GPTConfig
from minigpt.neurons.hooks import Hook, hooked
from minigpt.neurons.probe import LayerStatistics
from minigpt.parts.architecture import Architecture
from minigpt.parts.initialisation import incoming_std

KINDS = ("none", "dead", "dormant", "random")
# What an optimizer remembers of each parameter, by name.
Memories = Mapping[Tensor, Mapping[str, Tensor]]
SPECS = "none, dead, dormant:0.025, random:8, random:dead"


# Which neurons


@dataclass(frozen=True)
class Choice:
    """Which neurons of a layer are meant, and by what amount: τ of `dormant`, K of `random`.

    `living` are random ones that fire, as many as are dead: what `random:dead` asks for. Where fewer fire than are
    dead, random dead ones make up the number, so that as many are chosen in any case.
    """

    kind: str
    amount: float = 0.0

    @property
    def needs_probing(self) -> bool:
        """Whether it depends on what the neurons do."""
        return self.kind in ("dead", "dormant", "living")


def parse_choice(spec: str) -> Choice:
    """Read `none`, `dead`, `dormant:τ`, `random:K` or `random:dead`.

    Raises:
        UsageError: anything else.
    """
    kind, colon, text = spec.partition(":")
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS) or ";"
        raise UsageError(f"unknown neurons {spec!r:.100}{hint} allowed: {SPECS}")
    if kind in ("none", "dead"):
        if colon:
            raise UsageError(f"{kind} takes no argument; got {spec!r:.100}; leave it out")
        return Choice(kind)
    if kind == "dormant":
        return Choice(kind, _threshold(text))
    if text == "dead":
        return Choice("living")
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
        allowed = "write random:8, or random:dead for as many as are dead"
        raise UsageError(f"random needs a number of neurons of each layer; got {spec!r:.100}; {allowed}")
    return Choice(kind, int(text))


def _threshold(text: str) -> float:
    try:
        threshold = float(text)
    except ValueError:
        threshold = math.nan
    if not 0 <= threshold < math.inf:  # NaN compares false
        raise UsageError(f"dormant needs a threshold of 0 or more; got {text!r:.100}; write dormant:0.025")
    return threshold


def check_choice(choice: Choice, widths: Sequence[int]) -> None:
    """Raise `UsageError` if a layer has fewer neurons than should be drawn from it."""
    for layer, neurons in enumerate(widths):
        if choice.kind == "random" and choice.amount > neurons:
            raise UsageError(
                f"random:{choice.amount} is more than there are; layer {layer} has {neurons}; choose fewer"
            )


def choose(
    choice: Choice, model: GPT, statistics: Sequence[LayerStatistics] | None, seed: int, step: int
) -> list[Tensor]:
    """Return the mask (F,) of the chosen neurons of each layer; `statistics` may be None unless it needs probing."""
    assert statistics is not None or not choice.needs_probing
    if choice.kind in ("dead", "dormant"):
        return [_judge(choice, counted) for counted in statistics or ()]
    masks = []
    for layer, block in enumerate(model.blocks):
        mask = torch.zeros(block.mlp.d_ff, dtype=torch.bool)
        order = torch.randperm(block.mlp.d_ff, generator=randomness.generator(seed, f"recycle/choose/{layer}", step))
        wanted = int(choice.amount)
        if choice.kind == "living" and statistics is not None:
            dead = statistics[layer].fired == 0
            order, wanted = torch.cat([order[~dead[order]], order[dead[order]]]), int(dead.sum())
        mask[order[:wanted]] = True
        masks.append(mask)
    return masks


def _judge(choice: Choice, counted: LayerStatistics) -> Tensor:
    if choice.kind == "dead":
        return counted.fired == 0
    return counted.sum_abs_h <= choice.amount * counted.sum_abs_h.mean()


# Recycling


@torch.no_grad()
def recycle(model: GPT, memories: Memories, chosen: Sequence[Tensor], seed: int, step: int) -> None:
    """Give the chosen neurons, a mask (F,) a layer, new incoming weights and nothing else; the optimizer forgets them.

    A neuron's new weights depend on seed, step, layer and its number, not on which others are chosen.
    """
    std = incoming_std(model.config)
    for layer, (block, mask) in enumerate(zip(model.blocks, chosen, strict=True)):
        w_in, w_out = block.mlp.w_in, block.mlp.w_out
        columns = mask.to(model.device)  # (F,)
        rows = columns.repeat(block.mlp.act.branches)  # (branches·F,)
        noise = torch.randn(w_in.weight.shape, generator=randomness.generator(seed, f"recycle/{layer}", step))
        w_in.weight[rows] = (noise * std).to(model.device)[rows]
        w_out.weight[:, columns] = 0
        _forget(memories, w_in.weight, rows)
        _forget(memories, w_out.weight, (slice(None), columns))
        if w_in.bias is not None:
            w_in.bias[rows] = 0
            _forget(memories, w_in.bias, rows)


def _forget(memories: Memories, parameter: Tensor, place: Any) -> None:
    """Zero, at one place, every moment that is kept of a parameter; its count of steps goes on."""
    for value in memories.get(parameter, {}).values():
        if value.shape == parameter.shape:
            value[place] = 0


# Killing


def check_killing(shape: Architecture) -> None:
    """Raise `UsageError` unless neurons of this architecture can be dead for ever."""
    entries = [resolve_spec(spec)[0] for spec in parse_activation(shape.activation, shape.n_layer)]
    immortal = [entry.name for entry in entries if not entry.exact_zeros or entry.surrogate_gradient]
    if immortal:
        raise UsageError(f"neurons of {immortal[0]} cannot be killed; they need exact zeros below 0; use relu")
    if not shape.bias:
        raise UsageError("neurons are killed by their biases and bias is off; switch it on, or leave out --init-killed")


def choose_share(share: float, widths: Sequence[int], seed: int) -> list[Tensor]:
    """Return a random mask (F,) for each layer that chooses this share of it; a larger share includes a smaller one."""
    masks = []
    for layer, neurons in enumerate(widths):
        order = torch.randperm(neurons, generator=randomness.generator(seed, f"kill/choose/{layer}"))
        masks.append(torch.zeros(neurons, dtype=torch.bool))
        masks[-1][order[: round(share * neurons)]] = True
    return masks


@torch.no_grad()
def kill(model: GPT, memories: Memories, chosen: Sequence[Tensor]) -> None:
    """Make the chosen neurons, a mask (F,) a layer, dead for ever: z = -1 whatever comes in, and no gradient.

    NOTE: their moments must go too, or the next updates would move them. Decoupled decay brings a bias nearer to 0, but
    never past it; `config.check` refuses the other kind.
    """
    for block, mask in zip(model.blocks, chosen, strict=True):
        w_in = block.mlp.w_in
        rows = mask.to(model.device).repeat(block.mlp.act.branches)  # (branches·F,)
        for parameter, value in ((w_in.weight, 0.0), (w_in.bias, -1.0)):
            parameter[rows] = value
            _forget(memories, parameter, rows)


# Pruning


@dataclass
class HiddenRange:
    """The smallest and largest h of each neuron of a layer so far.

    Shapes: both (F,).
    """

    low: Tensor
    high: Tensor

    def widen(self, hidden: Tensor) -> None:
        """Take in the values of one batch (B,T,F)."""
        flat = hidden.detach().flatten(0, -2)  # (B·T,F)
        self.low = torch.minimum(self.low, flat.amin(0))
        self.high = torch.maximum(self.high, flat.amax(0))

    @property
    def dead(self) -> Tensor:
        """Which neurons were 0 on every token."""
        return ((self.low == 0) & (self.high == 0)).cpu()

    @property
    def constant(self) -> Tensor:
        """Which neurons had one value on every token, and not 0."""
        return ((self.low == self.high) & (self.low != 0)).cpu()


@contextlib.contextmanager
def watch_ranges(model: GPT) -> Iterator[list[HiddenRange]]:
    """Widen each layer's range by what passes through the plain, uncompiled model meanwhile."""
    infinities = [torch.full((block.mlp.d_ff,), math.inf, device=model.device) for block in model.blocks]
    ranges = [HiddenRange(infinity, -infinity) for infinity in infinities]

    def widening(seen: HiddenRange) -> Hook:
        return lambda module, inputs, hidden: seen.widen(hidden)

    with hooked((block.mlp.act, widening(seen)) for block, seen in zip(model.blocks, ranges, strict=True)):
        yield ranges


@dataclass(frozen=True)
class Cut:
    """The neurons to be removed from a layer, and what the constant ones of them always wrote.

    Shapes: `removed` (F,) bool; `written` (C,) float64.
    """

    removed: Tensor
    folded: int
    written: Tensor


def plan_cuts(model: GPT, ranges: Sequence[HiddenRange], removable: Sequence[Tensor] | None = None) -> list[Cut]:
    """Decide what pruning takes out: the dead, and where `w_out` has a bias to fold them into, the constant.

    `removable`, one mask (F,) a layer, restricts it to neurons for which there is further evidence. A layer keeps at
    least one neuron.
    """
    cuts = []
    for layer, (block, seen) in enumerate(zip(model.blocks, ranges, strict=True)):
        constant = seen.constant & (block.mlp.w_out.bias is not None)
        removed = seen.dead | constant
        if removable is not None:
            removed &= removable[layer]
        if removed.all():
            removed[0] = False
        folded = constant & removed
        columns = block.mlp.w_out.weight.detach().double().cpu()[:, folded]  # (C,folded)
        cuts.append(Cut(removed, int(folded.sum()), columns @ seen.high.double().cpu()[folded]))
    return cuts


def without_neurons(tensors: Mapping[str, Tensor], model: GPT, removed: Sequence[Tensor]) -> dict[str, Tensor]:
    """Take neurons, a mask (F,) a layer, out of `model`'s tensors named `parameter` or `parameter/state`."""
    remaining = dict(tensors)
    for layer, (block, mask) in enumerate(zip(model.blocks, removed, strict=True)):
        columns = (~mask).nonzero().flatten()
        rows = (~mask.repeat(block.mlp.act.branches)).nonzero().flatten()
        for part, axis, kept in (("w_in.weight", 0, rows), ("w_in.bias", 0, rows), ("w_out.weight", 1, columns)):
            for name, tensor in tensors.items():
                if name.split("/")[0] == f"blocks.{layer}.mlp.{part}" and tensor.dim() > axis:
                    remaining[name] = tensor.detach().index_select(axis, kept.to(tensor.device))
    return remaining


@torch.no_grad()
def prune(model: GPT, cuts: Sequence[Cut]) -> GPT:
    """Return a narrower model on the same device, in the same mode, that computes the same on the cuts' evidence."""
    pruned = GPT(_narrowed(model.config, cuts)).to(model.device).train(model.training)
    kept = without_neurons(model.stored_tensors(), model, [cut.removed for cut in cuts])
    for name, tensor in pruned.stored_tensors().items():
        tensor.copy_(kept[name])
    for block, cut in zip(pruned.blocks, cuts, strict=True):
        if cut.folded:
            block.mlp.w_out.bias.copy_(block.mlp.w_out.bias.double().cpu() + cut.written)
    return pruned


def _narrowed(config: GPTConfig, cuts: Sequence[Cut]) -> GPTConfig:
    if not any(cut.removed.any() for cut in cuts):
        return config
    widths = ",".join(f"{layer}={int((~cut.removed).sum())}" for layer, cut in enumerate(cuts))
    return replace(config, d_ff=canonical_widths(widths, config.n_layer))
