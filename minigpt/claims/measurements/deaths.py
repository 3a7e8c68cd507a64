"""Dead neurons on a million tokens, and how sure that count is."""

from __future__ import annotations

import torch

from minigpt.claims.measurement import Figures, measurement
from minigpt.claims.measurements.reading import precision
from minigpt.neurons.bounds import silent_rate_upper, truly_silent
from minigpt.neurons.certificate import certified_dead
from minigpt.neurons.probe import LayerStatistics, NeuronProbe, plain_blocks
from minigpt.text.batches import evaluation_batches
from minigpt.text.store import TokenStore
from minigpt.training.evaluation import batch_size
from minigpt.training.inference import OpenedRun

TOKENS = 1_000_000


@measurement("deaths")
def deaths(run: OpenedRun, store: TokenStore) -> Figures:
    """Shares of neurons that never fired on training text, over all layers and by layer.

    `truly_dead_fraction` corrects for those that are merely rare (Chao); `dead_upper` is the firing rate above which no
    neuron of the model would have been missed; `certified_fraction` is proven from the weights, None if it cannot be.
    """
    layers = _count(run, store)
    neurons = sum(len(layer.fired) for layer in layers)
    fired = torch.cat([layer.fired for layer in layers])
    never, once, twice = (int((fired == number).sum()) for number in (0, 1, 2))
    figures: Figures = {
        "dead_fraction": never / neurons,
        "dead_upper": silent_rate_upper(layers[0].tokens, neurons),
        "truly_dead_fraction": truly_silent(never, once, twice) / neurons,
        "never_positive_fraction": float(torch.cat([layer.opened == 0 for layer in layers]).double().mean()),
        "certified_fraction": _certified(run),
        "alive": float(neurons - never),
    }
    return figures | {f"dead_layer_{n}": float((layer.fired == 0).double().mean()) for n, layer in enumerate(layers)}


@torch.no_grad()
def _count(run: OpenedRun, store: TokenStore) -> list[LayerStatistics]:
    model, ids = run.model, store.tokens("train")
    with precision(run), NeuronProbe(model) as probe:
        for inputs, _ in evaluation_batches(ids, model.config.block_size, batch_size(model), TOKENS):
            model(inputs.to(model.device))
        return probe.statistics()


def _certified(run: OpenedRun) -> float | None:
    proven = [certified_dead(block, run.config.dtype) for block in plain_blocks(run.model)]
    known = [mask for mask in proven if mask is not None]
    return float(torch.cat(known).double().mean()) if len(known) == len(proven) else None
