"""The training loop, from a configuration to a finished run directory.

At each step: evaluate if it is time, commit a checkpoint if it is time, recycle neurons if it is time, update. So an
evaluation shows what became of recycled neurons since, not how fresh they are. A checkpoint after `s` updates and the
log up to its byte length are all that a resumed run needs; everything random follows from (seed, purpose, step).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minigpt.base import storage
from minigpt.base.errors import DataError, DivergedError, StopRequestedError, StorageError
from minigpt.model import GPT
from minigpt.neurons.life import Event
from minigpt.neurons.surgery import check_choice, parse_choice
from minigpt.text.preparation import prepare_text
from minigpt.text.store import TokenStore
from minigpt.training import checkpoints, run_directory, runtime
from minigpt.training.code_version import code_hash
from minigpt.training.config import RunConfig
from minigpt.training.evaluation import Evaluation
from minigpt.training.inheritance import Parent, inherit, load_parent
from minigpt.training.interrupts import StopFlag, StoppedWhileCompiling, stop_on_signals
from minigpt.training.milestones import commit, evaluate_on_the_way, log_step, write_summary
from minigpt.training.ranks import ALONE, Ranks
from minigpt.training.recycling import kill_neurons, recycle_neurons
from minigpt.training.run import Progress, Run, assemble, describe, model_config, restore, write_description
from minigpt.training.step import StepResult, take_step
from minigpt.training.tensorboard import Board, check_installed
from minigpt.training.terminal import Terminal

EvaluationCallback = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Start:
    """A training that could begin; nothing on disk knows of it. `parent` is the run whose weights it takes over."""

    config: RunConfig
    directory: Path
    store: TokenStore
    model: GPT
    parent: Parent | None
    resume: bool
    overwrite: bool


class Clock:
    """When a training began, and how long its steps took since the last one that was logged."""

    def __init__(self, progress: Progress) -> None:
        self.begun = time.perf_counter() - progress.seconds
        self._steps, self._seconds = 0, 0.0

    def add(self, seconds: float) -> None:
        """Count one step."""
        self._steps, self._seconds = self._steps + 1, self._seconds + seconds

    def steps_per_second(self) -> float:
        """The rate of the steps counted since this was last asked."""
        rate = self._steps / self._seconds
        self._steps, self._seconds = 0, 0.0
        return rate


def train(
    config: RunConfig,
    directory: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    ranks: Ranks = ALONE,
    data: str | None = None,
    callbacks: Sequence[EvaluationCallback] = (),
) -> dict[str, Any]:
    """Train as configured, leave everything in `directory` and return the content of its `summary.json`.

    `config` is as `runtime.resolve` left it; only `compile` may still be `auto`. Several ranks train together; the
    summary is empty on those that do not lead. `data` is the hash that the text must have, where it was settled before.

    Rank 0 calls each of `callbacks` after every evaluation, with its record as it stands in `metrics.jsonl`. A callback
    may read, keep or show it. It must not change torch's settings or write into the run directory; what it raises ends
    the training, which `resume` then continues from its last checkpoint.

    Raises:
        MinigptError: the subclasses say what; before training begins nothing on disk has changed.
    """
    start = prepare(config, directory, resume=resume, overwrite=overwrite, ranks=ranks, data=data)
    lock = storage.lock_directory(directory) if ranks.leads else contextlib.nullcontext()
    ranks = replace(ranks, remedy=f"continue with --resume {directory}")
    with runtime.memory_advice(config), lock, stop_on_signals(ranks) as stop:
        run, progress = begin(start, stop, ranks)
        return _train_to_the_end(run, progress, stop, quiet or not ranks.leads, callbacks)


def prepare(
    config: RunConfig,
    directory: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    ranks: Ranks = ALONE,
    data: str | None = None,
) -> Start:
    """Check what can be checked, open the text and build the model, as `train` says; nothing on disk changes."""
    for spec in (config.recycle, config.init_surgery):
        check_choice(parse_choice(spec), model_config(config, vocab_size=1).layer_widths)
    ranks.check_work(config)
    if ranks.leads:
        run_directory.refuse_occupied(directory, resume, overwrite)
    if config.tensorboard:
        check_installed()
    runtime.set_up(config, ranks)
    begun = resume and bool(checkpoints.committed_steps(directory))
    vocabulary = run_directory.read_run_tokenizer(directory) if begun and config.allow_data_change else None
    store = ranks.leader_first(lambda: prepare_text(config, vocabulary))
    if data not in (None, store.sha256):
        changed = f"the text of {config.corpus} changed since this training was planned; its hash differs"
        raise DataError(f"{changed}; restore it, or give the same command again for a new plan")
    with runtime.memory_advice(config):
        model = GPT(model_config(config, store.tokenizer.vocab_size), config.seed).to(config.device)
    parent = None if begun else load_parent(config, directory, store, model)
    _check_space(directory, model)
    code_hash()  # now, while the files are the code that runs; and a stop must not wait for it
    config = runtime.resolve_compile(config, model.flops_per_token() * config.tokens_per_step)
    return Start(config, directory, store, model, parent, resume, overwrite)


def begin(
    start: Start, stop: StopFlag, ranks: Ranks = ALONE, environment: Mapping[str, Any] | None = None
) -> tuple[Run, Progress]:
    """Return to the last checkpoint if that is wanted, and write what a run directory holds before the next step.

    The directory must be locked. `environment` is what the run records of its surroundings besides the machine.
    """
    run = assemble(start.config, start.directory, start.store, start.model, ranks, environment or {})
    progress = restore(run) if start.resume else None
    events = inherit(run, start.parent, stop.check) if start.parent and progress is None else []
    if run.config.init_killed and progress is None:
        events.append(kill_neurons(run))
    ranks.wait()
    if ranks.leads:
        _begin_directory(run, progress, start.overwrite, events)
    return run, progress or Progress()


def _begin_directory(run: Run, progress: Progress | None, overwrite: bool, events: Sequence[Event]) -> None:
    """Write what a run directory holds before the first step.

    NOTE: killed while it deletes the run that it replaces, it must not leave something that looks like a run.
    """
    with run_directory.preparation(run.directory, "training") if overwrite else contextlib.nullcontext():
        write_description(run)
        if progress is None:
            storage.write_bytes(run.metrics, b"".join(f"{storage.to_json(event)}\n".encode() for event in events))


def _check_space(directory: Path, model: GPT) -> None:
    needed, free = 2 * checkpoints.save_size(model), storage.free_bytes(directory)
    if free < needed:
        raise StorageError(f"too little space at {directory}; {free:,} bytes free; two checkpoints need {needed:,}")


def _train_to_the_end(
    run: Run, progress: Progress, stop: StopFlag, quiet: bool, callbacks: Sequence[EvaluationCallback]
) -> dict[str, Any]:
    """Run the loop and write `summary.json`, however it ends."""
    board_wanted = run.config.tensorboard and run.ranks.leads
    with (
        contextlib.closing(Terminal(run.config.steps, progress.step, quiet)) as terminal,
        contextlib.closing(Board(run.directory, progress.step, board_wanted)) as board,
    ):
        terminal.say(describe(run))
        try:
            _loop(run, progress, stop, terminal, board, callbacks)
        except (StopRequestedError, StoppedWhileCompiling) as request:
            commit(run, progress)
            write_summary(run, progress, "stopped")
            done = f"stopped at step {progress.step} of {run.config.steps}"
            message = f"{done}; the checkpoint is committed; continue with --resume {run.directory}"
            raise StopRequestedError(request.exit_code - 128, message) from None
        except DivergedError:
            write_summary(run, progress, "diverged")
            raise
    return write_summary(run, progress, "finished")


def _loop(
    run: Run,
    progress: Progress,
    stop: StopFlag,
    terminal: Terminal,
    board: Board,
    callbacks: Sequence[EvaluationCallback],
) -> None:
    """Evaluate, commit, update, until the last step or until patience runs out."""
    trainee, clock = run.trainee(), Clock(progress)

    def tell(evaluation: Evaluation) -> None:
        terminal.evaluation(progress.step, evaluation)
        board.evaluation(progress.step, evaluation)
        for callback in callbacks if run.ranks.leads else ():
            callback(evaluation.record(progress.step))

    while not arrive(run, progress, clock, stop, tell):
        step_begun = time.perf_counter()
        logged = is_logged(run, progress)
        result = take_step(trainee, progress.step, stop.check, watch_neurons=logged)
        clock.add(time.perf_counter() - step_begun)
        rate = advance(run, progress, clock, result)
        if logged:
            board.step(progress.step, result)
        terminal.step(result, rate)


def arrive(
    run: Run, progress: Progress, clock: Clock, stop: StopFlag, tell: Callable[[Evaluation], None] = lambda _: None
) -> bool:
    """Do what is due before the next update: evaluate, commit, recycle; return whether the training is over.

    If it is asked again at the same step, it does nothing again.
    """
    config = run.config
    stop.check()
    if is_due(config.eval_every, progress.step, config.steps) and progress.evaluated_step < progress.step:
        tell(evaluate_on_the_way(run, progress, stop.check))
    at_end = progress.step == config.steps or 0 < config.patience <= progress.evaluations_without_gain
    progress.seconds = time.perf_counter() - clock.begun
    if at_end or (config.checkpoint_every and progress.step % config.checkpoint_every == 0):
        commit(run, progress)
    if not at_end and _recycling_is_due(config, progress):
        run.log(recycle_neurons(run, config.recycle, progress.step, stop.check))
        progress.recycled_step = progress.step
    return at_end


def is_logged(run: Run, progress: Progress) -> bool:
    """Whether the next update will be logged."""
    return is_due(run.config.log_every, progress.step + 1, run.config.steps)


def advance(run: Run, progress: Progress, clock: Clock, result: StepResult) -> float | None:
    """Count an update that was made, and log it if that is due; then return the tokens per second."""
    logged = is_logged(run, progress)
    progress.step += 1
    progress.tokens += run.config.tokens_per_step
    if not logged:
        return None
    rate = clock.steps_per_second() * run.config.tokens_per_step
    log_step(run, progress, result, rate)
    return rate


def is_due(every: int, step: int, steps: int) -> bool:
    """Whether what is done every `every` steps, and at the last one, is due; never if `every` is 0."""
    return every > 0 and (step % every == 0 or step == steps)


def _recycling_is_due(config: RunConfig, progress: Progress) -> bool:
    """Whether to recycle neurons before this step's update.

    NOTE: a stop may fall between recycling and update. If the checkpoint of this step was committed before, a resumed
    run repeats the recycling from it; if not, the one then committed knows that it was done.
    """
    due = is_due(config.recycle_every, progress.step, config.steps)
    return due and progress.step > 0 and progress.recycled_step < progress.step
