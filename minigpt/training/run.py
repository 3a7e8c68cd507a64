"""A run being set up: what belongs together is built, compared with what an earlier attempt left, and described.

Nothing here trains. All checks come before anything is written; `restore` then cuts the log to its checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minigpt.base import plugins, storage
from minigpt.base.errors import CheckpointError
from minigpt.base.log_schema import progress_problem
from minigpt.model import GPT, GPTConfig
from minigpt.neurons.life import LifeTable
from minigpt.parts.architecture import Architecture
from minigpt.text.batches import near
from minigpt.text.store import TokenStore
from minigpt.training import checkpoints, run_directory, runtime
from minigpt.training.config import RunConfig
from minigpt.training.optimizers import Optimizer, build_optimizer
from minigpt.training.ranks import ALONE, Ranks
from minigpt.training.step import Trainee
from minigpt.training.terminal import print_notice

# In a record of the surroundings: how many models were trained as one, unless each was trained alone.
COHORT = "cohort"
UNSTATED = {COHORT: 1}


@dataclass
class Progress:
    """What changes while a run goes on, besides weights and moments; part of every checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    evaluated_step: int = -1
    committed_step: int = -1
    recycled_step: int = -1
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
    optimizer: Optimizer
    life: LifeTable
    identity: dict[str, str]
    environment: dict[str, Any]
    ranks: Ranks = ALONE

    @property
    def training_ids(self) -> np.ndarray:
        """The tokens to train on (N,): all of the training part, or its first `train_tokens`."""
        return self.store.tokens("train")[: self.config.train_tokens or None]

    @property
    def metrics(self) -> Path:
        """The log."""
        return self.directory / run_directory.METRICS

    def trainee(self) -> Trainee:
        """What a step works on, the tokens on the device where there is room."""
        ids = near(self.training_ids, self.model.device)
        return Trainee(self.model, self.forward, self.optimizer, ids, self.config, self.ranks)

    def log(self, record: dict[str, Any]) -> None:
        """Append a record to the log, on the rank that writes."""
        if self.ranks.leads:
            storage.append_json_line(self.metrics, record)


def model_config(config: RunConfig, vocab_size: int) -> GPTConfig:
    """The architecture that a resolved configuration describes, for a vocabulary of that size."""
    return GPTConfig(vocab_size=vocab_size, **{item.name: getattr(config, item.name) for item in fields(Architecture)})


def vocabulary_hash(store: TokenStore) -> str:
    """SHA-256 of the tokenizer as a run keeps it."""
    return storage.sha256_bytes(storage.json_document(store.tokenizer.to_json()))


def assemble(
    config: RunConfig,
    directory: Path,
    store: TokenStore,
    model: GPT,
    ranks: Ranks = ALONE,
    surroundings: Mapping[str, Any] | None = None,
) -> Run:
    """Build what trains the model and name what it must be resumed with; nothing is written.

    `surroundings` is what is recorded besides the machine.
    """
    environment = {
        **runtime.environment(config.device, ranks),
        **(surroundings or {}),
        "corpus_sha256": store.sha256,
        "device": config.device,
        "dtype": config.dtype,
    }
    identity = {
        "config": run_directory.config_hash(config),
        "data": store.sha256,
        "tokenizer": vocabulary_hash(store),
        **plugins.record(),
    }
    forward = runtime.forward_of(model, config.compile)
    optimizer = build_optimizer(model, config)
    return Run(directory, config, store, model, forward, optimizer, LifeTable(model), identity, environment, ranks)


def write_description(run: Run) -> None:
    """Write configuration, environment and tokenizer; a summary of an earlier attempt no longer holds."""
    storage.remove_stale_temporaries(run.directory)
    storage.remove_tree(run.directory / run_directory.SUMMARY)
    storage.write_json(run.directory / run_directory.CONFIG, run_directory.config_json(run.config) | plugins.record())
    storage.write_json(run.directory / run_directory.TOKENIZER, run.store.tokenizer.to_json())
    environment = {**run.environment, "file_system": storage.limitations()}
    storage.write_sealed(run.directory / run_directory.ENVIRONMENT, environment)


@contextlib.contextmanager
def preparation(run: Run, of: str, log: bytes, events: Iterable[dict[str, Any]]) -> Iterator[None]:
    """Begin a run that did not grow by training; it is one when this block, which commits its weights, is done."""
    with storage.lock_directory(run.directory), run_directory.preparation(run.directory, of):
        write_description(run)
        storage.write_bytes(run.metrics, log)
        for event in events:
            storage.append_json_line(run.metrics, event)
        yield


def save(run: Run, step: int, progress: Mapping[str, Any], environment: dict[str, Any]) -> None:
    """Commit a checkpoint of a run, whose log belongs to it up to its present end."""
    checkpoints.save(
        run.directory,
        step,
        run.model,
        run.optimizer,
        run.life,
        identity=run.identity,
        progress={**progress, "log_length": storage.flush(run.metrics)},
        environment=environment,
    )


def restore(run: Run) -> Progress | None:
    """Return to the newest good checkpoint and cut the log to it; None if no checkpoint was committed.

    Raises:
        CheckpointError: checkpoint, configuration, vocabulary, text and log do not belong together; nothing is changed.
    """
    checkpoint = checkpoints.newest(run.directory, notice=print_notice)
    if checkpoint is None:
        print_notice(f"nothing to resume in {run.directory}; starting at step 0")
        return None
    _check_identity(run, checkpoint)
    keep_parent(run, checkpoint)
    checkpoints.load_model(checkpoint, run.model)
    checkpoints.load_optimizer(checkpoint, run.model, run.optimizer)
    checkpoints.load_life(checkpoint, run.life)
    progress, log_length = progress_of(checkpoint)
    log = run_directory.log_up_to(run.metrics, log_length)
    if run.ranks.leads:
        storage.write_bytes(run.metrics, log)
    return progress


def keep_parent(run: Run, checkpoint: checkpoints.Checkpoint) -> None:
    """Go on naming the weights that a run began with, if they were not random."""
    if "parent" in checkpoint.identity:
        run.identity["parent"] = checkpoint.identity["parent"]


def _check_identity(run: Run, checkpoint: checkpoints.Checkpoint) -> None:
    if not run_directory.is_of(run.config, checkpoint.identity.get("config")):
        raise CheckpointError(f"{run.directory / run_directory.CONFIG} is not its checkpoint's; it was altered")
    plugins.require(checkpoint.identity.get(plugins.NAME), checkpoint.identity.get(plugins.HASH), str(run.directory))
    tokenizer_path = run.directory / run_directory.TOKENIZER
    if checkpoint.identity.get("tokenizer") != storage.sha256_file(tokenizer_path, CheckpointError):
        raise CheckpointError(f"{tokenizer_path} is not its checkpoint's; it was altered")
    if checkpoint.identity.get("tokenizer") != run.identity["tokenizer"]:
        raise CheckpointError(
            f"the text of {run.config.corpus} gives another vocabulary than that of {run.directory}; "
            "restore it, or go on in the run's own with --allow-data-change"
        )
    if checkpoint.identity.get("data") != run.identity["data"] and not run.config.allow_data_change:
        raise CheckpointError(
            f"the text of {run.config.corpus} is not the one {run.directory} was trained on; its hash differs; "
            "restore it, or accept that with --allow-data-change"
        )
    for name in (*runtime.exactness(run.ranks), COHORT):
        before, now = (where.get(name, UNSTATED.get(name)) for where in (checkpoint.environment, run.environment))
        if before != now:
            print_notice(f"warning: not bit-exact: {name} was {before} and is {now}")


def progress_of(checkpoint: checkpoints.Checkpoint) -> tuple[Progress, int]:
    """The progress that a checkpoint states, and how long the log then was.

    Raises:
        CheckpointError: a field is missing, unknown or of another type, or contradicts the checkpoint.
    """
    stored = dict(checkpoint.progress)
    problem = progress_problem(stored)
    if problem:
        raise CheckpointError(f"the progress of {checkpoint.directory} is not of this version; {problem}; use another")
    log_length = stored.pop("log_length")
    progress = Progress(**stored)
    if progress.step != checkpoint.step:
        raise CheckpointError(f"{checkpoint.directory} contradicts itself; step {progress.step}; use another one")
    return progress, log_length


def describe(run: Run) -> str:
    """One line on the text, the model and the machine of a run."""
    config, store = run.config, run.store
    size = store.size("train") + store.size("val")
    text = f"corpus {config.corpus}, {config.tokenizer}: {size:,} tokens of {store.tokenizer.vocab_size:,} kinds"
    model = f"{run.model.parameter_count() / 1e6:.2f} M parameters, {config.activation}"
    count = torch.get_num_threads()
    threads = f", {count} thread{'s' * (count > 1)}" if config.device == "cpu" else ""
    processes = f", {run.ranks.size} processes" if run.ranks.size > 1 else ""
    compiled = {"on": ", compiled", "graphs": ", compiled, CUDA graphs"}.get(config.compile, "")
    idle = " (this torch is built for CUDA and finds no usable GPU or driver)" if _lacks_its_gpu(config) else ""
    return f"{text} | {model} | {config.device}{processes}{threads}, {config.dtype}{compiled}{idle}"


def _lacks_its_gpu(config: RunConfig) -> bool:
    return config.device == "cpu" and torch.version.cuda is not None and not torch.cuda.is_available()
