"""Open a finished or running training to read it: model, tokenizer and configuration of one checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from minigpt.base import plugins, storage
from minigpt.base.errors import CheckpointError, DataError, UsageError
from minigpt.model import GPT
from minigpt.text.corpora import has_known_entropy
from minigpt.text.preparation import absolute_corpus, check_there, prepare_text
from minigpt.text.store import TokenStore
from minigpt.text.tokenizers import Tokenizer
from minigpt.training import checkpoints, run_directory, runtime
from minigpt.training.config import RunConfig
from minigpt.training.evaluation import Evaluation, evaluate
from minigpt.training.run import model_config, progress_of
from minigpt.training.terminal import print_notice

# A compiled decoding step saves about this much of each layer's time; below this number of bytes, weights stay in the
# processor's caches, where converting bfloat16 costs more than reading float32 (docs/performance-log.md).
DECODING_COMPILE_SECONDS = 30.0
DECODING_SAVED_SECONDS = 1e-4
CACHED_BYTES = 16_000_000
SAMPLES_FOR_THREADS = 4


@dataclass(frozen=True)
class OpenedRun:
    """A model as one checkpoint left it, on the device asked for, in evaluation mode."""

    directory: Path
    config: RunConfig
    checkpoint: checkpoints.Checkpoint
    model: GPT
    tokenizer: Tokenizer


def open_run(directory: Path, which: str = "last", device: str = "auto", corpus: str | None = None) -> OpenedRun:
    """Load the `last` or `best` checkpoint of a run, or that of a step; `corpus` says where its text is by now.

    Raises:
        UsageError: `which` is none of these, or the device is absent.
        CheckpointError: the run or the checkpoint is missing, damaged, or does not fit its tokenizer.
    """
    stored = run_directory.read_config(directory)
    place = stored.corpus if corpus is None else absolute_corpus(corpus)
    config = replace(stored, device=str(runtime.resolve_device(device)), corpus=place)
    tokenizer = run_directory.read_run_tokenizer(directory)
    checkpoint = choose_checkpoint(directory, which)
    stated = checkpoint.identity.get("tokenizer")
    if storage.sha256_file(directory / run_directory.TOKENIZER, CheckpointError) != stated:
        raise CheckpointError(f"{directory / run_directory.TOKENIZER} is not the one of the weights; it was altered")
    check_description(directory, stored, checkpoint.identity)
    described = model_config(config, tokenizer.vocab_size)
    checkpoints.check_size(checkpoint.directory, len(checkpoint.data[checkpoints.MODEL_FILE]), described)
    model = GPT(described)
    checkpoints.load_model(checkpoint, model)
    return OpenedRun(directory, config, checkpoint, model.to(torch.device(config.device)).eval(), tokenizer)


def check_description(directory: Path, config: RunConfig, identity: dict[str, str]) -> None:
    """Raise `CheckpointError` unless the configuration in a run is the one its checkpoint was made with."""
    plugins.require(identity.get(plugins.NAME), identity.get(plugins.HASH), str(directory))
    if not run_directory.is_of(config, identity.get("config")):
        raise CheckpointError(f"{directory / run_directory.CONFIG} is not its checkpoint's; it was altered")


def check_before_resuming(directory: Path, config: RunConfig) -> None:
    """Compare a run's configuration with its newest manifest, before a model is built from it.

    Raises:
        CheckpointError: they do not belong together. A manifest that is damaged is left to whoever loads it.
    """
    for step in checkpoints.committed_steps(directory)[-1:]:
        place = checkpoints.directory_of(directory, step)
        try:
            manifest = checkpoints.read_manifest(place)
        except CheckpointError:
            return
        check_description(directory, config, manifest["identity"])
        stored = manifest["files"][checkpoints.MODEL_FILE]["bytes"]
        checkpoints.check_size(place, stored, model_config(config, vocab_size=1))


def choose_checkpoint(directory: Path, which: str) -> checkpoints.Checkpoint:
    """Read the checkpoint that `last`, `best` or a step number names."""
    if which.isdecimal():
        step = int(which)
        if step not in checkpoints.steps_of(directory):
            kept = ", ".join(map(str, checkpoints.steps_of(directory))) or "none"
            raise CheckpointError(f"{directory} has no checkpoint of step {step}; it has {kept}; choose one of them")
        return checkpoints.read(checkpoints.directory_of(directory, step))
    if which not in ("last", "best"):
        raise UsageError(f"unknown checkpoint {which!r}; allowed: last, best or a step")
    while True:
        newest = checkpoints.newest(directory, notice=print_notice)
        if newest is None:
            raise CheckpointError(f"{directory} has no checkpoint yet; wait for the first")
        best = checkpoints.directory_of(directory, progress_of(newest)[0].best_step)
        if which == "last" or best == newest.directory or not checkpoints.is_committed(best):
            return newest
        try:
            return checkpoints.read(best)
        except CheckpointError:
            if checkpoints.is_committed(best):
                raise  # else a better one came meanwhile


def open_text(run: OpenedRun) -> TokenStore:
    """Open the text that a run was trained on.

    Raises:
        DataError: the corpus is no longer where it was.
        CheckpointError: it is no longer that text.
    """
    check_there(run.config.corpus, run.directory)
    # A run that went on with another text kept its vocabulary; otherwise the text has the one that it leads to.
    store = prepare_text(run.config, run.tokenizer if run.config.allow_data_change else None)
    if store.sha256 != run.checkpoint.identity.get("data"):
        raise CheckpointError(
            f"the text of {run.config.corpus} is not the one of {run.directory}; its hash differs; restore it, or say "
            "where that is: --corpus PATH"
        )
    return store


def evaluate_run(run: OpenedRun, split: str, limit: int) -> Evaluation:
    """Evaluate a run on a split of its own corpus; opening the test part is recorded in the run.

    Raises:
        DataError: the split is empty.
        CheckpointError: the corpus is no longer the one that the run was trained on.
        LockedError: the test part is asked for while the run is being trained.
    """
    store = open_text(run)
    if store.size(split) < 2:
        raise DataError(f"the {split} part of {run.config.corpus} is empty; train with --{split}-fraction above 0")
    if split != "test":
        return _evaluate_store(run, store, split, limit)
    with storage.lock_directory(run.directory):
        evaluation = _evaluate_store(run, store, split, limit)
        record = {**evaluation.record(run.checkpoint.step), "kind": "event", "event": "test_opened"}
        storage.append_json_line(run.directory / run_directory.METRICS, record)
    return evaluation


def _evaluate_store(run: OpenedRun, store: TokenStore, split: str, limit: int) -> Evaluation:
    ids, byte_lengths = store.tokens(split), store.tokenizer.byte_lengths()
    part = run.config.eval_part if split == "val" else "all"
    return evaluate(run.model, ids, byte_lengths, split=split, dtype=run.config.dtype, limit=limit, part=part)


def exact_nats_per_token(run: OpenedRun, split: str) -> float | None:
    """Entropy of a split under the process that wrote it, in nats per token; None for text of people."""
    if not has_known_entropy(run.config.corpus):
        return None  # without opening the text, which need not be there any more
    part = open_text(run).manifest["splits"][split]
    return part["exact_nats"] / part["tokens"] if "exact_nats" in part else None


def decoding_threads(model: GPT, samples: int) -> int:
    """CPU threads that decode fastest; 0: torch's choice.

    At the few rows of a small model's products they would mostly wait for each other.
    """
    return 1 if 4 * model.parameter_count() <= CACHED_BYTES and samples < SAMPLES_FOR_THREADS else 0


def resolve_decoding(model: GPT, dtype: str, compile_: str, max_new_tokens: int) -> tuple[torch.dtype, bool]:
    """Decide in which dtype a text is decoded, and whether compiled: if it is long enough to repay that.

    Raises:
        UsageError: compiling is asked for and cannot be had.
    """
    kind = model.device.type
    saved = DECODING_SAVED_SECONDS * model.config.n_layer * max_new_tokens
    # NOTE: `auto` leaves GPUs alone: what a recorded step gains there has not been measured.
    repaid = kind == "cpu" and saved > 2 * DECODING_COMPILE_SECONDS
    compiled = compile_ == "on" or (compile_ == "auto" and repaid)
    if compiled and (obstacle := _obstacle_to_compiling(kind)):
        if compile_ == "on":
            raise UsageError(f"cannot compile; {obstacle}")
        print_notice(f"note: not compiled; {obstacle}")
        compiled = False
    if dtype == "auto":
        large = 4 * model.parameter_count() > CACHED_BYTES
        dtype = runtime.fastest_dtype(model.device) if compiled and large else "float32"
    return (torch.bfloat16 if dtype == "bfloat16" else torch.float32), compiled


def _obstacle_to_compiling(kind: str) -> str:
    if kind == "cuda":
        return ""
    return runtime.missing_compiler() if kind == "cpu" else f"{kind} cannot do it; use --compile off"
