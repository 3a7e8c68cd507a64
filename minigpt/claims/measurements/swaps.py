"""How much a few replaced tokens harm later predictions: chosen by whoever knows the model, and at random.

The attack is greedy. A substitution's effect is first estimated for all places and tokens at once from the gradient by
the embedding; the most promising ones are tried, and the worst for the model is kept, if it is any worse. The tokens
whose prediction is judged are never replaced.

Source: HotFlip (Ebrahimi et al. 2018, arXiv:1712.06751).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from minigpt.base import randomness
from minigpt.claims.measurement import Figures, measurement
from minigpt.claims.measurements.reading import batches
from minigpt.model import GPT
from minigpt.neurons.hooks import hooked
from minigpt.text.store import TokenStore
from minigpt.training.inference import OpenedRun

WINDOWS = 64
SUBSTITUTIONS = 3
TRIED = 16
DRAWS = 8
OPEN_SHARE = 0.75  # of a window may be replaced; the rest is judged


@measurement("swaps")
def swaps(run: OpenedRun, store: TokenStore) -> Figures:
    """Rise of the mean loss on the last quarter of windows, in nats, by chosen and by random substitutions."""
    model = run.model
    windows = batches(model, store.tokens("val"), WINDOWS * model.config.block_size)
    complete = [batch for batch in windows if batch[0].shape[1] == model.config.block_size]
    inputs, targets = (torch.cat(parts).to(model.device) for parts in zip(*complete, strict=True))  # (B,T)
    before = late_losses(model, inputs, targets).mean()
    chosen = late_losses(model, attacked(model, inputs, targets), targets).mean()
    random = [late_losses(model, replaced_at_random(model, inputs, draw), targets).mean() for draw in range(DRAWS)]
    return {"greedy": float(chosen - before), "random": float(torch.stack(random).mean() - before)}


def open_places(windows: Tensor) -> int:
    """How many tokens at the beginning of each window (B,T) may be replaced."""
    return int(OPEN_SHARE * windows.shape[1])


@torch.no_grad()
def late_losses(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean loss of each window (B,) over what follows the places that may be replaced."""
    return _late_losses(model, inputs, targets)


def _late_losses(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    late = targets[:, open_places(inputs) :]
    logits = model(inputs)[:, open_places(inputs) :]  # (B,T/4,V)
    return F.cross_entropy(logits.transpose(1, 2), late, reduction="none").mean(1)


def attacked(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    """The windows (B,T) after at most `SUBSTITUTIONS` greedy substitutions each."""
    for _ in range(SUBSTITUTIONS):
        inputs = _worst_tried(model, inputs, targets)
    return inputs


def _worst_tried(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    """Each window with the one substitution, of those that promise most, that harms it most, or as it was."""
    worst, highest = inputs, late_losses(model, inputs, targets)
    promise = estimated_rises(model, inputs, targets)  # (B,P,V)
    best = promise.flatten(1).topk(min(TRIED, promise[0].numel())).indices  # (B,K)
    for choice in best.T:
        place, token = choice // promise.shape[2], choice % promise.shape[2]
        tried = inputs.scatter(1, place[:, None], token[:, None])
        losses = late_losses(model, tried, targets)
        worst = torch.where((losses > highest)[:, None], tried, worst)
        highest = torch.maximum(losses, highest)
    return worst


def estimated_rises(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    """First-order estimate of the rise of each window's late loss by each substitution (B,P,V); what stands is -inf."""
    embedded: list[Tensor] = []
    with hooked([(model.wte, lambda module, ids, output: embedded.append(output))]):
        losses = _late_losses(model, inputs, targets)
    (gradient,) = torch.autograd.grad(losses.sum(), embedded)  # (B,T,C)
    places = open_places(inputs)
    with torch.no_grad():
        along = gradient[:, :places] @ model.wte.weight.T  # (B,P,V)
        present = inputs[:, :places, None]
        return (along - along.gather(2, present)).scatter(2, present, -torch.inf)


def replaced_at_random(model: GPT, inputs: Tensor, draw: int) -> Tensor:
    """The windows (B,T) with `SUBSTITUTIONS` tokens at different places replaced by others, all equally likely."""
    generator = randomness.generator(draw, "random substitutions")
    order = torch.rand((len(inputs), open_places(inputs)), generator=generator).argsort(1)
    places = order[:, :SUBSTITUTIONS].to(inputs.device)
    vocabulary = model.config.vocab_size
    shift = torch.randint(1, vocabulary, places.shape, generator=generator).to(inputs.device)
    return inputs.scatter(1, places, (inputs.gather(1, places) + shift) % vocabulary)
