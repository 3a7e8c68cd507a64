"""The training loop, from a configuration to a finished run directory.

At each step: evaluate if it is time, commit a checkpoint if it is time, recycle neurons if it is time, update. So an
evaluation shows what became of recycled neurons since, not how fresh they are. A checkpoint after `s` updates and the
log up to its byte length are all that a resumed run needs; everything random follows from (seed, purpose, step).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt.base import storage
from minigpt.base.errors import (
    DataError,
    DivergedError,
    OutOfMemoryError,
    StopRequestedError,
    StorageError,
    is_out_of_memory,
)
from minigpt.model import GPT
from minigpt.neurons.life import Event, silent_counts
from minigpt.neurons.surgery import check_choice, parse_choice
from minigpt.text.batches import near
from minigpt.text.preparation import prepare_text
from minigpt.training import checkpoints, run_directory, runtime, tensorboard
from minigpt.training.code_version import code_hash
from minigpt.training.config import RunConfig
from minigpt.training.evaluation import Evaluation, evaluate
from minigpt.training.inheritance import inherit, load_parent
from minigpt.training.interrupts import StopFlag, stop_on_signals
from minigpt.training.ranks import ALONE, Ranks
from minigpt.training.recycling import recycle_neurons
from minigpt.training.run import (
    Progress,
    Run,
    assemble,
    describe,
    model_config,
    restore,
    write_description,
)
from minigpt.training.step import StepResult, first_bad_parameter, take_step
from minigpt.training.terminal import Terminal, print_notice

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def train(
    config: RunConfig,
    directory: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    ranks: Ranks = ALONE,
    data: str | None = None,
) -> dict[str, Any]:
    """Train as configured, leave everything in `directory` and return the content of its `summary.json`.

    Several ranks do so together; the summary is empty on those that do not lead. `data` is the hash that the text must
    have, where that was settled before.

    Raises:
        MinigptError: the subclasses say what; before training begins nothing on disk has changed.
    """
    config = runtime.resolve(config)
    for spec in (config.recycle, config.init_surgery):
        check_choice(parse_choice(spec), model_config(config, vocab_size=1).layer_widths)
    ranks.check_work(config)
    if ranks.leads:
        run_directory.refuse_occupied(directory, resume, overwrite)
    if config.tensorboard:
        tensorboard.check_installed()
    runtime.set_up(config, ranks)
    begun = resume and bool(checkpoints.committed_steps(directory))
    vocabulary = run_directory.read_run_tokenizer(directory) if begun and config.allow_data_change else None
    store = ranks.leader_first(lambda: prepare_text(config, vocabulary))
    if data not in (None, store.sha256):
        changed = f"the text of {config.corpus} changed since this training was planned; its hash differs"
        raise DataError(f"{changed}; restore it, or give the same command again to plan anew")
    with _memory_advice(config):
        model = GPT(model_config(config, store.tokenizer.vocab_size), config.seed).to(config.device)
    parent = None if begun else load_parent(config, directory, store, model)
    _check_space(directory, model)
    tokens_per_step = config.batch_size * config.grad_accumulation * config.block_size
    config = runtime.resolve_compile(config, model.flops_per_token() * tokens_per_step)
    lock = storage.lock_directory(directory) if ranks.leads else contextlib.nullcontext()
    ranks = replace(ranks, remedy=f"continue with --resume {directory}")
    with _memory_advice(config), lock, stop_on_signals(ranks) as stop:
        run = assemble(config, directory, store, model, ranks)
        progress = restore(run) if resume else None
        events = inherit(run, parent, stop.check) if parent and progress is None else []
        ranks.wait()
        if ranks.leads:
            _begin_directory(run, progress, overwrite, events)
        return _train_to_the_end(run, progress or Progress(), stop, quiet or not ranks.leads)


def _begin_directory(run: Run, progress: Progress | None, overwrite: bool, events: Sequence[Event]) -> None:
    """Write what stands in a run directory before the first step."""
    if overwrite:
        run_directory.clear(run.directory)
    write_description(run)
    if progress is None:
        storage.write_bytes(run.metrics, b"".join(f"{storage.to_json(event)}\n".encode() for event in events))


def _check_space(directory: Path, model: GPT) -> None:
    needed, free = 2 * checkpoints.save_size(model), storage.free_bytes(directory)
    if free < needed:
        raise StorageError(f"too little space at {directory}; {free:,} bytes free; two checkpoints need {needed:,}")


def _train_to_the_end(run: Run, progress: Progress, stop: StopFlag, quiet: bool) -> dict[str, Any]:
    """Run the loop and write `summary.json`, whatever ends it."""
    with _open_terminal(run, progress, quiet) as terminal, _open_tensorboard(run, progress) as writer:
        try:
            _loop(run, progress, stop, terminal, writer)
        except StopRequestedError as request:
            _commit(run, progress)
            _write_summary(run, progress, "stopped")
            done = f"stopped at step {progress.step} of {run.config.steps}"
            message = f"{done}; the checkpoint is committed; continue with --resume {run.directory}"
            raise StopRequestedError(request.exit_code - 128, message) from None
        except DivergedError:
            _write_summary(run, progress, "diverged")
            raise
    return _write_summary(run, progress, "finished")


def _loop(run: Run, progress: Progress, stop: StopFlag, terminal: Terminal, writer: SummaryWriter | None) -> None:
    """Evaluate, commit, update, until the last step or until patience runs out."""
    config, ids = run.config, near(run.training_ids, run.model.device)
    tokens_per_step = config.batch_size * config.grad_accumulation * config.block_size
    begun = time.perf_counter() - progress.seconds
    timed_steps, timed_seconds = 0, 0.0
    while True:
        stop.check()
        if is_due(config.eval_every, progress.step, config.steps) and progress.evaluated_step < progress.step:
            evaluation = _evaluate(run, progress, stop)
            terminal.evaluation(progress.step, evaluation)
            if writer is not None:
                tensorboard.write_evaluation(writer, progress.step, evaluation)
        at_end = progress.step == config.steps or 0 < config.patience <= progress.evaluations_without_gain
        progress.seconds = time.perf_counter() - begun
        if at_end or (config.checkpoint_every and progress.step % config.checkpoint_every == 0):
            _commit(run, progress)
        if at_end:
            return
        if _recycling_is_due(config, progress):
            run.log(recycle_neurons(run, config.recycle, progress.step, stop.check))
            progress.recycled_step = progress.step
        step_begun = time.perf_counter()
        logged = is_due(config.log_every, progress.step + 1, config.steps)
        result = take_step(
            run.model, run.forward, run.optimizer, ids, config, progress.step, stop.check, logged, run.ranks
        )
        timed_steps, timed_seconds = timed_steps + 1, timed_seconds + time.perf_counter() - step_begun
        progress.step += 1
        progress.tokens += tokens_per_step
        rate = None
        if logged:
            rate = timed_steps * tokens_per_step / timed_seconds
            timed_steps, timed_seconds = 0, 0.0
            _log_step(run, progress, result, rate)
            if writer is not None:
                tensorboard.write_step(writer, progress.step, result)
        terminal.step(result, rate)


def is_due(every: int, step: int, steps: int) -> bool:
    """Whether something done every so many steps, and at the last one, is due; never if `every` is 0."""
    return every > 0 and (step % every == 0 or step == steps)


def _recycling_is_due(config: RunConfig, progress: Progress) -> bool:
    """Whether neurons are to be recycled before this step's update.

    NOTE: a stop may fall between recycling and update. If the checkpoint of this step was committed before, a resumed
    run repeats the recycling from it; if not, the one then committed knows that it was done.
    """
    due = is_due(config.recycle_every, progress.step, config.steps)
    return due and progress.step > 0 and progress.recycled_step < progress.step


def _evaluate(run: Run, progress: Progress, stop: StopFlag) -> Evaluation:
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
        between_batches=stop.check,
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


def _commit(run: Run, progress: Progress) -> None:
    """Commit a checkpoint of this step, unless there is one already, and drop those no longer needed."""
    if progress.committed_step == progress.step:
        return
    run.ranks.check_equal(lambda: checkpoints.parameter_hash(run.model))
    if run.ranks.leads:
        _save(run, replace(progress, committed_step=progress.step))
    progress.committed_step = progress.step


def _save(run: Run, progress: Progress) -> None:
    checkpoints.save(
        run.directory,
        progress.step,
        run.model,
        run.optimizer,
        run.life,
        identity=run.identity,
        progress={**asdict(progress), "log_length": storage.flush(run.metrics)},
        environment=run.environment,
    )
    checkpoints.prune(run.directory, keep_also={progress.best_step})


def _log_step(run: Run, progress: Progress, result: StepResult, tokens_per_second: float) -> None:
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


def _write_summary(run: Run, progress: Progress, status: str) -> dict[str, Any]:
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
        "val": evaluations[-1] if evaluations else None,
    }
    run_directory.write_summary(run.directory, summary)
    return summary


@contextlib.contextmanager
def _open_terminal(run: Run, progress: Progress, quiet: bool) -> Iterator[Terminal]:
    terminal = Terminal(run.config.steps, progress.step, quiet)
    terminal.say(describe(run))
    try:
        yield terminal
    finally:
        terminal.close()


@contextlib.contextmanager
def _open_tensorboard(run: Run, progress: Progress) -> Iterator[SummaryWriter | None]:
    if not (run.config.tensorboard and run.ranks.leads):
        yield None
        return
    with contextlib.closing(tensorboard.open_writer(run.directory, progress.step)) as writer:
        yield writer


@contextlib.contextmanager
def _memory_advice(config: RunConfig) -> Iterator[None]:
    """Turn the several ways of running out of memory into one that says what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        smaller = max(1, config.batch_size // 2)
        raise OutOfMemoryError(
            f"out of memory; batch-size {config.batch_size} with block-size {config.block_size} does not fit; "
            f"try --batch-size {smaller} --grad-accumulation {2 * config.grad_accumulation}"
        ) from error
