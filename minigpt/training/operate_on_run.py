"""Surgery on a run: its neurons are probed, pruned and recycled, the result is compared with the original and written.

The original is only read. What is written is a run as any other, at the step of the checkpoint operated on: it samples,
evaluates and resumes. Its log is the original's up to that step, without the evaluation of that very step, which the
operated model has yet to undergo: resuming begins with it. Events tell what was done. `neurons/surgery.py` cuts and
recycles the neurons.

Everything is measured in float32, whatever the run's precision, so that logits can be compared up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minigpt.base import storage
from minigpt.base.errors import CheckpointError, DataError, DivergedError, UsageError
from minigpt.base.health_columns import TRUSTED_TOKENS
from minigpt.model import GPT
from minigpt.neurons.certificate import certified_dead
from minigpt.neurons.life import LifeTable
from minigpt.neurons.probe import LayerStatistics
from minigpt.neurons.surgery import (
    Choice,
    Cut,
    check_choice,
    choose,
    parse_choice,
    plan_cuts,
    prune,
    recycle,
    watch_ranges,
    without_neurons,
)
from minigpt.text.batches import evaluation_batches
from minigpt.text.store import TokenStore
from minigpt.training import checkpoints, run_directory
from minigpt.training.evaluation import Evaluation, batch_size, evaluate
from minigpt.training.inference import OpenedRun, open_text
from minigpt.training.optimizers import build_optimizer, load_state_tensors, state_tensors
from minigpt.training.recycling import recycling_event
from minigpt.training.run import Progress, Run, assemble, keep_parent, preparation, progress_of, save

PRUNINGS = ("none", "dead", "certified")
# What reordering the sums of a float32 forward pass may change, relative to the largest logit.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Operation:
    """What to do, on the evidence of at most `tokens` tokens (0: all) of a split; `seed` draws new weights."""

    recycle: str
    prune: str
    split: str
    tokens: int
    seed: int


@dataclass(frozen=True)
class LayerOutcome:
    """What became of a layer. `pruned` counts neurons as the original does, `recycled` as the result does.

    `folded` of the pruned were constant; `fired_on_held` were silent or constant on the probed tokens and are kept,
    because they were not on the held ones.
    """

    layer: int
    neurons_before: int
    neurons: int
    pruned: list[int]
    folded: int
    fired_on_held: int
    recycled: list[int]


@dataclass(frozen=True)
class Outcome:
    """What an operation found and changed; losses in nats per token, on the held tokens."""

    step: int
    layers: list[LayerOutcome]
    tokens: int
    held_split: str
    held_tokens: int
    parameters_before: int
    parameters: int
    logit_change: float
    loss_before: float
    loss: float


def operate(run: OpenedRun, out: Path, operation: Operation) -> Outcome:
    """Prune, then recycle, and leave the result in `out`; what the probed tokens say is checked on a held-out split.

    Raises:
        UsageError: there is nothing to do, the choice does not fit the model, or `out` holds something.
        DataError: a split has no text.
        CheckpointError: the text is not the run's, or pruning changed the logits; nothing was written.
        DivergedError: the model predicts nothing finite.
    """
    choice = _checked_choice(run, out, operation)
    held = "val" if operation.split == "train" else "train"
    store = _open_both_parts(run)
    evidence = _probe(run, store, operation, held)
    model = prune(run.model, evidence.cuts)
    _check_unchanged(run, model, store.tokens(held))
    operated = _transplant(run, out, store, model, evidence.removed)
    chosen = _recycle(operated, run.checkpoint.step, choice, evidence, operation.seed)
    outcome = _outcome(run, operated, evidence, chosen, store, held)
    _write(run, operated, operation, outcome, chosen)
    return outcome


def _checked_choice(run: OpenedRun, out: Path, operation: Operation) -> Choice:
    choice = parse_choice(operation.recycle)
    if operation.prune not in PRUNINGS or (operation.prune == choice.kind == "none"):
        got = f"prune {operation.prune} and recycle {operation.recycle}"
        raise UsageError(f"nothing to operate on; got {got}; give --prune dead, --recycle dead or both")
    check_choice(choice, run.model.config.layer_widths)
    run_directory.refuse_occupied(out, resume=False, overwrite=run_directory.is_unfinished(out))
    return choice


def _open_both_parts(run: OpenedRun) -> TokenStore:
    """Open the text of a run; one part is probed, the other held out."""
    store = open_text(run)
    for split in ("train", "val"):
        if store.size(split) < 2:
            raise DataError(f"the {split} part of {run.config.corpus} is empty; surgery needs both train and val text")
    return store


def _check_unchanged(run: OpenedRun, pruned: GPT, ids: np.ndarray) -> None:
    change = _largest_logit_change(run.model, pruned, ids)
    if change > ROUNDING:
        raise CheckpointError(
            f"pruning changes the logits of {run.directory}; by {change:.1e} of the largest, where rounding explains "
            f"{ROUNDING:.0e}; nothing was written; leave out --prune"
        )


@dataclass(frozen=True)
class _Evidence:
    """What was seen of the original on both splits together, and what to cut because of it."""

    probed: Evaluation
    held: Evaluation
    statistics: list[LayerStatistics]
    cuts: list[Cut]
    fired_on_held: list[int]

    @property
    def removed(self) -> list[Tensor]:
        return [cut.removed for cut in self.cuts]


def _probe(run: OpenedRun, store: TokenStore, operation: Operation, held_split: str) -> _Evidence:
    """Watch the neurons on the probed tokens and then on the held ones; only what holds on both is evidence."""
    model, removable = run.model, _removable(operation.prune, run)
    with watch_ranges(model) as ranges:
        probed = _evaluate(model, store, operation.split, operation.tokens)
        candidates = [cut.removed for cut in plan_cuts(model, ranges, removable)]
        held = _evaluate(model, store, held_split, TRUSTED_TOKENS)
        cuts = plan_cuts(model, ranges, removable)
    if not math.isfinite(held.loss):
        raise DivergedError(
            f"the loss on {held_split} is {held.loss}; its logits tell nothing; use another --checkpoint"
        )
    fired = [int((candidate & ~cut.removed).sum()) for candidate, cut in zip(candidates, cuts, strict=True)]
    merged = [first.merge(second) for first, second in zip(probed.statistics, held.statistics, strict=True)]
    return _Evidence(probed, held, merged, cuts, fired)


def _removable(pruning: str, run: OpenedRun) -> list[Tensor] | None:
    """Which neurons (F,) of each layer may be cut at all, if they are silent or constant; None: every one."""
    if pruning == "dead":
        return None
    none = [torch.zeros(neurons, dtype=torch.bool) for neurons in run.model.config.layer_widths]
    if pruning == "none":
        return none
    proven = [certified_dead(block, run.config.dtype) for block in run.model.blocks]
    return [mask if found is None else found for mask, found in zip(none, proven, strict=True)]


def _evaluate(model: GPT, store: TokenStore, split: str, limit: int) -> Evaluation:
    byte_lengths = store.tokenizer.byte_lengths()
    return evaluate(model, store.tokens(split), byte_lengths, split=split, dtype="float32", limit=limit)


@torch.no_grad()
def _largest_logit_change(model: GPT, other: GPT, ids: np.ndarray) -> float:
    """The largest difference of any logit on the held tokens, as a share of the largest logit."""
    difference = scale = 0.0
    for inputs, _ in evaluation_batches(ids, model.config.block_size, batch_size(model), TRUSTED_TOKENS):
        logits = model(inputs.to(model.device))  # (B,T,V)
        difference = max(difference, (other(inputs.to(model.device)) - logits).abs().max().item())
        scale = max(scale, logits.abs().max().item())
    return difference / scale if scale else difference


def _transplant(run: OpenedRun, out: Path, store: TokenStore, model: GPT, removed: Sequence[Tensor]) -> Run:
    """Build the run of the operated model around it: its optimizer and life table are cut as it was."""
    stored = run_directory.read_config(run.directory)
    operated = assemble(replace(stored, d_ff=model.config.d_ff), out, store, model)
    keep_parent(operated, run.checkpoint)
    optimizer = build_optimizer(run.model, stored)
    checkpoints.load_optimizer(run.checkpoint, run.model, optimizer)
    moments = without_neurons(state_tensors(run.model, optimizer), run.model, removed)
    load_state_tensors(model, operated.optimizer, moments)
    life = LifeTable(run.model)
    checkpoints.load_life(run.checkpoint, life)
    operated.life.load(life.without(removed))
    return operated


def _recycle(operated: Run, step: int, choice: Choice, evidence: _Evidence, seed: int) -> list[Tensor]:
    """Recycle among the neurons that are left and return their masks."""
    check_choice(choice, operated.model.config.layer_widths)
    left = [_of_kept(counted, mask) for counted, mask in zip(evidence.statistics, evidence.removed, strict=True)]
    chosen = choose(choice, operated.model, left, seed, step)
    recycle(operated.model, operated.optimizer.memories, chosen, seed, step)
    operated.life.begin_anew(chosen)
    return chosen


def _of_kept(counted: LayerStatistics, removed: Tensor) -> LayerStatistics:
    kept: dict[str, Any] = {name: value[~removed] for name, value in vars(counted).items() if isinstance(value, Tensor)}
    return replace(counted, **kept)


def _outcome(
    run: OpenedRun, operated: Run, evidence: _Evidence, chosen: Sequence[Tensor], store: TokenStore, held: str
) -> Outcome:
    layers = [
        LayerOutcome(
            layer=layer,
            neurons_before=cut.removed.numel(),
            neurons=mask.numel(),
            pruned=cut.removed.nonzero().flatten().tolist(),
            folded=cut.folded,
            fired_on_held=evidence.fired_on_held[layer],
            recycled=mask.nonzero().flatten().tolist(),
        )
        for layer, (cut, mask) in enumerate(zip(evidence.cuts, chosen, strict=True))
    ]
    return Outcome(
        step=run.checkpoint.step,
        layers=layers,
        tokens=evidence.probed.tokens,
        held_split=held,
        held_tokens=evidence.held.tokens,
        parameters_before=run.model.parameter_count(),
        parameters=operated.model.parameter_count(),
        logit_change=_largest_logit_change(run.model, operated.model, store.tokens(held)),
        loss_before=evidence.held.loss,
        loss=_evaluate(operated.model, store, held, TRUSTED_TOKENS).loss,
    )


def _write(run: OpenedRun, operated: Run, operation: Operation, outcome: Outcome, chosen: list[Tensor]) -> None:
    """Write the operated run, which is none before its last file is there."""
    log = run_directory.log_up_to(run.directory / run_directory.METRICS, progress_of(run.checkpoint)[1])
    events = _events(run, operation, outcome, chosen)
    with preparation(operated, "surgery", _without_evaluation(log, run.checkpoint.step), events):
        progress = {**run.checkpoint.progress, "evaluated_step": Progress.evaluated_step}
        save(operated, run.checkpoint.step, progress, run.checkpoint.environment)


def _without_evaluation(log: bytes, step: int) -> bytes:
    """The lines of a log without the evaluation of one step."""
    lines = log.splitlines(keepends=True)
    records = [storage.parse_json(line.decode("utf-8", "replace"), "the log", CheckpointError) for line in lines]
    evaluated = [isinstance(r, dict) and (r.get("kind"), r.get("step")) == ("eval", step) for r in records]
    return b"".join(line for line, dropped in zip(lines, evaluated, strict=True) if not dropped)


def _events(run: OpenedRun, operation: Operation, outcome: Outcome, chosen: list[Tensor]) -> list[dict[str, Any]]:
    """What the log says of the operation; recycling in the form that it has while training."""
    surgery = {"kind": "event", "event": "surgery", "step": outcome.step}
    surgery |= {"source": str(run.directory), "source_parameters_sha256": checkpoints.parameter_hash(run.model)}
    surgery |= asdict(operation) | asdict(outcome)
    return (
        [surgery]
        if operation.recycle == "none"
        else [surgery, recycling_event(operation.recycle, outcome.step, chosen)]
    )
