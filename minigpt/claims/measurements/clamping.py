"""What a trained model loses if its activation can no longer be negative."""

from __future__ import annotations

from torch import Tensor, nn

from minigpt.claims.measurement import Figures, measurement
from minigpt.claims.measurements.reading import batches, mean_loss
from minigpt.neurons.hooks import hooked
from minigpt.neurons.probe import plain_blocks
from minigpt.text.store import TokenStore
from minigpt.training.inference import OpenedRun

TOKENS = 65_536


@measurement("clamping")
def clamping(run: OpenedRun, store: TokenStore) -> Figures:
    """Loss on validation text as it is, and with all negative hidden values set to 0; how often they are negative."""
    read = batches(run.model, store.tokens("val"), TOKENS)
    negative: list[float] = []

    def clamp(module: nn.Module, inputs: tuple[Tensor, ...], hidden: Tensor) -> Tensor:
        negative.append(float((hidden < 0).float().mean()))
        return hidden.clamp(min=0)

    before = mean_loss(run, read)
    with hooked((block.mlp.act, clamp) for block in plain_blocks(run.model)):
        after = mean_loss(run, read)
    return {"loss": before, "clamped_loss": after, "rise": after - before, "negative": sum(negative) / len(negative)}
