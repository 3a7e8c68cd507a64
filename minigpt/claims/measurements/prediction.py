"""How well text is predicted: that trained on and new text, parts of it, other kinds of it, and by counting alone.

N-grams have Witten-Bell smoothing: an order n mixes what followed the last n-1 tokens with what order n-1 says, the
more of the latter the more different tokens followed:

    P_n(w | c) = (count(c w) + kinds(c) · P_{n-1}(w | c')) / (count(c) + kinds(c)),   P_0 = 1 / V,

c' being c without its first token; a context that never occurred says nothing. Counts are of the training text.

Sources: Witten & Bell 1991; in this recursive form Chen & Goodman 1998, section 2.5.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from minigpt.claims.measurements.batches_and_losses import Figures, batches, mean_loss, precision
from minigpt.neurons.knockout import Batch
from minigpt.text.preparation import prepare_text
from minigpt.text.store import TokenStore
from minigpt.text.tasks import answer_places
from minigpt.training.inference import OpenedRun

GAP_TOKENS = 40_000  # of each text
SIZES = {"1k": 1024, "4k": 4096, "16k": 16_384, "64k": 65_536}  # tokens of a chunk
DOMAINS = ("stdlib", "stdlib-code", "grammar:1")
DOMAIN_TOKENS = 32_768
# By the number of tokens that an n-gram is about.
ORDERS = {"unigram": 1, "bigram": 2, "trigram": 3, "fourgram": 4, "fivegram": 5}
# Of the training text, from its beginning: all of the default one. More would not fit into the time of a measurement.
MOST_COUNTED = 10_000_000

Ids = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]


# ------------------------------------------------------------------------------------------------- losses of the model


def gap(run: OpenedRun, store: TokenStore) -> Figures:
    """Loss on the text trained on, on validation text, and the second less the first, in nats per token.

    Without dropout, and of a model with BatchNorm by its running statistics, as it is used.
    """
    trained_on = store.tokens("train")[: run.config.train_tokens or None]
    train, val = (mean_loss(run, batches(run.model, ids, GAP_TOKENS)) for ids in (trained_on, store.tokens("val")))
    return {"train": train, "val": val, "gap": val - train}


def split_losses(run: OpenedRun, store: TokenStore) -> Figures:
    """Mean loss on each whole chunk of each size, side by side from the start, and on all; in nats per token.

    Keys: `4k/0`, `4k/1`, …; `all`, and `tokens` that this is the mean of.
    """
    losses = _token_losses(run, store)
    figures: Figures = {"all": float(losses.mean()), "tokens": float(len(losses))}
    for name, size in SIZES.items():
        chunks = losses[: len(losses) // size * size].view(-1, size)
        figures |= {f"{name}/{number}": float(loss) for number, loss in enumerate(chunks.mean(dim=1))}
    return figures


@torch.no_grad()
def _token_losses(run: OpenedRun, store: TokenStore) -> Tensor:
    """Loss of each predicted token of the validation text (N,), in its order, float64."""
    device, found = run.model.device, []
    with precision(run):
        for inputs, targets in batches(run.model, store.tokens("val")):
            logits = run.model(inputs.to(device)).float().flatten(0, 1)  # (B·T,V)
            found.append(F.cross_entropy(logits, targets.to(device).flatten(), reduction="none").double().cpu())
    return torch.cat(found)


def domain_losses(run: OpenedRun, store: TokenStore) -> Figures:
    """Nats per token on the validation part of each domain; None for one with another vocabulary than the run's."""
    return {domain: _loss_on(domain, run) for domain in DOMAINS}


def _loss_on(domain: str, run: OpenedRun) -> float | None:
    text = prepare_text(replace(run.config, corpus=domain, text_field=None))
    if text.tokenizer.to_json() != run.tokenizer.to_json():
        return None
    return mean_loss(run, batches(run.model, text.tokens("val"), DOMAIN_TOKENS))


# ------------------------------------------------------------------------------------------------------- right answers


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


# ------------------------------------------------------------------------------------------------------------ counting


def ngrams(run: OpenedRun, store: TokenStore) -> Figures:
    """Nats per token of n-grams on the validation tokens, counted on the text that the run was trained on."""
    counted = store.tokens("train")[: run.config.train_tokens or MOST_COUNTED]
    return ngram_losses(counted, store.tokens("val"), store.tokenizer.vocab_size)


def ngram_losses(counted: npt.ArrayLike, predicted: npt.ArrayLike, vocabulary: int) -> Figures:
    """Mean loss of each order in nats per token; the first token is predicted by no one."""
    by_order = probabilities(counted, predicted, vocabulary, max(ORDERS.values()))
    return {name: -float(np.log(by_order[n - 1][1:]).mean()) for name, n in ORDERS.items()}


def probabilities(counted: npt.ArrayLike, predicted: npt.ArrayLike, vocabulary: int, order: int) -> list[Probabilities]:
    """The probability of each token of `predicted` by n-grams of order 1 to `order`, from counts of another text.

    The tokens before the first one are the last ones of the counted text.

    Shapes: counted (N,), predicted (M,); each of the result (M,).
    """
    first = len(np.asarray(counted))
    text: Ids = np.concatenate([counted, predicted]).astype(np.int64)
    contexts = np.zeros_like(text)  # by number; those of order 1 are all the same
    found = [np.full(len(text) - first, 1 / vocabulary)]
    for n in range(1, order + 1):
        grams = contexts * vocabulary + text
        found.append(_mixed(grams[n - 1 : first], grams[first:], contexts[first:], vocabulary, found[-1]))
        # Numbered densely, so that however long a context is, its number times the vocabulary fits into an integer.
        numbers = np.unique(grams, return_inverse=True)[1]
        contexts = np.concatenate([[0], numbers[:-1]])
    return found[1:]


def _mixed(counted: Ids, predicted: Ids, contexts: Ids, vocabulary: int, shorter: Probabilities) -> Probabilities:
    """One order of the recursion: what was counted, mixed with the probabilities of the shorter context."""
    grams, counts = np.unique(counted, return_counts=True)
    known = int(max(counted.max(initial=0) // vocabulary, contexts.max(initial=0))) + 1
    occurrences = np.bincount(counted // vocabulary, minlength=known)[contexts]
    kinds = np.bincount(grams // vocabulary, minlength=known)[contexts]
    places = np.minimum(np.searchsorted(grams, predicted), len(grams) - 1)
    count = np.where(grams[places] == predicted, counts[places], 0)
    mixed = (count + kinds * shorter) / np.maximum(occurrences + kinds, 1)
    return np.where(occurrences > 0, mixed, shorter)
