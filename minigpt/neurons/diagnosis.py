"""The whole examination of a model's neurons: counted, proven, bounded, ablated; as `neurons.json` holds it.

Each text has its part: one to count on, one for the means that take a neuron's place, and another for the losses, so
that no set of neurons is judged on the text it was chosen by. What is undefined is None, and `undefined` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from minigpt.base.errors import DivergedError
from minigpt.model import GPT
from minigpt.neurons.census import NeuronTable, neuron_table
from minigpt.neurons.certificate import inapplicable
from minigpt.neurons.expendable import Expendable, LeastActive, expendable, zero_least_active
from minigpt.neurons.expendable import as_record as expendable_record
from minigpt.neurons.explorer import Passages, explore, find_passages
from minigpt.neurons.health import as_record, model_health
from minigpt.neurons.knockout import Batch, mean_hidden, perplexity, read_up_to, zero
from minigpt.neurons.layer_figures import SLOPE_FIGURES, certainty, curves, slope_shares
from minigpt.neurons.layer_statistics import LayerStatistics
from minigpt.neurons.life import trapped_neurons
from minigpt.neurons.probe import NeuronProbe, plain_blocks
from minigpt.neurons.slopes import undefined_slope

CHECKED_BATCHES = 8
NO_TEXT = "there is no text for it besides the one that was counted"

Item = TypeVar("Item")


class Track(Protocol):
    """Shows progress: yields the items of a loop."""

    def __call__(self, items: Iterable[Item], label: str) -> Iterable[Item]: ...


@dataclass(frozen=True)
class Texts:
    """The texts of an examination, each to be read more than once; the last two may be empty.

    probed   to count on
    means    what h is on average
    losses   what replacing neurons costs; another text than `means`
    """

    probed: Iterable[Batch]
    means: Sequence[Batch]
    losses: Sequence[Batch]


@dataclass(frozen=True)
class Diagnosis:
    """What was found: the records of `neurons.json`, the table of `neurons.csv`, the neurons of `explorer.json`."""

    layers: list[dict[str, Any]]
    model: dict[str, Any]
    tables: list[NeuronTable]
    explored: list[dict[str, Any]]


def diagnose(
    model: GPT,
    texts: Texts,
    dtype: str,
    token_text: Callable[[int], str],
    autocast: Callable[[], AbstractContextManager[Any]],
    track: Track,
) -> Diagnosis:
    """Examine every neuron of a model in evaluation mode.

    `autocast` opens the precision `dtype` around a forward pass.

    Raises:
        UsageError: the model is compiled, or there is no token to count on.
        DivergedError: hidden values are not finite.
    """
    with autocast():
        statistics, found, kept = _count(model, texts.probed, track)
        blocks = list(enumerate(plain_blocks(model)))
        tables = [neuron_table(layer, block, statistics[layer], dtype) for layer, block in blocks]
        explored = explore(model, tables, found, texts.probed, token_text)
    with autocast():
        spared, least = _ablate(model, texts, tables, track)
    with autocast():
        trapped = trapped_neurons(model, texts.losses) if texts.losses else [None] * len(tables)
    health = model_health(model, statistics)
    layers = [
        {
            **as_record(health[layer]),
            **certainty(statistics[layer], table.verdicts(), table.certificate_bound is not None),
            **slope_shares(statistics[layer]),
            "trapped_fraction": _share(trapped[layer]),
            **expendable_record(spared[layer]),
            **curves(statistics[layer], table.contribution),
            "undefined": _undefined(model, layer, texts),
        }
        for layer, table in enumerate(tables)
    ]
    with autocast():
        without_dead = _zero_dead(model, tables, kept)
    dead = sum(int((table.firing_rate == 0).sum()) for table in tables)
    whole = {
        "dead_fraction": dead / sum(len(table.verdict) for table in tables),
        **expendable_record(spared[-1]),
        "dead_zeroed": without_dead,
        "least_active_zeroed": None if least is None else [_least_active_record(point) for point in least],
    }
    return Diagnosis(layers, whole, tables, explored)


@torch.no_grad()
def _count(model: GPT, batches: Iterable[Batch], track: Track) -> tuple[list[LayerStatistics], Passages, list[Batch]]:
    """Count on the whole text, and keep a few batches of it, the first ones thinned out as more arrive."""
    kept: list[Batch] = []
    stride = 1
    with NeuronProbe(model, deep=True) as probe, find_passages(model) as found:
        for number, (inputs, targets) in enumerate(track(batches, "counting")):
            model(inputs.to(model.device))
            if number % stride == 0:
                kept.append((inputs, targets))
            if len(kept) == 2 * CHECKED_BATCHES:
                kept, stride = kept[::2], 2 * stride
    statistics = probe.statistics()
    for layer, counted in enumerate(statistics):
        if not torch.isfinite(counted.sum_square_h).all():
            raise DivergedError(f"hidden values of layer {layer} are not finite; the weights are too large; lower --lr")
    return statistics, found, kept


def _ablate(
    model: GPT, texts: Texts, tables: Sequence[NeuronTable], track: Track
) -> tuple[list[Expendable | None], list[LeastActive] | None]:
    """The expendable neurons of each layer and, last, of the model; and the least active ones set to 0."""
    layers: list[int | None] = [*range(len(tables)), None]
    if not texts.means or not texts.losses:
        return [None for _ in layers], None
    means = mean_hidden(model, texts.means)
    contributions = [table.contribution for table in tables]
    spared: list[Expendable | None] = []
    for layer in track(layers, "ablating"):
        text = read_up_to(model, layer or 0, texts.losses)
        spared.append(expendable(model, text, means, contributions, layer))
    return spared, zero_least_active(model, text, [table.mean_abs_h for table in tables])


def _zero_dead(model: GPT, tables: Sequence[NeuronTable], batches: Sequence[Batch]) -> dict[str, Any]:
    dead = [table.firing_rate == 0 for table in tables]
    done = zero(model, batches, dead)
    return {
        "neurons": sum(int(mask.sum()) for mask in dead),
        "largest_logit_change": done.largest_logit_change,
        "perplexity_before": perplexity(done.loss_before),
        "perplexity_after": perplexity(done.loss_after),
    }


def _least_active_record(point: LeastActive) -> dict[str, float]:
    return {
        "neurons": point.neurons,
        "share": point.share,
        "perplexity": perplexity(point.loss),
        "random_perplexity": perplexity(point.random_loss),
    }


def _undefined(model: GPT, layer: int, texts: Texts) -> dict[str, str]:
    """Why figures of a layer are missing, by name."""
    block = plain_blocks(model)[layer]
    reasons = {}
    if slope_reason := undefined_slope(block.mlp.act):
        reasons.update(dict.fromkeys(SLOPE_FIGURES, slope_reason))
    if proof_reason := inapplicable(block):
        reasons["certified_dead_fraction"] = proof_reason
    if not texts.losses:
        reasons["trapped_fraction"] = NO_TEXT
    if not texts.losses or not texts.means:
        reasons["expendable_fraction"] = NO_TEXT
    return reasons


def _share(flags: Tensor | None) -> float | None:
    return None if flags is None else flags.double().mean().item()
