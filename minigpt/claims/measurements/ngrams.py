"""How well counting predicts a run's validation text: n-grams with Witten-Bell smoothing.

An order n mixes what followed the last n-1 tokens with what order n-1 says, the more of the latter the more different
tokens followed:

    P_n(w | c) = (count(c w) + kinds(c) · P_{n-1}(w | c')) / (count(c) + kinds(c)),   P_0 = 1 / V,

c' being c without its first token; a context that never occurred says nothing. Counts are of the training text.

Sources: Witten & Bell 1991; in this recursive form Chen & Goodman 1998, section 2.5.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from minigpt.claims.measurement import Figures, measurement
from minigpt.text.store import TokenStore
from minigpt.training.inference import OpenedRun

ORDER = 5
# Of the training text, from its beginning: all of the default one. More would not fit into the time of a measurement.
MOST_COUNTED = 10_000_000

Ids = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]


@measurement("ngrams")
def ngrams(run: OpenedRun, store: TokenStore) -> Figures:
    """Nats per token of a bigram and a 5-gram on the validation tokens that the run itself predicts."""
    counted, predicted = store.tokens("train")[:MOST_COUNTED], store.tokens("val")
    by_order = probabilities(counted, predicted, store.tokenizer.vocab_size, ORDER)
    losses = [-float(np.log(order[1:]).mean()) for order in by_order]  # the first token is predicted by no one
    return {"bigram": losses[1], "fivegram": losses[ORDER - 1]}


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
