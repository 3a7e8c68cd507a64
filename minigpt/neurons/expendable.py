"""How many neurons a model could do without, whatever the reason: dead, duplicate, constant, or of little use.

EF@1 %, the expendable fraction, is the largest set of least-contributing neurons whose joint mean-ablation raises the
perplexity by at most 1 %. It treats all activations alike, which no count of zeros does. Random sets are measured too:
if those can be spared as well, it is the layer that is too wide, not its neurons that are dead.

The static analogue of CETT-PPL-1% (Luo et al. 2024, "Sparsing Law"), which thresholds each token's own neurons.

NOTE: The search is by bisection, as if perplexity never fell when one more neuron goes. So a fraction that is found is
feasible, but a larger one may be too; it is resolved to 1/2^`SEARCH_STEPS` of the neurons at best. The text that is
predicted is a sample: from one of 8,192 tokens to the next the fraction changes by a hundredth or two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from minigpt.base import randomness
from minigpt.base.health_columns import ALLOWED_RISE
from minigpt.model import GPT
from minigpt.neurons.knockout import TextAtLayer, loss_without

SEARCH_STEPS = 8
RANDOM_SEARCH_STEPS = 5
RANDOM_ORDERS = 3
LEAST_ACTIVE_SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5)


@dataclass(frozen=True)
class Expendable:
    """The expendable fraction, that of each random order, and how much random sets as large as the first cost.

    fraction     EF@1 % of the neurons in question
    random       the same if neurons leave in a random order
    random_rise  relative rise of the perplexity when random sets of the size of `fraction` leave
    """

    fraction: float
    random: tuple[float, ...]
    random_rise: tuple[float, ...]


def expendable(
    model: GPT, text: TextAtLayer, means: Sequence[Tensor], contributions: Sequence[Tensor], layer: int | None = None
) -> Expendable:
    """Search the expendable fraction of one layer, or of the whole model by C_j over its layer's mean.

    `means` should come from another text than the one that is predicted here.
    """
    widths = [len(scores) for scores in contributions]
    candidates = _positions(widths, layer)
    scores = torch.cat([_relative(scores) for scores in contributions])
    least_first = candidates[scores[candidates].argsort(stable=True)]
    base = loss_without(model, text, _masks(widths, least_first[:0]), means)

    def rise(chosen: Tensor) -> float:
        loss = loss_without(model, text, _masks(widths, chosen), means) if len(chosen) else base
        return math.expm1(min(loss - base, 100.0))

    def feasible(order: Tensor) -> Callable[[int], bool]:
        return lambda count: rise(order[:count]) <= ALLOWED_RISE

    size = len(candidates)
    count = largest_feasible(0, size, feasible(least_first), SEARCH_STEPS)
    orders = [candidates[_shuffled(size, seed)] for seed in range(RANDOM_ORDERS)]
    rises = [rise(order[:count]) for order in orders]
    random = []
    for order, cost in zip(orders, rises, strict=True):
        low, high = (count, size) if cost <= ALLOWED_RISE else (0, count - 1)
        random.append(largest_feasible(low, high, feasible(order), RANDOM_SEARCH_STEPS) / size)
    return Expendable(count / size, tuple(random), tuple(rises))


def largest_feasible(low: int, high: int, feasible: Callable[[int], bool], steps: int) -> int:
    """The largest count from `low`, known to be feasible, to `high` that is found feasible.

    `high` itself is tried first; then the range is halved at most `steps` times.
    """
    if low == high or feasible(high):
        return high
    for _ in range(steps):
        if high - low <= 1:
            break
        middle = (low + high) // 2
        if feasible(middle):
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True)
class LeastActive:
    """The loss with the `neurons` least active neurons of the model at 0, and with as many random ones."""

    neurons: int
    share: float
    loss: float
    random_loss: float


def zero_least_active(model: GPT, text: TextAtLayer, activities: Sequence[Tensor]) -> list[LeastActive]:
    """Zero growing shares of all neurons, those first whose mean |h| is smallest beside their layer's."""
    widths = [len(activity) for activity in activities]
    least_first = torch.cat([_relative(activity) for activity in activities]).argsort(stable=True)
    shuffled = _shuffled(len(least_first), seed=0)
    zeros = [torch.zeros(width) for width in widths]
    found = []
    for share in LEAST_ACTIVE_SHARES:
        count = round(share * len(least_first))
        loss, random_loss = (
            loss_without(model, text, _masks(widths, order[:count]), zeros) for order in (least_first, shuffled)
        )
        found.append(LeastActive(count, count / len(least_first), loss, random_loss))
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, smallest and largest of a few values."""
    return {"mean": fmean(values), "low": min(values), "high": max(values)}


def _relative(scores: Tensor) -> Tensor:
    """Scores over their mean, so that layers can be compared; all 0 where the layer has none."""
    return scores / scores.mean().clamp_min(torch.finfo(torch.float64).tiny)


def _positions(widths: Sequence[int], layer: int | None) -> Tensor:
    """Numbers of the neurons of one layer, or of all, when all layers are counted through."""
    if layer is None:
        return torch.arange(sum(widths))
    first = sum(widths[:layer])
    return torch.arange(first, first + widths[layer])


def _masks(widths: Sequence[int], chosen: Tensor) -> list[Tensor]:
    """Numbers of neurons, counted through, to a mask (F,) for each layer."""
    flat = torch.zeros(sum(widths), dtype=torch.bool)
    flat[chosen] = True
    return list(torch.split(flat, list(widths)))


def _shuffled(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=randomness.generator(seed, "random sets of neurons"))
