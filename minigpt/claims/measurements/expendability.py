"""How many neurons could be spared."""

from __future__ import annotations

import torch

from minigpt.claims.measurement import Figures, measurement
from minigpt.claims.measurements.reading import batches, precision
from minigpt.neurons.expendable import expendable
from minigpt.neurons.health import contribution, outgoing_norms
from minigpt.neurons.knockout import mean_hidden, read_up_to
from minigpt.neurons.probe import NeuronProbe, plain_blocks
from minigpt.text.store import TokenStore
from minigpt.training.inference import OpenedRun

MEANS_TOKENS = 65_536
LOSS_TOKENS = 8_192


@measurement("expendability")
def expendability(run: OpenedRun, store: TokenStore) -> Figures:
    """EF@1 % of the whole model, by contribution and in random order; what is inert; what never opened."""
    model = run.model
    train, val = batches(model, store.tokens("train"), MEANS_TOKENS), batches(model, store.tokens("val"), LOSS_TOKENS)
    with precision(run):
        means = mean_hidden(model, train)
        with torch.no_grad(), NeuronProbe(model) as probe:
            for inputs, _ in train:
                model(inputs.to(model.device))
        counted = probe.statistics()
        outgoing = [outgoing_norms(block.mlp) for block in plain_blocks(model)]
        contributions = [contribution(layer, norms) for layer, norms in zip(counted, outgoing, strict=True)]
        found = expendable(model, read_up_to(model, 0, val), means, contributions)
    opened = torch.cat([layer.opened for layer in counted])
    return {
        "expendable_fraction": found.fraction,
        "expendable_random": sum(found.random) / len(found.random),
        "never_positive_fraction": float((opened == 0).double().mean()),
        "neurons": float(len(opened)),
    }
