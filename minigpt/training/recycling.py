"""Neurons that get new weights, while training (`--recycle-every`) or before it (`--init-surgery`), or are killed.

Which ones get new weights is judged on training text alone, so that nothing of the validation part reaches them, and on
windows drawn for this step: a pure function of weights, configuration and step. Those killed are drawn at random.
`neurons/surgery.py` says how.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minigpt.base.health_columns import TRUSTED_TOKENS
from minigpt.neurons.life import Event
from minigpt.neurons.probe import LayerStatistics, NeuronProbe
from minigpt.neurons.surgery import choose, choose_share, kill, parse_choice, recycle
from minigpt.text.batches import gather, window_starts
from minigpt.training.evaluation import batch_size, merge_over
from minigpt.training.run import Run
from minigpt.training.runtime import autocast


def recycle_neurons(
    run: Run, spec: str, step: int, between_batches: Callable[[], None], tokens: int | None = None
) -> Event:
    """Recycle the neurons that `spec` names and return the record of it; judged on `tokens`, or `TRUSTED_TOKENS`.

    `between_batches` may raise to stop early; nothing has changed then.
    """
    choice = parse_choice(spec)
    judged_on = TRUSTED_TOKENS if tokens is None else tokens
    statistics = _probe(run, step, judged_on, between_batches) if choice.needs_probing else None
    chosen = choose(choice, run.model, statistics, run.config.seed, step)
    recycle(run.model, run.optimizer.memories, chosen, run.config.seed, step)
    run.life.begin_anew(chosen)
    return recycling_event(spec, step, chosen)


def recycling_event(spec: str, step: int, chosen: list[Tensor]) -> Event:
    """The record of a recycling: which neurons of each layer, and how many."""
    return {
        "kind": "event",
        "event": "neurons_recycled",
        "step": step,
        "recycle": spec,
        "counts": [int(mask.sum()) for mask in chosen],
        "neurons": [mask.nonzero().flatten().tolist() for mask in chosen],
    }


def kill_neurons(run: Run) -> Event:
    """Make the share of each layer's neurons that the configuration names dead for ever; returns the record of it."""
    chosen = choose_share(run.config.init_killed, [block.mlp.d_ff for block in run.model.blocks], run.config.seed)
    kill(run.model, run.optimizer.memories, chosen)
    return {"kind": "event", "event": "neurons_killed", "step": 0, "counts": [int(mask.sum()) for mask in chosen]}


@torch.no_grad()
def _probe(run: Run, step: int, tokens: int, between_batches: Callable[[], None]) -> list[LayerStatistics]:
    """What the neurons do on this number of tokens of training text."""
    config, ids = run.config, run.training_ids
    windows = -(-tokens // config.block_size)
    starts = window_starts(config.seed, step, windows, len(ids), config.block_size, purpose="recycle/windows")
    model = run.model
    with model.evaluating(), NeuronProbe(model) as probe, autocast(model.device, config.dtype):
        for some in run.ranks.deal(torch.split(starts, batch_size(model)), between_batches):
            inputs, _ = gather(ids, some, config.block_size)
            model(inputs.to(model.device))
        return merge_over(run.ranks, probe.statistics(of_a_part=run.ranks.size > 1))
