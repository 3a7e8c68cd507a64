"""The run directory: what one training leaves on disk, all of it strict JSON and safetensors.

config.json        the resolved configuration: enough to repeat the run
environment.json   versions, commit, device, threads, hash of the text
tokenizer.json     enough to rebuild the tokenizer offline
metrics.jsonl      one object a line; kind = train | eval | event
checkpoints/       see `checkpoints.py`
summary.json       final figures, written last
unfinished.json    only while a command prepares a run in several files: nothing here counts before it goes

`minigpt neurons` adds what it found: neurons.json (all figures), neurons.csv (one row a neuron), explorer.json (what
some neurons react to).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from minigpt.base import plugins, storage
from minigpt.base.errors import CheckpointError, LockedError, StorageError, UsageError
from minigpt.base.flags import expanded
from minigpt.base.invocation import typed
from minigpt.base.log_schema import log_problems
from minigpt.text.preparation import absolute_corpus, is_path
from minigpt.text.tokenizers import Tokenizer, load_tokenizer
from minigpt.training.config import COMPILES, FREE_ON_RESUME, RunConfig, check

RUNS = Path("runs")
# What `resolve` chooses again, and what another length or start decides.
_NOT_PASSED_ON = frozenset(
    {"steps", "min_lr", "warmup_steps", "init_from", "init_moments", "init_surgery", "init_killed"}
    | {"device", "dtype", "attention", "compile", "threads", "data_dir", "allow_data_change"}
)
CONFIG = "config.json"
ENVIRONMENT = "environment.json"
TOKENIZER = "tokenizer.json"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
UNFINISHED = "unfinished.json"
NEURONS, NEURON_TABLE, EXPLORER = "neurons.json", "neurons.csv", "explorer.json"


def default_directories(config: RunConfig) -> Iterator[Path]:
    """`runs/<preset>-<activation>-s<seed>`, then the same with numbers: the first that is free."""
    activation = re.sub(r"[^a-z0-9.]+", "-", config.activation.lower()).strip("-")[:60]
    name = f"{config.preset}-{activation}-s{config.seed}"
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return (RUNS / candidate for candidate in itertools.chain([name], numbered) if not is_occupied(RUNS / candidate))


def newest_run(root: Path = RUNS) -> Path:
    """The run that was started last.

    Raises:
        CheckpointError: there is none.
    """
    return _newest_first(root)[0]


def newest_finished(root: Path = RUNS) -> tuple[Path, bool]:
    """The newest run that came to its end, or if none did the one that was started last; and whether it did.

    Raises:
        CheckpointError: there is no run.
    """
    runs = _newest_first(root)
    for run in runs:
        with contextlib.suppress(CheckpointError):
            if read_finished(run) is not None:
                return run, True
    return runs[0], False


def _newest_first(root: Path) -> list[Path]:
    configs = [path for path in root.glob(f"*/{CONFIG}") if not is_unfinished(path.parent)]
    if not configs:
        raise CheckpointError(f"there is no run under {root}/; train one first: `minigpt train`")
    ordered = sorted(configs, key=lambda path: (path.stat().st_mtime_ns, path.parent.name), reverse=True)
    return [path.parent for path in ordered]


def is_occupied(run: Path) -> bool:
    """Whether a directory (or file) holds anything but what a process that was killed leaves before its first file."""
    if not run.is_dir():
        return run.exists() or run.is_symlink()
    return not all(map(storage.is_leftover, run.iterdir()))


def refuse_occupied(run: Path, resume: bool, overwrite: bool) -> None:
    """Check, without touching the disk, that this training may write to `run`.

    Raises:
        UsageError: it holds something, and neither continuing nor replacing it was asked for.
        LockedError: another process is at work there.
        StorageError: it is a file, or its place cannot be written.
    """
    existing = next(path for path in (run, *run.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise StorageError(f"{existing} is a file, not a directory; choose another --out")
    if not os.access(existing, os.W_OK):
        raise StorageError(f"{existing} cannot be written; it is read-only for this user; choose another --out")
    storage.check_unlocked(run)
    if is_occupied(run) and not (resume or overwrite):
        if is_unfinished(run):
            raise UsageError(
                f"{run} holds {_unfinished(run)}; start that again, replace it by --overwrite, or use another --out"
            )
        raise UsageError(f"{run} is not empty; use --resume to continue, --overwrite to replace it, or another --out")
    if is_occupied(run) and overwrite and not ((run / CONFIG).exists() or is_unfinished(run)):
        raise UsageError(f"{run} holds no run, so --overwrite will not delete it; choose another --out")


def clear(run: Path) -> None:
    """Delete a run's files, the one that makes it a run last; what is not of a run stays."""
    _remove_files(run)
    storage.remove_tree(run / UNFINISHED)


def _remove_files(run: Path) -> None:
    derived = ("tensorboard", "report.html", NEURONS, NEURON_TABLE, EXPLORER)
    for name in ("checkpoints", *derived, SUMMARY, METRICS, ENVIRONMENT, TOKENIZER, CONFIG):
        storage.remove_tree(run / name)


@contextlib.contextmanager
def preparation(run: Path, of: str) -> Iterator[None]:
    """Prepare a run of several files, which become one all at once: when the block is done and a mark goes.

    What a process that was killed left is no run: nothing continues it, and the same preparation replaces it.
    """
    storage.write_json(run / UNFINISHED, {"preparation": of})
    try:
        _remove_files(run)
        yield
    except BaseException:
        with contextlib.suppress(StorageError):
            clear(run)
        raise
    storage.remove_tree(run / UNFINISHED)


def is_unfinished(run: Path) -> bool:
    """Whether a command was stopped while it prepared this run."""
    return (run / UNFINISHED).exists()


def refuse_unfinished(run: Path) -> None:
    """Raise `CheckpointError` if a command was stopped while it prepared this run."""
    if is_unfinished(run):
        raise CheckpointError(f"{run} is no run; it holds {_unfinished(run)}; start that again, or delete it")


def _unfinished(run: Path) -> str:
    mark = storage.read_json(run / UNFINISHED, CheckpointError)
    return f"an unfinished {mark.get('preparation', 'preparation') if isinstance(mark, dict) else 'preparation'}"


def located(config: RunConfig) -> RunConfig:
    """The configuration with absolute paths to text and tokens: a run finds them from any directory."""
    data_dir = os.path.abspath(expanded(config.data_dir))
    return dataclasses.replace(config, corpus=absolute_corpus(config.corpus), data_dir=data_dir)


def config_json(config: RunConfig) -> dict[str, Any]:
    """The configuration as `config.json` holds it."""
    return dataclasses.asdict(config)


def config_hash(config: RunConfig) -> str:
    """SHA-256 of everything in a configuration that shapes what is learned.

    A preset only names where values came from. `init_from` and a corpus that is a file or folder are places, which may
    move: what is found there, weights or tokens, has a hash of its own beside this one.
    """
    shapeless = FREE_ON_RESUME | {"preset", "init_from"} | ({"corpus"} if is_path(config.corpus) else set())
    shaping = {name: value for name, value in config_json(config).items() if name not in shapeless}
    return storage.json_hash(shaping)


def is_of(config: RunConfig, stated: object) -> bool:
    """Whether a checkpoint that states this hash was made with a configuration, compiled or not: that may change."""
    return stated in {config_hash(dataclasses.replace(config, compile=how)) for how in COMPILES}


def read_config(run: Path) -> RunConfig:
    """Read a run's configuration.

    Raises:
        CheckpointError: there is none, or it is not one that this version wrote.
        UsageError: it names a plugin, which the user has not.
    """
    path = run / CONFIG
    refuse_unfinished(run)
    if not path.exists():
        raise CheckpointError(f"no run at {run}; it has no {CONFIG}; give a directory that `minigpt train` made")
    values = storage.read_json(path, CheckpointError)
    known = {item.name for item in fields(RunConfig)}
    if isinstance(values, dict):
        plugins.require(values.pop(plugins.NAME, None), values.pop(plugins.HASH, None), str(run))
    if not isinstance(values, dict) or set(values) != known:
        differing = sorted(set(values) ^ known)[:5] if isinstance(values, dict) else type(values).__name__
        raise CheckpointError(f"{path} is not a configuration of this version; it differs in {differing}")
    _check_types(path, values)
    try:
        config = RunConfig(**values)
        check(config)
    except UsageError as error:
        raise CheckpointError(f"{path} was altered; {error}") from error
    return config


def _check_types(path: Path, values: dict[str, Any]) -> None:
    hints = get_type_hints(RunConfig)
    for name, value in values.items():
        allowed = set(get_args(hints[name]) or (hints[name],))
        fits = type(value) in allowed or (type(value) is int and float in allowed)
        if not fits:
            raise CheckpointError(f"{path} was altered; {name} is {value!r}")


def read_run_tokenizer(run: Path) -> Tokenizer:
    """Rebuild the tokenizer of a run, offline; raises `CheckpointError` if it is missing or altered."""
    path = run / TOKENIZER
    return load_tokenizer(storage.read_json(path, CheckpointError), str(path))


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All complete records of `metrics.jsonl`; raises `CheckpointError` for the first that is none, naming its line."""
    records = storage.read_json_lines(run / METRICS, CheckpointError)
    _check_records(run / METRICS, records)
    return records


def log_up_to(path: Path, length: int) -> bytes:
    """What a checkpoint knows of a log by the length it states, and all later records of opening the test part.

    Later lines may be torn, which a power cut does to them; those before were flushed with the checkpoint.

    Raises:
        CheckpointError: the log is shorter than that, or holds a line there that is no record.
    """
    content = storage.read_bytes(path, CheckpointError) if path.exists() else b""
    if len(content) < length:
        raise CheckpointError(f"{path} is shorter than its checkpoint says; {length} bytes expected; it was altered")
    _check_records(path, _parsed(path, content[:length]))
    openings = []
    for line in content[length:].split(b"\n")[:-1]:
        with contextlib.suppress(CheckpointError):
            openings += [
                storage.to_json(record) + "\n"
                for record in _parsed(path, line + b"\n")
                if isinstance(record, dict) and record.get("event") == "test_opened" and not any(log_problems([record]))
            ]
    return content[:length] + "".join(openings).encode("utf-8")


def _parsed(path: Path, content: bytes) -> list[Any]:
    lines = content.decode("utf-8", "replace").split("\n")[:-1]
    return [
        storage.parse_json(line, f"{path}, line {number}", CheckpointError)
        for number, line in enumerate(lines, start=1)
    ]


def _check_records(path: Path, records: list[Any]) -> None:
    for number, problem in enumerate(log_problems(records), start=1):
        if problem:
            raise CheckpointError(f"{path}, line {number} is no record; {problem}; it was altered")


def write_summary(run: Path, summary: dict[str, Any]) -> None:
    """Write the final figures with their hash, so that a summary that was altered is noticed."""
    storage.write_sealed(run / SUMMARY, summary)


def read_summary(run: Path) -> dict[str, Any]:
    """Read what `write_summary` wrote; raises `CheckpointError` if it is missing or altered."""
    path = run / SUMMARY
    summary = storage.read_sealed(path, CheckpointError)
    if summary is None:
        raise CheckpointError(f"{path} was altered; its own SHA-256 does not fit; train the run again")
    return summary


def read_finished(run: Path) -> dict[str, Any] | None:
    """The summary of a run that came to its end, or None."""
    if not (run / SUMMARY).is_file():
        return None
    summary = read_summary(run)
    return summary if summary.get("status") == "finished" else None


def state_in_words(run: Path) -> str:
    """Whether a run is finished, or a process is at work on it, or neither."""
    with contextlib.suppress(CheckpointError):
        if read_finished(run) is not None:
            return "finished"
    try:
        storage.check_unlocked(run)
    except LockedError:
        return "still training"
    return "not finished"


def check_resumable(run: Path, stored: RunConfig, asked: dict[str, Any], resolved: RunConfig) -> None:
    """Compare the flags given on resume with the run's configuration.

    Raises:
        CheckpointError: some flag would change what is learned; every difference is named.
    """
    may_differ = FREE_ON_RESUME | {"compile"} | moved_text(stored, resolved)
    differences = [
        f"--{name.replace('_', '-')} {getattr(resolved, name)} (the run has {getattr(stored, name)})"
        for name, value in asked.items()
        if name not in may_differ and value != "auto" and getattr(resolved, name) != getattr(stored, name)
    ]
    if differences:
        longer = f", or: {longer_training(run, stored, resolved.steps)}" if resolved.steps > stored.steps else ""
        raise CheckpointError(f"cannot resume with other settings; {', '.join(differences)}; leave them out{longer}")


def moved_text(stored: RunConfig, asked: RunConfig) -> set[str]:
    """The flag by which a resumed run may name another place of its text; the hash decides whether it is that text."""
    return {"corpus"} if is_path(stored.corpus) and is_path(asked.corpus) else set()


def longer_training(run: Path, stored: RunConfig, steps: int) -> str:
    """The command that goes on from a run's weights for more steps, as a new run.

    The same run cannot be lengthened: its learning rate has followed a schedule that ends with its steps.
    """
    flags = [
        f"--{name.replace('_', '-')}={shlex.quote(str(value).lower() if isinstance(value, bool) else str(value))}"
        for name, value in config_json(stored).items()
        if name not in _NOT_PASSED_ON and value != getattr(RunConfig(), name)
    ]
    more = max(1, steps - stored.steps)
    words = [typed("train"), *flags, f"--init-from={shlex.quote(str(run))} --init-moments --steps {more}"]
    return " ".join(words)
