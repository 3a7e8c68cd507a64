"""Which pronoun a model gives a profession, where `professions:RATIO` has planted one in RATIO percent of sentences.

A model that copies its text faithfully gives the planted log-odds. All averages are over professions, of averages over
templates, of averages over the words in between: as evenly as the text was planted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from minigpt.base import randomness
from minigpt.claims.measurement import Figures, measurement
from minigpt.claims.measurements.reading import precision
from minigpt.neurons.knockout import replaced
from minigpt.neurons.probe import plain_blocks
from minigpt.text.professions import PRONOUNS, Prompt, prompts
from minigpt.text.store import TokenStore
from minigpt.text.tokenizers import Tokenizer
from minigpt.training.inference import OpenedRun

ZEROED_SHARE = 0.25
DRAWS = 4
_BATCH = 64


@dataclass(frozen=True)
class Question:
    """A sentence up to where the pronoun stands, and its ids with the usual and with the other pronoun."""

    prompt: Prompt
    known: int
    usual: list[int]
    other: list[int]


@measurement("pronouns")
def pronouns(run: OpenedRun, store: TokenStore) -> Figures:
    """Share of the usual pronoun among both, and its log-odds; `share_killed`: with a quarter of all neurons zeroed.

    Empty where no sentence fits into the context.
    """
    asked = questions(run.tokenizer, run.model.config.block_size)
    if not asked:
        return {}
    odds = log_odds(run, asked)
    zeroed = [_log_odds_without(run, asked, draw) for draw in range(DRAWS)]
    return {
        "share": evenly(asked, torch.sigmoid(odds)),
        "log_odds": evenly(asked, odds),
        "share_killed": float(np.mean([evenly(asked, torch.sigmoid(found)) for found in zeroed])),
        "prompts": float(len(asked)),
    }


def questions(tokenizer: Tokenizer, context: int) -> list[Question]:
    """All sentences that fit into the context from their line break to their pronoun."""
    found = []
    for prompt in prompts():
        minority = next(pronoun for pronoun in PRONOUNS if pronoun != prompt.majority)
        beginning = "\n" + prompt.text
        usual, other = (tokenizer.encode(f"{beginning} {pronoun}").tolist() for pronoun in (prompt.majority, minority))
        if max(len(usual), len(other)) <= context + 1:
            found.append(Question(prompt, len(tokenizer.encode(beginning)), usual, other))
    return found


def log_odds(run: OpenedRun, asked: list[Question]) -> Tensor:
    """Log-odds of the usual pronoun against the other one (N,), after each beginning."""
    usual = [(question.usual, question.known) for question in asked]
    other = [(question.other, question.known) for question in asked]
    return _log_probabilities(run, usual) - _log_probabilities(run, other)


def evenly(asked: list[Question], values: Tensor) -> float:
    """Mean over professions and templates alike, of the mean over the words in between."""
    groups: dict[tuple[str, int], list[float]] = {}
    for question, value in zip(asked, values.tolist(), strict=True):
        groups.setdefault((question.prompt.profession, question.prompt.template), []).append(value)
    by_profession: dict[str, list[float]] = {}
    for (profession, _), found in groups.items():
        by_profession.setdefault(profession, []).append(float(np.mean(found)))
    return float(np.mean([np.mean(found) for found in by_profession.values()]))


def _log_odds_without(run: OpenedRun, asked: list[Question], draw: int) -> Tensor:
    """The same while a random quarter of each layer's neurons is zeroed."""
    widths = [block.mlp.d_ff for block in plain_blocks(run.model)]
    masks = [random_neurons(width, draw, layer) for layer, width in enumerate(widths)]
    with replaced(run.model, masks, [torch.zeros(width) for width in widths]):
        return log_odds(run, asked)


def random_neurons(width: int, draw: int, layer: int) -> Tensor:
    """A mask (F,) of a quarter of a layer's neurons."""
    order = torch.randperm(width, generator=randomness.generator(draw, "zeroed neurons", layer))
    return order < round(ZEROED_SHARE * width)


@torch.no_grad()
def _log_probabilities(run: OpenedRun, texts: list[tuple[list[int], int]]) -> Tensor:
    """Log-probability of what follows the first `known` ids of each text (N,), in float64 on the CPU."""
    found = []
    for begin in range(0, len(texts), _BATCH):
        rows = texts[begin : begin + _BATCH]
        longest = max(len(ids) for ids, _ in rows)
        # Filled up at the end, where no earlier token sees it.
        padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows]).to(run.model.device)  # (B,T+1)
        asked = torch.tensor([[known <= place < len(ids) for place in range(1, longest)] for ids, known in rows])
        with precision(run):
            logits = run.model(padded[:, :-1]).float()  # (B,T,V)
        losses = F.cross_entropy(logits.transpose(1, 2), padded[:, 1:], reduction="none").cpu().double()
        found.append(-(losses * asked).sum(1))
    return torch.cat(found)
