"""Checkpoints: safetensors and a manifest whose atomic appearance is the commit.

`checkpoints/step-00000500/` holds `model.safetensors`, `optimizer.safetensors`, the neurons' `life.safetensors` and,
written last, `manifest.json` with the size and SHA-256 of each. Everything read back is hashed before it is parsed,
and nothing here can run code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from minigpt.base import storage
from minigpt.base.errors import CheckpointError, DivergedError
from minigpt.model import GPT, GPTConfig
from minigpt.neurons.life import LifeTable
from minigpt.training.optimizers import Optimizer, load_state_tensors, state_tensors

FORMAT = 2
FOLDER = "checkpoints"
MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
LIFE_FILE = "life.safetensors"
MANIFEST_FILE = "manifest.json"
KEPT = 2
_STEP_NAME = re.compile(r"step-(\d{8,})")
_FIELDS = {"format": int, "step": int, "files": dict, "identity": dict, "progress": dict, "environment": dict}
_HEADER_ALLOWANCE = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose manifest was read and whose files have the sizes and hashes that it states."""

    directory: Path
    step: int
    identity: dict[str, str]
    progress: dict[str, Any]
    environment: dict[str, Any]
    data: dict[str, bytes]


def directory_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return run / FOLDER / f"step-{step:08d}"


def steps_of(run: Path) -> list[int]:
    """Steps that have a checkpoint directory, in order; complete or not."""
    folder = run / FOLDER
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(int(match[1]) for match in map(_STEP_NAME.fullmatch, names) if match)


def committed_steps(run: Path) -> list[int]:
    """Steps whose checkpoint has a manifest, in order; a save that a crash cut short has none."""
    return [step for step in steps_of(run) if is_committed(directory_of(run, step))]


def is_committed(directory: Path) -> bool:
    """Whether a checkpoint has the manifest that makes it one; pruning takes that first."""
    return (directory / MANIFEST_FILE).exists() or (directory / MANIFEST_FILE).is_symlink()


def save(
    run: Path,
    step: int,
    model: GPT,
    optimizer: Optimizer,
    life: LifeTable,
    *,
    identity: dict[str, str],
    progress: dict[str, Any],
    environment: dict[str, Any],
) -> None:
    """Commit the state after `step` updates.

    Raises:
        DivergedError: a parameter is not finite; nothing was written.
        StorageError: the disk refused; older checkpoints are as they were.
    """
    weights = model.stored_tensors()
    _check_finite(weights)
    directory = directory_of(run, step)
    storage.make_directory(directory)
    storage.remove_stale_temporaries(directory)
    storage.remove_tree(directory / MANIFEST_FILE)
    contents = {MODEL_FILE: weights, OPTIMIZER_FILE: state_tensors(model, optimizer), LIFE_FILE: life.tensors()}
    files = {}
    for name, tensors in contents.items():
        data = safetensors.torch.save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
        files[name] = {"bytes": len(data), "sha256": storage.write_bytes(directory / name, data)}
    manifest = {
        "format": FORMAT,
        "step": step,
        "files": files,
        "identity": identity,
        "progress": progress,
        "environment": environment,
    }
    storage.write_json(directory / MANIFEST_FILE, {**manifest, "sha256": _manifest_hash(manifest)})


def read(directory: Path) -> Checkpoint:
    """Read and verify a checkpoint; its tensors are parsed later, from the bytes that were hashed.

    One that is saved again while it is read is read again.

    Raises:
        CheckpointError: it is incomplete, altered, of a newer format, or not where it says it is.
        StorageError: the system refuses to read it; it may be whole.
    """
    while True:
        manifest = _manifest_bytes(directory)
        try:
            return _read_whole(directory)
        except CheckpointError:
            if _manifest_bytes(directory) == manifest:
                raise


def read_manifest(directory: Path) -> dict[str, Any]:
    """What a checkpoint states of itself, without reading its tensors; raises as `read` does."""
    path = directory / MANIFEST_FILE
    if directory.is_symlink():
        raise CheckpointError(f"{directory} is a link, not a checkpoint; put the directory itself in its place")
    if not directory.is_dir():
        raise CheckpointError(f"no checkpoint at {directory}; give a run directory that `minigpt train` made")
    manifest = storage.read_json(path, CheckpointError)
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{path} is not a manifest; got {type(manifest).__name__}; it was altered")
    stated = manifest.pop("sha256", None)
    if isinstance(manifest.get("format"), int) and manifest["format"] > FORMAT:
        raise CheckpointError(f"{path} has format {manifest['format']}; this version reads {FORMAT}; upgrade minigpt")
    rewritten = storage.json_document({**manifest, "sha256": stated})
    if stated != _manifest_hash(manifest) or storage.read_bytes(path, CheckpointError) != rewritten:
        raise CheckpointError(f"{path} was altered; its own SHA-256 does not fit; use another checkpoint")
    wrong = [name for name, kind in _FIELDS.items() if not isinstance(manifest.get(name), kind)]
    if wrong:
        raise CheckpointError(f"{path} lacks {', '.join(wrong)}; it was altered; use another checkpoint")
    if directory.name != directory_of(Path(), manifest["step"]).name:
        raise CheckpointError(f"{path} is of step {manifest['step']}, not of {directory.name}; it was moved")
    if set(manifest["files"]) != {MODEL_FILE, OPTIMIZER_FILE, LIFE_FILE}:
        raise CheckpointError(f"{directory}: the manifest names other files; got {sorted(manifest['files'])[:4]}")
    for name, stated in manifest["files"].items():
        if not isinstance(stated, dict) or not isinstance(stated.get("bytes"), int):
            raise CheckpointError(f"{directory}: the manifest states no size for {name}; it was altered")
    return manifest


def _manifest_bytes(directory: Path) -> bytes | None:
    """The manifest as it is now; None if there is none that can be read as such."""
    try:
        return storage.read_bytes(directory / MANIFEST_FILE, CheckpointError)
    except CheckpointError:
        return None


def _read_whole(directory: Path) -> Checkpoint:
    manifest = read_manifest(directory)
    data = {}
    for name, stated in manifest["files"].items():
        content = storage.read_bytes(directory / name, CheckpointError, limit=stated["bytes"])
        if len(content) != stated["bytes"] or storage.sha256_bytes(content) != stated.get("sha256"):
            raise CheckpointError(f"{directory / name} is damaged; its SHA-256 is not the manifest's; use another one")
        data[name] = content
    return Checkpoint(
        directory=directory,
        step=manifest["step"],
        identity=manifest["identity"],
        progress=manifest["progress"],
        environment=manifest["environment"],
        data=data,
    )


def newest(run: Path, notice: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that verifies; `notice` hears of each newer one that does not. None if none was begun.

    A training that goes on meanwhile may delete what is about to be read; then the directory is listed again.

    Raises:
        CheckpointError: there are committed checkpoints, and all of them are damaged; or a link or device is in the
            place of a file, which is no damage and no reason to take older weights.
        StorageError: the system refuses to read one.
    """
    failures: list[str] = []
    untried = committed_steps(run)
    while untried:
        directory = directory_of(run, untried.pop())
        try:
            return read(directory)
        except CheckpointError as error:
            if not is_committed(directory):
                failures, untried = [], committed_steps(run)
                continue
            if not _all_regular(directory):
                raise
            failures.append(str(error))
            notice(f"warning: {error}; trying the one before")
    if failures:
        raise CheckpointError(f"{run} has no usable checkpoint; {failures[0]}; restore it from a copy")
    return None


def _all_regular(directory: Path) -> bool:
    files = (directory / name for name in (MANIFEST_FILE, MODEL_FILE, OPTIMIZER_FILE, LIFE_FILE))
    return not directory.is_symlink() and not any(
        path.is_symlink() or (path.exists() and not path.is_file()) for path in files
    )


def check_size(directory: Path, stored: int, described: GPTConfig) -> None:
    """Refuse a configuration whose model could not be in `stored` bytes, before anything of that size is built.

    Raises:
        CheckpointError: its embeddings and matrices alone, in float32, need more, or its causal masks, which no file
            holds, half of this machine's memory.
    """
    width = described.n_embd
    embeddings = described.vocab_size + (described.block_size if described.position == "learned" else 0)
    matrices = 2 * described.n_layer * width + 2 * sum(described.layer_widths)
    needed = 4 * width * (embeddings + matrices)
    if needed > stored:
        raise CheckpointError(
            f"the configuration does not describe the model in {directory}; its matrices need {needed:,} bytes; "
            f"{stored:,} are there; it was altered"
        )
    masks, memory = 4 * described.n_layer * described.block_size**2, storage.memory_bytes()
    if masks > memory // 2:
        raise CheckpointError(
            f"the model in {directory} cannot be opened here; its causal masks need {masks:,} bytes; this machine has "
            f"{memory:,}; use a larger one, unless block-size {described.block_size:,} was altered"
        )


def load_model(checkpoint: Checkpoint, model: GPT) -> None:
    """Put a checkpoint's weights into `model`.

    Raises:
        CheckpointError: tensors are missing, left over, or of another shape or type; all are listed.
        DivergedError: a weight is not finite.
    """
    stored = _parse(checkpoint, MODEL_FILE)
    expected = model.stored_tensors()
    problems = [f"{name} is missing" for name in sorted(expected.keys() - stored.keys())]
    problems += [f"{name} is not of this model" for name in sorted(stored.keys() - expected.keys())]
    for name in sorted(expected.keys() & stored.keys()):
        got, wanted = stored[name], expected[name]
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            problems.append(f"{name} is {tuple(got.shape)} {got.dtype}, not {tuple(wanted.shape)} {wanted.dtype}")
    if problems:
        raise CheckpointError(f"{checkpoint.directory} does not fit its configuration; {'; '.join(problems[:20])}")
    _check_finite(stored)
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(stored[name])


def load_optimizer(checkpoint: Checkpoint, model: GPT, optimizer: Optimizer) -> None:
    """Put a checkpoint's optimizer state into `optimizer`; raises `CheckpointError` if it does not fit."""
    load_state_tensors(model, optimizer, _parse(checkpoint, OPTIMIZER_FILE))


def load_life(checkpoint: Checkpoint, life: LifeTable) -> None:
    """Put a checkpoint's life table into `life`; raises `CheckpointError` if it does not fit."""
    life.load(_parse(checkpoint, LIFE_FILE))


def prune(run: Path, keep_also: set[int], newest_kept: int = KEPT) -> None:
    """Delete all but the newest checkpoints and those of the steps named, once the newest was read back intact."""
    committed = committed_steps(run)
    kept = set(committed[-newest_kept:]) | keep_also
    doomed = [step for step in steps_of(run) if step not in kept and step < max(committed, default=0)]
    if not doomed:
        return
    read(directory_of(run, committed[-1]))
    for step in doomed:
        # The manifest goes first: a deletion cut short leaves no checkpoint rather than a torn one.
        storage.remove_tree(directory_of(run, step) / MANIFEST_FILE)
        storage.remove_tree(directory_of(run, step))


def parameter_hash(model: GPT) -> str:
    """SHA-256 of all weights, to compare two trainings bit by bit."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.stored_tensors().items()}
    return storage.sha256_bytes(safetensors.torch.save(tensors))


def save_size(model: GPT) -> int:
    """Upper estimate, in bytes, of one checkpoint with two moments for each parameter."""
    return 3 * 4 * model.parameter_count() + _HEADER_ALLOWANCE


def _manifest_hash(manifest: dict[str, Any]) -> str:
    return storage.sha256_bytes(storage.to_json(manifest).encode())


def _parse(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    data = checkpoint.data[name]
    if int.from_bytes(data[:8], "little") > _HEADER_ALLOWANCE:
        raise CheckpointError(f"{checkpoint.directory / name} is not safetensors; its header is too large; restore it")
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.directory / name} is not safetensors; {error}; it was altered") from error


def _check_finite(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise DivergedError(f"parameter {name} is not finite; use an earlier checkpoint or a lower --lr")
