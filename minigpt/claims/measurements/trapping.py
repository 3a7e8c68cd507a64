"""Neurons whose incoming weights get no gradient at all."""

from __future__ import annotations

import torch

from minigpt.claims.measurement import Figures, measurement
from minigpt.claims.measurements.reading import batches, precision
from minigpt.neurons.life import trapped_neurons
from minigpt.text.store import TokenStore
from minigpt.training.inference import OpenedRun

TOKENS = 8_192


@measurement("trapping")
def trapping(run: OpenedRun, store: TokenStore) -> Figures:
    """Share of neurons, over all layers, whose data gradient is exactly 0 on a stretch of training text."""
    read = batches(run.model, store.tokens("train"), TOKENS)
    with precision(run):
        trapped = torch.cat(trapped_neurons(run.model, read))
    return {"trapped_fraction": float(trapped.double().mean()), "learning_fraction": float((~trapped).double().mean())}
