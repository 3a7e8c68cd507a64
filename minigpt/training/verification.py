"""Verify a run directory: every promise that its files make, checked."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minigpt.base import storage
from minigpt.base.errors import CheckpointError, MinigptError, StopRequestedError
from minigpt.model import GPT
from minigpt.neurons.life import LifeTable
from minigpt.training import checkpoints, run_directory
from minigpt.training.run import model_config, progress_of


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
    for step in checkpoints.committed_steps(run):
        finding = _check(f"checkpoint of step {step}", functools.partial(_check_checkpoint, run, step))
        # A training that goes on meanwhile deletes old checkpoints, and a resumed one its summary.
        if finding.error is None or checkpoints.is_committed(checkpoints.directory_of(run, step)):
            findings.append(finding)
    findings.append(_check("environment", lambda: _check_environment(run)))
    for what, name, attempt in _PARTS:
        if (run / name).exists():
            finding = _check(what, functools.partial(attempt, run))
            if finding.error is None or (run / name).exists():
                findings.append(finding)
    return findings


def _check(what: str, attempt: Callable[[], object]) -> Finding:
    try:
        attempt()
    except StopRequestedError:
        raise
    except MinigptError as error:
        return Finding(what, error)
    return Finding(what, None)


def _check_checkpoint(run: Path, step: int) -> None:
    checkpoint = checkpoints.read(checkpoints.directory_of(run, step))
    config = run_directory.read_config(run)
    if not run_directory.is_of(config, checkpoint.identity.get("config")):
        raise CheckpointError(f"{checkpoint.directory} was made with another configuration than {run}")
    tokenizer_path = run / run_directory.TOKENIZER
    if checkpoint.identity.get("tokenizer") != storage.sha256_file(tokenizer_path, CheckpointError):
        raise CheckpointError(f"{tokenizer_path} is not the one of {checkpoint.directory}")
    vocab_size = run_directory.read_run_tokenizer(run).vocab_size
    described = model_config(config, vocab_size)
    checkpoints.check_size(checkpoint.directory, len(checkpoint.data[checkpoints.MODEL_FILE]), described)
    model = GPT(described)
    checkpoints.load_model(checkpoint, model)
    checkpoints.load_life(checkpoint, LifeTable(model))
    length = progress_of(checkpoint)[1]
    metrics = run / run_directory.METRICS
    if not metrics.exists() or metrics.stat().st_size < length:
        raise CheckpointError(f"{metrics} is shorter than the {length} bytes that {checkpoint.directory} knows of")


def _check_log(run: Path) -> None:
    """Steps must rise by kind, without duplicates."""
    last: dict[str, int] = {}
    for record in run_directory.read_metrics(run):
        kind, step = record["kind"], record["step"]
        if kind == "event":
            continue
        if step <= last.get(kind, -1):
            raise CheckpointError(f"{run / run_directory.METRICS} has the {kind} record of step {step} twice or late")
        last[kind] = step


def _check_summary(run: Path) -> None:
    """The summary must be unaltered, and the log still begins with what it was drawn from."""
    log = run_directory.read_summary(run).get("log")
    if not isinstance(log, dict) or type(log.get("bytes")) is not int:
        raise CheckpointError(f"{run / run_directory.SUMMARY} does not say of which log it is; it was altered")
    content = storage.read_bytes(run / run_directory.METRICS, CheckpointError)[: log["bytes"]]
    if storage.sha256_bytes(content) != log.get("sha256"):
        raise CheckpointError(f"{run / run_directory.METRICS} is not the log that the summary was drawn from")


def _check_environment(run: Path) -> None:
    """A seal tells whether the record was altered; runs of older versions have none."""
    path = run / run_directory.ENVIRONMENT
    record = storage.read_json(path, CheckpointError)
    if not isinstance(record, dict) or ("sha256" in record and storage.read_sealed(path, CheckpointError) is None):
        raise CheckpointError(
            f"{path} was altered; its own SHA-256 does not fit; the run itself is not touched by that"
        )


def _check_instrument(run: Path) -> None:
    """The figures of `minigpt neurons` are sealed, and know the hashes of the files beside them."""
    path = run / run_directory.NEURONS
    record = storage.read_json(path, CheckpointError)
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} is no record of an examination; repeat `minigpt neurons`")
    files = record.get("files")
    if files is None and "sha256" not in record:
        return
    if storage.read_sealed(path, CheckpointError) is None or not isinstance(files, dict):
        raise CheckpointError(f"{path} was altered; its own SHA-256 does not fit; repeat `minigpt neurons`")
    for name in (run_directory.NEURON_TABLE, run_directory.EXPLORER):
        if storage.sha256_file(run / name, CheckpointError) != files.get(name):
            raise CheckpointError(f"{run / name} is not the one of {path}; it was altered; repeat `minigpt neurons`")


_PARTS = (
    ("neurons", run_directory.NEURONS, _check_instrument),
    ("summary", run_directory.SUMMARY, _check_summary),
)
