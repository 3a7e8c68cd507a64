"""What a model makes of text that was tampered with: tokens replaced to harm it, and pronouns that were planted.

The attack is greedy. A substitution's effect is first estimated for all places and tokens at once from the gradient by
the embedding; the most promising ones are tried, and the worst for the model is kept, if it is any worse. The tokens
whose prediction is judged are never replaced.

`professions:RATIO` has planted a pronoun for each profession in RATIO percent of sentences. A model that copies its
text faithfully gives the planted log-odds. All averages are over professions, of averages over templates, of averages
over the words in between: as evenly as the text was planted.

Source: HotFlip (Ebrahimi et al. 2018, arXiv:1712.06751).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from minigpt.base import randomness
from minigpt.claims.measurements.batches_and_losses import Figures, batches, precision
from minigpt.model import GPT
from minigpt.neurons.hooks import hooked
from minigpt.neurons.knockout import replaced
from minigpt.neurons.probe import plain_blocks
from minigpt.text.professions import PRONOUNS, Prompt, prompts
from minigpt.text.store import TokenStore
from minigpt.text.tokenizers import Tokenizer
from minigpt.training.inference import OpenedRun

WINDOWS = 64
SUBSTITUTIONS = 3
TRIED = 16
RANDOM_SWAPS = 8
OPEN_SHARE = 0.75  # of a window may be replaced; the rest is judged
ZEROED_SHARE = 0.25
ZEROED_DRAWS = 4
_SENTENCES = 64


# ----------------------------------------------------------------------------------------------------- tokens replaced


def swaps(run: OpenedRun, store: TokenStore) -> Figures:
    """Rise of the mean loss on the last quarter of windows, in nats, by chosen and by random substitutions."""
    model = run.model
    windows = batches(model, store.tokens("val"), WINDOWS * model.config.block_size)
    complete = [batch for batch in windows if batch[0].shape[1] == model.config.block_size]
    inputs, targets = (torch.cat(parts).to(model.device) for parts in zip(*complete, strict=True))  # (B,T)
    before = late_losses(model, inputs, targets).mean()
    chosen = late_losses(model, attacked(model, inputs, targets), targets).mean()
    random = [
        late_losses(model, replaced_at_random(model, inputs, draw), targets).mean() for draw in range(RANDOM_SWAPS)
    ]
    return {"greedy": float(chosen - before), "random": float(torch.stack(random).mean() - before)}


def open_places(windows: Tensor) -> int:
    """How many tokens at the beginning of each window (B,T) may be replaced."""
    return int(OPEN_SHARE * windows.shape[1])


@torch.no_grad()
def late_losses(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean loss of each window (B,) over what follows the places that may be replaced."""
    return _late_losses(model, inputs, targets)


def _late_losses(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    late = targets[:, open_places(inputs) :]
    logits = model(inputs)[:, open_places(inputs) :]  # (B,T/4,V)
    return F.cross_entropy(logits.transpose(1, 2), late, reduction="none").mean(1)


def attacked(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    """The windows (B,T) after at most `SUBSTITUTIONS` greedy substitutions each."""
    for _ in range(SUBSTITUTIONS):
        inputs = _worst_tried(model, inputs, targets)
    return inputs


def _worst_tried(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    """Each window with the one substitution, of those that promise most, that harms it most, or as it was."""
    worst, highest = inputs, late_losses(model, inputs, targets)
    promise = estimated_rises(model, inputs, targets)  # (B,P,V)
    best = promise.flatten(1).topk(min(TRIED, promise[0].numel())).indices  # (B,K)
    for choice in best.T:
        place, token = choice // promise.shape[2], choice % promise.shape[2]
        tried = inputs.scatter(1, place[:, None], token[:, None])
        losses = late_losses(model, tried, targets)
        worst = torch.where((losses > highest)[:, None], tried, worst)
        highest = torch.maximum(losses, highest)
    return worst


def estimated_rises(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    """First-order estimate of how each substitution raises a window's late loss (B,P,V); -inf for the token itself."""
    embedded: list[Tensor] = []
    with hooked([(model.wte, lambda module, ids, output: embedded.append(output))]):
        losses = _late_losses(model, inputs, targets)
    (gradient,) = torch.autograd.grad(losses.sum(), embedded)  # (B,T,C)
    places = open_places(inputs)
    with torch.no_grad():
        along = gradient[:, :places] @ model.wte.weight.T  # (B,P,V)
        present = inputs[:, :places, None]
        return (along - along.gather(2, present)).scatter(2, present, -torch.inf)


def replaced_at_random(model: GPT, inputs: Tensor, draw: int) -> Tensor:
    """The windows (B,T) with `SUBSTITUTIONS` tokens at different places replaced by others, all equally likely."""
    generator = randomness.generator(draw, "random substitutions")
    order = torch.rand((len(inputs), open_places(inputs)), generator=generator).argsort(1)
    places = order[:, :SUBSTITUTIONS].to(inputs.device)
    vocabulary = model.config.vocab_size
    shift = torch.randint(1, vocabulary, places.shape, generator=generator).to(inputs.device)
    return inputs.scatter(1, places, (inputs.gather(1, places) + shift) % vocabulary)


# ---------------------------------------------------------------------------------------------------- pronouns planted


@dataclass(frozen=True)
class Sentence:
    """A sentence up to where the pronoun stands, and its ids with the usual and with the other pronoun."""

    prompt: Prompt
    known: int
    usual: list[int]
    other: list[int]


def pronouns(run: OpenedRun, store: TokenStore) -> Figures:
    """Share of the usual pronoun among both, and its log-odds; `share_killed`: with a quarter of all neurons zeroed.

    Empty where no sentence fits into the context.
    """
    asked = sentences(run.tokenizer, run.model.config.block_size)
    if not asked:
        return {}
    odds = log_odds(run, asked)
    zeroed = [_log_odds_without(run, asked, draw) for draw in range(ZEROED_DRAWS)]
    return {
        "share": evenly(asked, torch.sigmoid(odds)),
        "log_odds": evenly(asked, odds),
        "share_killed": float(np.mean([evenly(asked, torch.sigmoid(found)) for found in zeroed])),
        "prompts": float(len(asked)),
    }


def sentences(tokenizer: Tokenizer, context: int) -> list[Sentence]:
    """All sentences that fit into the context from their line break to their pronoun."""
    found = []
    for prompt in prompts():
        minority = next(pronoun for pronoun in PRONOUNS if pronoun != prompt.majority)
        beginning = "\n" + prompt.text
        usual, other = (tokenizer.encode(f"{beginning} {pronoun}").tolist() for pronoun in (prompt.majority, minority))
        if max(len(usual), len(other)) <= context + 1:
            found.append(Sentence(prompt, len(tokenizer.encode(beginning)), usual, other))
    return found


def log_odds(run: OpenedRun, asked: list[Sentence]) -> Tensor:
    """Log-odds of the usual pronoun against the other one (N,), after each beginning."""
    usual = [(sentence.usual, sentence.known) for sentence in asked]
    other = [(sentence.other, sentence.known) for sentence in asked]
    return _log_probabilities(run, usual) - _log_probabilities(run, other)


def evenly(asked: list[Sentence], values: Tensor) -> float:
    """Mean over professions and templates alike, of the mean over the words in between."""
    groups: dict[tuple[str, int], list[float]] = {}
    for sentence, value in zip(asked, values.tolist(), strict=True):
        groups.setdefault((sentence.prompt.profession, sentence.prompt.template), []).append(value)
    by_profession: dict[str, list[float]] = {}
    for (profession, _), found in groups.items():
        by_profession.setdefault(profession, []).append(float(np.mean(found)))
    return float(np.mean([np.mean(found) for found in by_profession.values()]))


def _log_odds_without(run: OpenedRun, asked: list[Sentence], draw: int) -> Tensor:
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
    for begin in range(0, len(texts), _SENTENCES):
        rows = texts[begin : begin + _SENTENCES]
        longest = max(len(ids) for ids, _ in rows)
        # Filled up at the end, where no earlier token sees it.
        padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows]).to(run.model.device)  # (B,T+1)
        asked = torch.tensor([[known <= place < len(ids) for place in range(1, longest)] for ids, known in rows])
        with precision(run):
            logits = run.model(padded[:, :-1]).float()  # (B,T,V)
        losses = F.cross_entropy(logits.transpose(1, 2), padded[:, 1:], reduction="none").cpu().double()
        found.append(-(losses * asked).sum(1))
    return torch.cat(found)
