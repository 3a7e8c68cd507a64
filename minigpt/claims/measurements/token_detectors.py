"""How many neurons can be read as detectors of a few tokens: a proxy for how easy a model is to interpret.

A neuron is open where its input is positive, whatever its activation. It detects tokens if at least 95 % of the places
at which it is open have one of its five commonest tokens as the token read there.

Source: the rule for token detectors of Voita et al. 2023, arXiv:2309.04827, with a fixed number of tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minigpt.claims.measurements.batches_and_losses import Figures, batches, precision
from minigpt.neurons.hooks import Hook, hooked
from minigpt.neurons.probe import plain_blocks
from minigpt.text.store import TokenStore
from minigpt.training.inference import OpenedRun

DETECTOR_TOKENS = 65_536
FEW_TOKENS = 5
COVERED = 0.95
LEAST_OPEN = 1e-3  # of all places; a neuron that opens less often is too rare to be judged


@torch.no_grad()
def token_detectors(run: OpenedRun, store: TokenStore) -> Figures:
    """Share of the neurons judged that detect a few tokens, and share of all neurons that open often enough."""
    model = run.model
    blocks = plain_blocks(model)
    counts = [torch.zeros(block.mlp.d_ff, model.config.vocab_size) for block in blocks]  # (F,V) places open, by token
    read = batches(model, store.tokens("val"), DETECTOR_TOKENS)
    places = torch.zeros(0, dtype=torch.long)  # the token at each place of the batch that is read

    def counting(counted: Tensor) -> Hook:
        def count(module: nn.Module, inputs: tuple[Tensor, ...], hidden: Tensor) -> None:
            z = inputs[0][..., : len(counted)]  # of a gate the first half
            opened = (z > 0).flatten(0, 1).cpu().float()  # (B·T,F)
            counted.T.index_add_(0, places, opened)

        return count

    hooks = [(block.mlp.act, counting(counted)) for block, counted in zip(blocks, counts, strict=True)]
    with hooked(hooks), precision(run):
        for inputs, _ in read:
            places = inputs.flatten()
            model(inputs.to(model.device))
    return detector_shares(torch.cat(counts), sum(inputs.numel() for inputs, _ in read))


def detector_shares(counts: Tensor, places: int) -> Figures:
    """The same from how often each neuron was open at each token (F,V), among this number of places."""
    opened = counts.sum(1)
    judged = opened >= LEAST_OPEN * places
    covered = counts.topk(min(FEW_TOKENS, counts.shape[1]), dim=1).values.sum(1) / opened.clamp_min(1)
    detectors = (covered >= COVERED) & judged
    return {
        "detector_share": float(detectors.sum() / judged.sum()) if judged.any() else None,
        "judged_share": float(judged.double().mean()),
    }
