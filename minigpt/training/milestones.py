"""What happens at certain steps of a training: an evaluation, a checkpoint, lines of the log, the summary.

When each is due is said in `loop.py`. None of it changes a weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import Any

from minigpt.base import storage
from minigpt.base.errors import DivergedError, StorageError
from minigpt.neurons.life import silent_counts
from minigpt.training import checkpoints, run_directory, runtime
from minigpt.training.code_version import code_hash
from minigpt.training.evaluation import Evaluation, evaluate
from minigpt.training.not_finite import first_bad_parameter
from minigpt.training.run import COHORT, Progress, Run, save
from minigpt.training.step import StepResult
from minigpt.training.terminal import print_notice


def evaluate_on_the_way(run: Run, progress: Progress, between_batches: Callable[[], None]) -> Evaluation:
    """Evaluate on validation text, log it, and note whether it is the best so far.

    The last evaluation is complete, and so is every one that `--patience` judges by.
    """
    config = run.config
    complete = progress.step == config.steps or config.patience > 0
    evaluation = evaluate(
        run.model,
        run.store.tokens("val"),
        run.store.tokenizer.byte_lengths(),
        split="val",
        dtype=config.dtype,
        limit=0 if complete else config.eval_tokens,
        part=config.eval_part,
        between_batches=between_batches,
        ranks=run.ranks,
    )
    if not math.isfinite(evaluation.loss):
        bad = first_bad_parameter(run.model)
        if bad:
            raise DivergedError(f"parameter {bad} is not finite at step {progress.step}; the last checkpoint is good")
        print_notice(f"warning: validation loss is {evaluation.loss} at step {progress.step}")
    run.log(evaluation.record(progress.step))
    for event in run.life.see_evaluation(progress.step, evaluation.statistics):
        run.log(event)
    progress.evaluated_step = progress.step
    if progress.best_loss is None or evaluation.loss < progress.best_loss - config.min_delta:
        progress.best_loss, progress.best_step = evaluation.loss, progress.step
        progress.evaluations_without_gain = 0
    else:
        progress.evaluations_without_gain += 1
    return evaluation


def commit(run: Run, progress: Progress) -> None:
    """Commit a checkpoint of this step, unless there is one already, and drop those no longer needed."""
    if progress.committed_step == progress.step:
        return
    run.ranks.check_equal(lambda: checkpoints.parameter_hash(run.model))
    if run.ranks.leads:
        save(run, progress.step, asdict(replace(progress, committed_step=progress.step)), run.environment)
        checkpoints.prune(run.directory, keep_also={progress.best_step})
    progress.committed_step = progress.step


def log_step(run: Run, progress: Progress, result: StepResult, tokens_per_second: float) -> None:
    """Log the step just taken, and which neurons its gradients showed to be alive after all."""
    assert result.gradients is not None
    revivals = run.life.see_step(progress.step, result.gradients)
    record = {
        "kind": "train",
        "step": progress.step,
        "loss": result.loss,
        "lr": result.lr,
        "grad_norm": result.grad_norm,
        "tokens": progress.tokens,
        "tokens_per_second": tokens_per_second,
        "silent": silent_counts(result.gradients),
        "trapped": run.life.trapped_counts(),
    }
    for line in (record, *revivals):
        run.log(line)


def largest_cohort(records: Iterable[dict[str, Any]]) -> int:
    """How many models at most, itself included, were trained as one with a model, by the records of its run."""
    return max((record["size"] for record in records if record.get("event") == COHORT), default=1)


def write_summary(run: Run, progress: Progress, status: str) -> dict[str, Any]:
    """Write the final figures, the last validation record among them, and return them, on the rank that writes."""
    if not run.ranks.leads:
        return {}
    records = run_directory.read_metrics(run.directory)
    evaluations = [record for record in records if record["kind"] == "eval" and record["split"] == "val"]
    log = storage.read_bytes(run.metrics, StorageError)
    summary = {
        "status": status,
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "parameters": run.model.parameter_count(),
        "parameters_sha256": checkpoints.parameter_hash(run.model),
        "flops_per_token": run.model.flops_per_token(),
        "peak_memory_bytes": runtime.peak_memory_bytes(run.config.device),
        "identity": {**run.identity, "code": code_hash()},
        "log": {"bytes": len(log), "sha256": storage.sha256_bytes(log)},
        "best": {"step": progress.best_step, "loss": progress.best_loss},
        "cohort": largest_cohort(records),
        "val": evaluations[-1] if evaluations else None,
    }
    run_directory.write_summary(run.directory, summary)
    return summary
