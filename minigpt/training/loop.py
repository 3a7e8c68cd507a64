"""The training loop, from a configuration to a finished run directory.

At each step: evaluate if it is time, commit a checkpoint if it is time, update. A checkpoint after `s` updates and the
log up to its byte length are all that a resumed run needs; everything random follows from (seed, purpose, step).
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from minigpt import storage
from minigpt.errors import (
    CheckpointError,
    DataError,
    DivergedError,
    OutOfMemoryError,
    StopRequestedError,
    StorageError,
)
from minigpt.model import GPT, GPTConfig, build_model
from minigpt.text.corpora import open_corpus
from minigpt.text.store import TokenStore, prepare
from minigpt.training import checkpoints, run_directory, runtime, tensorboard
from minigpt.training.config import RunConfig
from minigpt.training.evaluation import Evaluation, evaluate
from minigpt.training.interrupts import StopFlag, stop_on_signals
from minigpt.training.optimizers import build_optimizers
from minigpt.training.step import StepResult, first_bad_parameter, take_step
from minigpt.training.terminal import Terminal

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass
class Progress:
    """What changes while a run goes on, besides weights and moments; part of every checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    evaluated_step: int = -1
    committed_step: int = -1
    best_step: int = -1
    best_loss: float | None = None
    evaluations_without_gain: int = 0


@dataclass(frozen=True)
class Run:
    """One training in progress."""

    directory: Path
    config: RunConfig
    store: TokenStore
    model: GPT
    forward: Callable[[Tensor], Tensor]
    optimizers: list[Optimizer]
    identity: dict[str, str]
    environment: dict[str, Any]

    @property
    def metrics(self) -> Path:
        """The log."""
        return self.directory / run_directory.METRICS


def train(
    config: RunConfig, directory: Path, *, resume: bool = False, overwrite: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Train as configured, leave everything in `directory` and return the content of its `summary.json`.

    Raises:
        MinigptError: the subclasses say what; before training begins nothing on disk has changed.
    """
    config = runtime.resolve(config)
    run_directory.refuse_occupied(directory, resume, overwrite)
    runtime.set_up(config)
    store = prepare_text(config)
    model = build_model(model_config(config, store.tokenizer.vocab_size), config.seed).to(config.device)
    _check_space(directory, model)
    tokens_per_step = config.batch_size * config.grad_accumulation * config.block_size
    config = runtime.resolve_compile(config, model.flops_per_token() * tokens_per_step)
    with _memory_advice(config), storage.lock_directory(directory), stop_on_signals() as stop:
        run = _assemble(config, directory, store, model)
        progress = _restore(run) if resume else None
        if overwrite:
            run_directory.clear(directory)
        _write_description(run)
        if progress is None:
            progress = Progress()
            storage.truncate(run.metrics, 0)
        return _train_to_the_end(run, progress, stop, quiet)


def model_config(config: RunConfig, vocab_size: int) -> GPTConfig:
    """The architecture that a configuration describes; both name its parts alike."""
    shared = {item.name: getattr(config, item.name) for item in fields(GPTConfig) if item.name != "vocab_size"}
    return GPTConfig(vocab_size=vocab_size, **shared)


def prepare_text(config: RunConfig) -> TokenStore:
    """Open the corpus and make sure that its tokens are prepared.

    Raises:
        DataError: the corpus cannot be used, or there is no validation text and evaluations are asked for.
    """
    if config.eval_every and not config.val_fraction:
        raise DataError("the validation part is empty; val-fraction is 0; raise it, or switch off with --eval-every 0")
    corpus = open_corpus(config.corpus, config.val_fraction, config.test_fraction)
    return prepare(corpus, config.tokenizer, Path(config.data_dir), min_tokens=config.block_size + 1)


def _check_space(directory: Path, model: GPT) -> None:
    needed, free = 2 * checkpoints.save_size(model), storage.free_bytes(directory)
    if free < needed:
        raise StorageError(f"too little space at {directory}; {free:,} bytes free; two checkpoints need {needed:,}")


def _assemble(config: RunConfig, directory: Path, store: TokenStore, model: GPT) -> Run:
    """Build what trains the model and name what it must be resumed with; nothing is written."""
    environment = {
        **runtime.environment(),
        "corpus_sha256": store.sha256,
        "device": config.device,
        "dtype": config.dtype,
    }
    identity = {
        "config": run_directory.config_hash(config),
        "data": store.sha256,
        "tokenizer": storage.sha256_bytes(storage.json_document(store.tokenizer.to_json())),
    }
    forward: Callable[[Tensor], Tensor] = torch.compile(model, dynamic=False) if config.compile == "on" else model
    optimizers = build_optimizers(model, config)
    return Run(directory, config, store, model, forward, optimizers, identity, environment)


def _write_description(run: Run) -> None:
    """Write configuration, environment and tokenizer; a summary of an earlier attempt no longer holds."""
    storage.remove_stale_temporaries(run.directory)
    storage.remove_tree(run.directory / run_directory.SUMMARY)
    storage.write_json(run.directory / run_directory.CONFIG, run_directory.config_json(run.config))
    storage.write_json(run.directory / run_directory.TOKENIZER, run.store.tokenizer.to_json())
    storage.write_json(run.directory / run_directory.ENVIRONMENT, run.environment)


def _restore(run: Run) -> Progress | None:
    """Return to the newest good checkpoint and cut the log to it; None if no checkpoint was committed.

    Raises:
        CheckpointError: checkpoint, configuration, vocabulary, text and log do not belong together; nothing is changed.
    """
    checkpoint = checkpoints.newest(run.directory, notice=print_notice)
    if checkpoint is None:
        print_notice(f"nothing to resume in {run.directory}; starting at step 0")
        return None
    _check_identity(run, checkpoint)
    checkpoints.load_model(checkpoint, run.model)
    checkpoints.load_optimizers(checkpoint, run.model, run.optimizers)
    stored = dict(checkpoint.progress)
    log_length = stored.pop("log_length", None)
    try:
        progress = Progress(**stored)
    except TypeError as error:
        raise CheckpointError(f"{checkpoint.directory} has other progress than this version keeps; {error}") from error
    if not isinstance(log_length, int) or progress.step != checkpoint.step:
        raise CheckpointError(f"{checkpoint.directory} contradicts itself; step {progress.step}; use another one")
    _cut_log(run.metrics, log_length)
    return progress


def _check_identity(run: Run, checkpoint: checkpoints.Checkpoint) -> None:
    if checkpoint.identity.get("config") != run.identity["config"]:
        raise CheckpointError(f"{run.directory / run_directory.CONFIG} is not its checkpoint's; it was altered")
    tokenizer_path = run.directory / run_directory.TOKENIZER
    if checkpoint.identity.get("tokenizer") != storage.sha256_file(tokenizer_path, CheckpointError):
        raise CheckpointError(f"{tokenizer_path} is not its checkpoint's; it was altered")
    if checkpoint.identity.get("tokenizer") != run.identity["tokenizer"]:
        raise CheckpointError(f"{run.directory} was trained with another vocabulary; restore its text")
    if checkpoint.identity.get("data") != run.identity["data"] and not run.config.allow_data_change:
        raise CheckpointError(
            f"the text of {run.config.corpus} is not the one {run.directory} was trained on; its hash differs; "
            "restore it, or accept that with --allow-data-change"
        )
    for name, now in runtime.exactness().items():
        before = checkpoint.environment.get(name)
        if before != now:
            print_notice(f"warning: not bit-exact: {name} was {before} and is {now}")


def _cut_log(path: Path, length: int) -> None:
    """Return the log to what a checkpoint knows, keeping the records of opening the test part."""
    if not path.exists() or path.stat().st_size < length:
        raise CheckpointError(f"{path} is shorter than its checkpoint says; {length:,} bytes expected; it was altered")
    later = storage.read_json_lines(path, CheckpointError, offset=length)
    openings = [record for record in later if record.get("event") == "test_opened"]
    storage.truncate(path, length)
    for record in openings:
        storage.append_json_line(path, record)


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
    config, ids = run.config, run.store.tokens("train")
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
        step_begun = time.perf_counter()
        result = take_step(run.model, run.forward, run.optimizers, ids, config, progress.step, stop.check)
        timed_steps, timed_seconds = timed_steps + 1, timed_seconds + time.perf_counter() - step_begun
        progress.step += 1
        progress.tokens += tokens_per_step
        rate = None
        if is_due(config.log_every, progress.step, config.steps):
            rate = timed_steps * tokens_per_step / timed_seconds
            timed_steps, timed_seconds = 0, 0.0
            storage.append_json_line(run.metrics, _train_record(progress, result, rate))
            if writer is not None:
                tensorboard.write_step(writer, progress.step, result)
        terminal.step(result, rate)


def is_due(every: int, step: int, steps: int) -> bool:
    """Whether something done every so many steps, and at the last one, is due; never if `every` is 0."""
    return every > 0 and (step % every == 0 or step == steps)


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
        between_batches=stop.check,
    )
    if not math.isfinite(evaluation.loss):
        bad = first_bad_parameter(run.model)
        if bad:
            raise DivergedError(f"parameter {bad} is not finite at step {progress.step}; the last checkpoint is good")
        print_notice(f"warning: validation loss is {evaluation.loss} at step {progress.step}")
    storage.append_json_line(run.metrics, evaluation.record(progress.step))
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
    committed = replace(progress, committed_step=progress.step)
    checkpoints.save(
        run.directory,
        progress.step,
        run.model,
        run.optimizers,
        identity=run.identity,
        progress={**asdict(committed), "log_length": storage.flush(run.metrics)},
        environment=run.environment,
    )
    progress.committed_step = progress.step
    checkpoints.prune(run.directory, keep_also={progress.best_step})


def _train_record(progress: Progress, result: StepResult, tokens_per_second: float) -> dict[str, Any]:
    return {
        "kind": "train",
        "step": progress.step,
        "loss": result.loss,
        "lr": result.lr,
        "grad_norm": result.grad_norm,
        "tokens": progress.tokens,
        "tokens_per_second": tokens_per_second,
    }


def _write_summary(run: Run, progress: Progress, status: str) -> dict[str, Any]:
    """Write the final figures, the last validation record among them, and return them."""
    records = run_directory.read_metrics(run.directory)
    evaluations = [record for record in records if record["kind"] == "eval" and record["split"] == "val"]
    summary = {
        "status": status,
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "parameters": run.model.parameter_count(),
        "parameters_sha256": checkpoints.parameter_hash(run.model),
        "best": {"step": progress.best_step, "loss": progress.best_loss},
        "val": evaluations[-1] if evaluations else None,
    }
    storage.write_json(run.directory / run_directory.SUMMARY, summary)
    return summary


@contextlib.contextmanager
def _open_terminal(run: Run, progress: Progress, quiet: bool) -> Iterator[Terminal]:
    terminal = Terminal(run.config.steps, progress.step, quiet)
    terminal.say(describe(run))
    try:
        yield terminal
    finally:
        terminal.close()


def describe(run: Run) -> str:
    """One line on the text, the model and the machine of a run."""
    config, store = run.config, run.store
    size = store.size("train") + store.size("val")
    text = f"corpus {config.corpus}, {config.tokenizer}: {size:,} tokens of {store.tokenizer.vocab_size:,} kinds"
    model = f"{run.model.parameter_count() / 1e6:.2f} M parameters, {config.activation}"
    threads = f", {torch.get_num_threads()} threads" if config.device == "cpu" else ""
    compiled = ", compiled" if config.compile == "on" else ""
    return f"{text} | {model} | {config.device}{threads}, {config.dtype}{compiled}"


@contextlib.contextmanager
def _open_tensorboard(run: Run, progress: Progress) -> Iterator[SummaryWriter | None]:
    if not run.config.tensorboard:
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
        message = str(error).lower()
        exhausted = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not (exhausted or "allocate memory" in message or "not enough memory" in message):
            raise
        smaller = max(1, config.batch_size // 2)
        raise OutOfMemoryError(
            f"out of memory; batch-size {config.batch_size} with block-size {config.block_size} does not fit; "
            f"try --batch-size {smaller} --grad-accumulation {2 * config.grad_accumulation}"
        ) from error


def print_notice(line: str) -> None:
    """Tell the user something that is neither a result nor an error."""
    tqdm.write(line, file=sys.stderr)
