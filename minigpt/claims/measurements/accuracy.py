"""How often a model is right about the answers of a task, which stand at the end of lines."""

from __future__ import annotations

import torch

from minigpt.claims.measurement import Figures, measurement
from minigpt.claims.measurements.reading import batches, precision
from minigpt.neurons.ablation import Batch
from minigpt.text.store import TokenStore
from minigpt.training.inference import OpenedRun


@measurement("accuracy")
def accuracy(run: OpenedRun, store: TokenStore) -> Figures:
    """Share of the answers of the validation text that the model thinks likeliest, and how many there are.

    An answer is the token before a line's end. Only those count whose line begins in the same window: of the others
    the model cannot see the question.
    """
    newline = int(run.tokenizer.encode("\n")[0])
    counts = [_count(run, batch, newline) for batch in batches(run.model, store.tokens("val"))]
    right, answers = (sum(column) for column in zip(*counts, strict=True))
    return {"accuracy": right / answers if answers else None, "answers": float(answers)}


@torch.no_grad()
def _count(run: OpenedRun, batch: Batch, newline: int) -> tuple[int, int]:
    """Right answers, and all answers, of a batch."""
    inputs, targets = batch  # each (B,T)
    with precision(run):
        guesses = run.model(inputs.to(run.model.device)).argmax(dim=-1).cpu()  # (B,T)
    line_began = (inputs == newline).cumsum(dim=1)[:, :-1] > 0
    line_ends = targets[:, 1:] == newline
    is_answer = line_began & line_ends & (targets[:, :-1] != newline)
    right = is_answer & (guesses[:, :-1] == targets[:, :-1])
    return int(right.sum()), int(is_answer.sum())
