"""How often a model is right about the answers of a task; where they stand in the text, the task itself knows."""

from __future__ import annotations

import torch

from minigpt.claims.measurement import Figures, measurement
from minigpt.claims.measurements.reading import batches, precision
from minigpt.neurons.knockout import Batch
from minigpt.text.store import TokenStore
from minigpt.text.tasks import answer_places
from minigpt.training.inference import OpenedRun


@measurement("accuracy")
def accuracy(run: OpenedRun, store: TokenStore) -> Figures:
    """Share of the answers of the validation text that the model thinks likeliest, and how many there are.

    Only those count whose whole line is in the window: of the others the model cannot see the question. Each symbol of
    the text must be one token.
    """
    counts = [_count(run, batch) for batch in batches(run.model, store.tokens("val"))]
    right, answers = (sum(column) for column in zip(*counts, strict=True))
    return {"accuracy": right / answers if answers else None, "answers": float(answers)}


@torch.no_grad()
def _count(run: OpenedRun, batch: Batch) -> tuple[int, int]:
    """Right answers, and all answers, of a batch."""
    inputs, targets = batch  # each (B,T)
    with precision(run):
        guesses = run.model(inputs.to(run.model.device)).argmax(dim=-1).cpu()  # (B,T)
    windows = torch.cat([inputs[:, :1], targets], dim=1).tolist()  # (B,T+1)
    places = [answer_places(run.tokenizer.decode(window)) for window in windows]
    is_right = (guesses == targets).tolist()
    right = sum(is_right[row][place - 1] for row, found in enumerate(places) for place in found)
    return right, sum(map(len, places))
