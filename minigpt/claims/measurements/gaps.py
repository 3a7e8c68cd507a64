"""How much better a model knows the text that it was trained on than new text."""

from __future__ import annotations

from minigpt.claims.measurement import Figures, measurement
from minigpt.claims.measurements.reading import batches, mean_loss
from minigpt.text.store import TokenStore
from minigpt.training.inference import OpenedRun

TOKENS = 40_000  # of each text


@measurement("gap")
def gap(run: OpenedRun, store: TokenStore) -> Figures:
    """Loss on the text trained on, on validation text, and the second less the first, in nats per token.

    Without dropout, and of a model with BatchNorm by its running statistics, as it is used.
    """
    trained_on = store.tokens("train")[: run.config.train_tokens or None]
    train, val = (mean_loss(run, batches(run.model, ids, TOKENS)) for ids in (trained_on, store.tokens("val")))
    return {"train": train, "val": val, "gap": val - train}
