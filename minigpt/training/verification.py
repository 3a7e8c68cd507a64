"""Verify a run directory: every promise that its files make, checked."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minigpt.base import storage
from minigpt.base.errors import CheckpointError, MinigptError
from minigpt.model import GPT
from minigpt.neurons.life import LifeTable
from minigpt.training import checkpoints, run_directory
from minigpt.training.run import model_config


@dataclass(frozen=True)
class Finding:
    """One thing that was checked, and what is wrong with it (None: nothing)."""

    what: str
    error: MinigptError | None


def verify(run: Path) -> list[Finding]:
    """Check configuration, tokenizer, log, and of every committed checkpoint hashes, shapes and finite values.

    Raises:
        CheckpointError: there is no run at this place.
    """
    if not (run / run_directory.CONFIG).is_file():
        run_directory.read_config(run)
    findings = [
        _check("configuration", lambda: run_directory.read_config(run)),
        _check("tokenizer", lambda: run_directory.read_run_tokenizer(run)),
        _check("log", lambda: _check_log(run)),
    ]
    findings += [
        _check(f"checkpoint of step {step}", functools.partial(_check_checkpoint, run, step))
        for step in checkpoints.committed_steps(run)
    ]
    if (run / run_directory.SUMMARY).exists():
        findings.append(_check("summary", lambda: _check_summary(run)))
    return findings


def _check(what: str, attempt: Callable[[], object]) -> Finding:
    try:
        attempt()
    except MinigptError as error:
        return Finding(what, error)
    return Finding(what, None)


def _check_checkpoint(run: Path, step: int) -> None:
    checkpoint = checkpoints.read(checkpoints.directory_of(run, step))
    config = run_directory.read_config(run)
    if checkpoint.identity.get("config") != run_directory.config_hash(config):
        raise CheckpointError(f"{checkpoint.directory} was made with another configuration than {run}")
    tokenizer_path = run / run_directory.TOKENIZER
    if checkpoint.identity.get("tokenizer") != storage.sha256_file(tokenizer_path, CheckpointError):
        raise CheckpointError(f"{tokenizer_path} is not the one of {checkpoint.directory}")
    vocab_size = run_directory.read_run_tokenizer(run).vocab_size
    model = GPT(model_config(config, vocab_size))
    checkpoints.load_model(checkpoint, model)
    checkpoints.load_life(checkpoint, LifeTable(model))
    length = checkpoint.progress.get("log_length")
    metrics = run / run_directory.METRICS
    if not isinstance(length, int) or not metrics.exists() or metrics.stat().st_size < length:
        raise CheckpointError(f"{metrics} is shorter than the {length} bytes that {checkpoint.directory} knows of")


def _check_log(run: Path) -> None:
    """Steps must rise by kind, without duplicates."""
    last: dict[str, int] = {}
    for record in run_directory.read_metrics(run):
        kind, step = record["kind"], record.get("step", -1)
        if kind == "event":
            continue
        if step <= last.get(kind, -1):
            raise CheckpointError(f"{run / run_directory.METRICS} has the {kind} record of step {step} twice or late")
        last[kind] = step


def _check_summary(run: Path) -> None:
    """The summary must be unaltered, and the log still begins with what it was drawn from."""
    log = run_directory.read_summary(run)["log"]
    content = storage.read_bytes(run / run_directory.METRICS, CheckpointError)[: log["bytes"]]
    if storage.sha256_bytes(content) != log["sha256"]:
        raise CheckpointError(f"{run / run_directory.METRICS} is not the log that the summary was drawn from")
