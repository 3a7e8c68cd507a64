"""What a text costs anybody's model while neurons at its sites have other values; which can go, `expendable.py` finds.

Hidden values are replaced in front of the down projection; no weight is touched. What blocks before a layer make of the
text is computed once and kept, if the model gives the same without running them again.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minigpt.neurons.find_mlps import run_model
from minigpt.neurons.hooks import hooked
from minigpt.neurons.knockout import Batch, SequenceLosses, joined, sequence_losses
from minigpt.neurons.mlp_site import MLPSite

HEAD_TOKENS = 512  # whose logits exist at a time: those of a whole batch would be larger than the model


@dataclass(frozen=True)
class Predictor:
    """A model as its `body`, which makes hidden states of ids, and its `head`, which makes logits of those."""

    body: nn.Module
    head: Callable[[Tensor], Tensor]


@torch.no_grad()
def predictor(model: nn.Module, body: nn.Module, example_ids: Tensor) -> Predictor:
    """Split a model in front of its output layer, if its logits are exactly what that makes of the body's output."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    logits = run_model(model, example_ids)
    if body is not model and isinstance(head, nn.Module) and torch.equal(head(run_model(body, example_ids)), logits):
        return Predictor(body, head)
    return Predictor(model, lambda logits: logits)


@dataclass(frozen=True)
class TextAtBlock:
    """A text to predict, and what the blocks `before` a layer make of each batch; none if they have to run again."""

    batches: Sequence[Batch]
    before: Sequence[nn.Module]
    outputs: Sequence[Any]


@torch.no_grad()
def read_up_to_site(predictor: Predictor, site: MLPSite | None, batches: Sequence[Batch]) -> TextAtBlock:
    """Compute what the blocks before a site make of a text; for no site, nothing.

    NOTE: a model may pass more from block to block than one output. So what is kept is tried on the first batch.
    """
    before = [] if site is None else _blocks_before(predictor.body, site)
    if not before:
        return TextAtBlock(batches, [], [])
    outputs: list[Any] = []
    with hooked([(before[-1], lambda block, inputs, output: outputs.append(output))]):
        made = [run_model(predictor.body, ids) for ids, _ in batches[:1]]
        if len(outputs) == 1:
            with _answering(before, outputs[0]):
                again = run_model(predictor.body, batches[0][0])
            if torch.equal(again, made[0]):
                for ids, _ in batches[1:]:
                    run_model(predictor.body, ids)
    known = len(outputs) == len(batches)
    return TextAtBlock(batches, before if known else [], outputs if known else [])


def _blocks_before(body: nn.Module, site: MLPSite) -> list[nn.Module]:
    """The blocks in front of the one that a site is in, in the order of the model."""
    path = next((path for path, module in body.named_modules() if module is site.down), "")
    match = re.match(r"(.+?)\.(\d+)\.", path)
    blocks = body.get_submodule(match[1]) if match else None
    if match is None or not isinstance(blocks, nn.ModuleList):
        return []
    return list(blocks)[: int(match[2])]


@torch.no_grad()
def site_losses_without(
    predictor: Predictor,
    text: TextAtBlock,
    places: Mapping[str, MLPSite],
    removed: Sequence[Tensor],
    instead: Sequence[Tensor],
) -> SequenceLosses:
    """The loss of each sequence while the neurons `removed` of each site have the values `instead`.

    Shapes: of each site (F,), a mask and the values.
    """
    found = []
    with _replaced(places, removed, instead):
        for number, (ids, targets) in enumerate(text.batches):
            with _answering(text.before, text.outputs[number]) if text.before else contextlib.nullcontext():
                states = run_model(predictor.body, ids)[:, -targets.size(1) :]  # (B,T,C)
            step = max(1, HEAD_TOKENS // targets.size(1))
            parts = zip(torch.split(states, step), torch.split(targets, step), strict=True)
            found += [sequence_losses(predictor.head(state), part) for state, part in parts]
    return joined(found)


@contextlib.contextmanager
def _replaced(places: Mapping[str, MLPSite], removed: Sequence[Tensor], instead: Sequence[Tensor]) -> Iterator[None]:
    """Inside this block the neurons `removed` of each site, a mask (F,), have the values `instead` (F,)."""
    with contextlib.ExitStack() as stack:
        for site, mask, values in zip(places.values(), removed, instead, strict=True):
            if mask.any():
                device = site.stored.device
                hook = _replacing_hook(mask.to(device), values.float().to(device))  # mps: no float64
                stack.callback(site.down.register_forward_pre_hook(hook).remove)
        yield


def _replacing_hook(mask: Tensor, values: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    return lambda down, inputs: (torch.where(mask, values.to(inputs[0].dtype), inputs[0]), *inputs[1:])


@contextlib.contextmanager
def _answering(blocks: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """Inside this block these modules compute nothing and return `output`, which only the last one's reader reads."""
    before = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            vars(block)["forward"] = lambda *inputs, **named: output
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            if own is None:
                del vars(block)["forward"]
            else:
                vars(block)["forward"] = own
