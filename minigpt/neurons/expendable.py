"""How many neurons a model could do without, whatever the reason: dead, duplicate, constant, or of little use.

EF@1 %, the expendable fraction, is the largest set of least-contributing neurons whose joint mean-ablation raises the
perplexity by at most 1 %. It treats all activations alike, which no count of zeros does. Random sets are measured too:
if those can be spared as well, it is the layer that is too wide, not its neurons that are dead.

The static analogue of CETT-PPL-1% (Luo et al. 2024, "Sparsing Law"), which thresholds each token's own neurons.

NOTE: The search is by bisection, as if perplexity never fell when one more neuron goes. So a fraction that is found is
feasible, but a larger one may be too; it is resolved to 1/2^`SEARCH_STEPS` of the neurons at best. The text that is
predicted is a sample: the interval holds the counts whose rise of the perplexity, with its 95 % interval over the
sequences, lies on neither side of the allowed one, as far as the search has tried them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from minigpt.base import randomness
from minigpt.base.health_columns import ALLOWED_RISE
from minigpt.model import GPT
from minigpt.neurons.knockout import SequenceLosses, TextAtLayer, loss_without, losses_without

SEARCH_STEPS = 8
RANDOM_SEARCH_STEPS = 5
RANDOM_ORDERS = 3
LEAST_ACTIVE_SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5)


Losses = Callable[[list[Tensor]], SequenceLosses]
"""Predicts a text while the neurons of a mask (F,) for each layer have their means."""


@dataclass(frozen=True)
class Expendable:
    """The expendable fraction, that of each random order, and how much random sets as large as the first cost.

    fraction     EF@1 % of the neurons in question
    low, high    the fractions that the sampled text cannot tell from it, as far as they were tried
    random       the same as `fraction` if neurons leave in a random order; empty if that was not searched
    random_rise  relative rise of the perplexity when random sets of the size of `fraction` leave
    """

    fraction: float
    low: float
    high: float
    random: tuple[float, ...]
    random_rise: tuple[float, ...]


def expendable(
    model: GPT, text: TextAtLayer, means: Sequence[Tensor], contributions: Sequence[Tensor], layer: int | None = None
) -> Expendable:
    """Search the expendable fraction of one layer, or of the whole model by C_j over its layer's mean.

    `means` should come from another text than the one that is predicted here.
    """
    return search(lambda removed: losses_without(model, text, removed, means), contributions, layer)


@dataclass(frozen=True)
class Effort:
    """How often the range of counts is halved, by contribution and in random orders; if 0, those are not searched."""

    steps: int = SEARCH_STEPS
    random_steps: int = RANDOM_SEARCH_STEPS

    @property
    def evaluations(self) -> int:
        """How often the text is predicted, at most."""
        return 2 + self.steps + RANDOM_ORDERS * (1 + (1 + self.random_steps if self.random_steps else 0))


FULL = Effort()


def search(
    losses: Losses, contributions: Sequence[Tensor], layer: int | None = None, effort: Effort = FULL
) -> Expendable:
    """Search the expendable fraction of one layer, or of the whole model, of whatever makes the `losses`."""
    widths = [len(scores) for scores in contributions]
    order = least_first(contributions, layer)
    base = losses(_masks(widths, order[:0]))
    size, tried = len(order), {0: Rise(0.0, 0.0, 0.0)}

    def rise(chosen: Tensor) -> Rise:
        return relative_rise(base, losses(_masks(widths, chosen)) if len(chosen) else base)

    def prefix_feasible(count: int) -> bool:
        tried[count] = rise(order[:count])
        return tried[count].mean <= ALLOWED_RISE

    count = largest_feasible(0, size, prefix_feasible, effort.steps)
    candidates = order.sort().values
    orders = [candidates[_shuffled(size, seed)] for seed in range(RANDOM_ORDERS)]
    rises = [rise(shuffled[:count]).mean for shuffled in orders]
    random = []
    for shuffled, cost in zip(orders, rises, strict=True) if effort.random_steps else ():
        low, high = (count, size) if cost <= ALLOWED_RISE else (0, count - 1)
        feasible = partial(_feasible, rise, shuffled)
        random.append(largest_feasible(low, high, feasible, effort.random_steps) / size)
    surely = [number for number, found in tried.items() if found.high <= ALLOWED_RISE]
    hardly = [number for number, found in tried.items() if found.low > ALLOWED_RISE]
    return Expendable(
        count / size, max(surely, default=0) / size, min(hardly, default=size) / size, tuple(random), tuple(rises)
    )


def least_first(contributions: Sequence[Tensor], layer: int | None = None) -> Tensor:
    """Numbers of a layer's neurons, or of all by C_j over its layer's mean, all layers counted through; least first."""
    candidates = _positions([len(scores) for scores in contributions], layer)
    scores = torch.cat([_relative(scores) for scores in contributions])
    return candidates[scores[candidates].argsort(stable=True)]


@dataclass(frozen=True)
class Rise:
    """The relative rise of a perplexity, and its 95 % interval over the sequences that were predicted."""

    mean: float
    low: float
    high: float


def relative_rise(before: SequenceLosses, after: SequenceLosses) -> Rise:
    """Compare the same sequences twice; of a single one nothing is known but the rise.

    Source: the ratio estimator and its linearised variance (Cochran 1977, Sampling Techniques, eq. 6.4).
    """
    change, tokens = after.sums - before.sums, before.tokens
    mean = (change.sum() / tokens.sum()).item()
    sequences = len(tokens)
    half = math.inf
    if sequences > 1:
        residual = (change - mean * tokens).square().sum() * sequences / (sequences - 1)
        half = _student_95(sequences - 1) * (residual.sqrt() / tokens.sum()).item()
    return Rise(*(math.expm1(min(value, 100.0)) for value in (mean, mean - half, mean + half)))


def _student_95(freedom: int) -> float:
    """Student's t that 95 % of all values lie within, on both sides."""
    from scipy import special

    return float(special.stdtrit(freedom, 0.975))


def _feasible(rise: Callable[[Tensor], Rise], order: Tensor, count: int) -> bool:
    return rise(order[:count]).mean <= ALLOWED_RISE


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


def as_record(spared: Expendable | None) -> dict[str, Any]:
    """What `neurons.json` and `audit.json` hold of it."""
    if spared is None:
        return {"expendable_fraction": None, "expendable_interval": None, "expendable_random": None}
    return {
        "expendable_fraction": spared.fraction,
        "expendable_interval": {"low": spared.low, "high": spared.high},
        "expendable_random": {
            **(_spread(spared.random) if spared.random else {}),
            "perplexity_rise": _spread(spared.random_rise),
        },
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
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
