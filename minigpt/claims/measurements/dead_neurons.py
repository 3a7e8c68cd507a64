"""Neurons that do nothing: dead on a million tokens, without any gradient, or not missed when they are taken out."""

from __future__ import annotations

import copy

import torch

from minigpt.base.health_columns import INERT_SHARE
from minigpt.claims.measurements.batches_and_losses import Figures, batches, precision
from minigpt.model import GPT
from minigpt.neurons.bounds import silent_rate_upper, truly_silent
from minigpt.neurons.certificate import certified_dead
from minigpt.neurons.expendable import expendable
from minigpt.neurons.health import contribution, outgoing_norms
from minigpt.neurons.knockout import loss_without, mean_hidden, read_up_to
from minigpt.neurons.life import trapped_neurons
from minigpt.neurons.probe import LayerStatistics, NeuronProbe, plain_blocks
from minigpt.neurons.surgery import choose_share, kill
from minigpt.text.batches import evaluation_batches
from minigpt.text.store import TokenStore
from minigpt.training.evaluation import batch_size
from minigpt.training.inference import OpenedRun

DEATH_TOKENS = 1_000_000
MEANS_TOKENS = 65_536
LOSS_TOKENS = 32_768  # the expendable share of 8,192 has a sampling error of 1.5 points
PLANTED_SHARE = 0.05  # of each layer's neurons
TRAPPING_TOKENS = 8_192


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
        for inputs, _ in evaluation_batches(ids, model.config.block_size, batch_size(model), DEATH_TOKENS):
            model(inputs.to(model.device))
        return probe.statistics()


def _certified(run: OpenedRun) -> float | None:
    proven = [certified_dead(block, run.config.dtype) for block in plain_blocks(run.model)]
    known = [mask for mask in proven if mask is not None]
    return float(torch.cat(known).double().mean()) if len(known) == len(proven) else None


def expendability(run: OpenedRun, store: TokenStore) -> Figures:
    """EF@1 % of the whole model, by contribution and in random order; what is inert; what never opened."""
    return _shares(run, run.model, store)


def planted(run: OpenedRun, store: TokenStore) -> Figures:
    """By how much each share of `expendability` rises when a twentieth of each layer's neurons is killed at random."""
    killed = copy.deepcopy(run.model)
    kill(killed, {}, choose_share(PLANTED_SHARE, [block.mlp.d_ff for block in plain_blocks(killed)], seed=0))
    before, after = _shares(run, run.model, store), _shares(run, killed, store)
    return {name: _difference(after[name], before[name]) for name in before}


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _shares(run: OpenedRun, model: GPT, store: TokenStore) -> Figures:
    train, val = batches(model, store.tokens("train"), MEANS_TOKENS), batches(model, store.tokens("val"), LOSS_TOKENS)
    with precision(run):
        means = mean_hidden(model, train)
        with torch.no_grad(), NeuronProbe(model) as probe:
            for inputs, _ in train:
                model(inputs.to(model.device))
        counted = probe.statistics()
        outgoing = [outgoing_norms(block.mlp) for block in plain_blocks(model)]
        contributions = [contribution(layer, norms) for layer, norms in zip(counted, outgoing, strict=True)]
        inert = torch.cat([scores <= INERT_SHARE * scores.mean() for scores in contributions])
        found = expendable(model, read_up_to(model, 0, val), means, contributions)
    opened = torch.cat([layer.opened for layer in counted])
    return {
        "expendable_fraction": found.fraction,
        "expendable_random": sum(found.random) / len(found.random),
        "never_positive_fraction": float((opened == 0).double().mean()),
        "inert_fraction": float(inert.double().mean()),
        "neurons": float(len(opened)),
    }


def layer_ablation(run: OpenedRun, store: TokenStore) -> Figures:
    """What it costs, in nats, to put the means in the place of all neurons of a layer, and of all layers.

    Keys: `layer_0`, `layer_1`, …; `least` and `largest` of these; `all` together.
    """
    model = run.model
    train, val = batches(model, store.tokens("train"), MEANS_TOKENS), batches(model, store.tokens("val"), LOSS_TOKENS)
    widths = [block.mlp.d_ff for block in plain_blocks(model)]
    with precision(run):
        means, text = mean_hidden(model, train), read_up_to(model, 0, val)

        def loss(removed: set[int]) -> float:
            masks = [torch.full((width,), layer in removed) for layer, width in enumerate(widths)]
            return loss_without(model, text, masks, means)

        before = loss(set())
        rises = {f"layer_{layer}": loss({layer}) - before for layer in range(len(widths))}
        together = loss(set(range(len(widths)))) - before
    return {**rises, "least": min(rises.values()), "largest": max(rises.values()), "all": together}


def trapping(run: OpenedRun, store: TokenStore) -> Figures:
    """Share of neurons, over all layers, whose data gradient is exactly 0 on a stretch of training text."""
    read = batches(run.model, store.tokens("train"), TRAPPING_TOKENS)
    with precision(run):
        trapped = torch.cat(trapped_neurons(run.model, read))
    return {"trapped_fraction": float(trapped.double().mean()), "learning_fraction": float((~trapped).double().mean())}
