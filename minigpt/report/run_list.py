"""The runs of a folder, newest first: how far each is, what came of it, and in which settings they differ.

Reads run directories alone, and of each only `config.json summary.json metrics.jsonl` and the lock. A run that cannot
be read is listed with the reason; it hides no other.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt.base import formats
from minigpt.base.errors import CheckpointError, LockedError, MinigptError, StopRequestedError, UsageError
from minigpt.base.health_columns import HEALTH, over_layers
from minigpt.base.locks import check_unlocked
from minigpt.base.log_schema import log_problems
from minigpt.base.reading import read_json, read_json_lines, read_sealed
from minigpt.base.tables import Column, Table, lookup

Record = dict[str, Any]
CONFIG, SUMMARY, METRICS, UNFINISHED = "config.json", "summary.json", "metrics.jsonl", "unfinished.json"
PAGE = "report.html"
TRAINING, INTERRUPTED, DAMAGED = "training", "interrupted", "damaged"
# What says where a run was made, and not what was trained.
_PLACES = frozenset({"data_dir", "threads", "log_every", "tensorboard", "plugin", "plugin_sha256"})
_MEANINGS = {figure.key: figure.meaning for figure in HEALTH}


@dataclass(frozen=True)
class ListedRun:
    """One run of a list; a figure that it does not have yet is None.

    state          finished, stopped or diverged as its summary says; else training, interrupted or damaged
    losses, deaths  steps and values of its evaluations on the validation part
    """

    directory: Path
    state: str
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    dead: float | None = None
    inert: float | None = None
    tokens_per_second: float | None = None
    config: Record | None = None
    losses: tuple[tuple[int, float], ...] = ()
    deaths: tuple[tuple[int, float], ...] = ()
    problem: str | None = None

    @property
    def name(self) -> str:
        """The name of its directory."""
        return self.directory.name

    @property
    def progress(self) -> str:
        """How far it is, in words."""
        if self.step is None:
            return self.state
        of = "" if self.step == self.steps else f" of {formats.whole(self.steps)}"
        return f"{self.state}, {formats.whole(self.step)}{of}"


def list_runs(folder: Path) -> list[ListedRun]:
    """Every run directly in a folder, the one whose training began last first.

    Raises:
        UsageError: the folder is itself a run.
        CheckpointError: it holds none.
    """
    if (folder / CONFIG).is_file():
        raise UsageError(f"{folder} is one run; got it for a folder of runs; give the folder that holds it")
    configs = [path for path in folder.glob(f"*/{CONFIG}") if not (path.parent / UNFINISHED).exists()]
    if not configs:
        raise CheckpointError(f"there is no run under {folder}/; train one first: `minigpt train`")
    ordered = sorted(configs, key=lambda path: (path.stat().st_mtime_ns, path.parent.name), reverse=True)
    return [read_run(path.parent) for path in ordered]


def read_run(directory: Path) -> ListedRun:
    """What a run's files say of it."""
    try:
        return _read_run(directory)
    except StopRequestedError:
        raise
    except MinigptError as problem:
        return ListedRun(directory, DAMAGED, problem=str(problem))


def _read_run(directory: Path) -> ListedRun:
    config = read_json(directory / CONFIG, CheckpointError)
    if not isinstance(config, dict):
        raise CheckpointError(f"{directory / CONFIG} is not a configuration; it was altered")
    records = _records(directory / METRICS)
    evaluations = [record for record in records if record["kind"] == "eval" and record["split"] == "val"]
    trained = [record for record in records if record["kind"] == "train"]
    last = evaluations[-1] if evaluations else {}
    speeds = [record["tokens_per_second"] for record in trained if record["tokens_per_second"]]
    return ListedRun(
        directory,
        _state(directory),
        max((record["step"] for record in [*evaluations[-1:], *trained[-1:]]), default=0),
        config.get("steps"),
        last.get("loss"),
        last.get("dead_fraction"),
        over_layers(last.get("layers", []), "inert_fraction"),
        statistics.median(speeds) if speeds else None,
        config,
        _curve(evaluations, "loss"),
        _curve(evaluations, "dead_fraction"),
    )


def _records(path: Path) -> list[Record]:
    """The log of a run; none if it has not begun."""
    if not path.exists():
        return []
    records = read_json_lines(path, CheckpointError)
    problem = next(filter(None, log_problems(records)), None)
    if problem:
        raise CheckpointError(f"{path} holds a line that is no record; {problem}; it was altered")
    return records


def _state(directory: Path) -> str:
    status = ""
    if (directory / SUMMARY).exists():
        summary = read_sealed(directory / SUMMARY, CheckpointError)
        if summary is None:
            raise CheckpointError(f"{directory / SUMMARY} was altered; its own SHA-256 does not fit")
        status = str(summary.get("status"))
    if status == "finished":
        return status
    try:
        check_unlocked(directory)
    except LockedError:
        return TRAINING
    return status or INTERRUPTED


def _curve(evaluations: Sequence[Record], key: str) -> tuple[tuple[int, float], ...]:
    return tuple((record["step"], record[key]) for record in evaluations if record[key] is not None)


# What is said of them


def differing(runs: Sequence[ListedRun]) -> list[str]:
    """The settings that are not the same in all runs, in the order of the configuration."""
    configs = [run.config for run in runs if run.config]
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if key not in _PLACES and len({repr(config.get(key)) for config in configs}) > 1]


def unusual_settings(run: ListedRun, runs: Sequence[ListedRun]) -> str:
    """The settings of a run that more than half of the runs do not share, as flags without dashes."""
    if run.config is None:
        return formats.on_one_line(run.problem or "")
    configs = [other.config for other in runs if other.config]
    parts = []
    for key in differing(runs):
        same = sum(config.get(key) == run.config.get(key) for config in configs)
        if 2 * same <= len(configs):
            parts.append(f"{key.replace('_', '-')} {formats.setting(run.config.get(key))}")
    return ", ".join(parts)


def runs_table(runs: Sequence[ListedRun], link: bool = False) -> Table:
    """The runs with their figures, in a terminal with their settings too; on a page each leads to its own page."""
    named = Column.name("run", "name")
    words = (
        Column.words("state, steps", "progress"),
        Column("loss", "loss", lambda value: formats.fixed(value, 3)),
        Column("dead", "dead", formats.percent),
        Column("inert", "inert", formats.percent),
        Column("tokens/s", "tokens_per_second", formats.scaled),
    )
    settings = Column.words("differs in", lambda run: unusual_settings(run, runs))
    shown = not link and any(settings.of(run) for run in runs)
    return Table(
        "The runs" if link else "",
        (named, *words, *([settings] if shown else [])),
        runs,
        (
            f"loss: nats per token, of the last evaluation. dead: {_MEANINGS['dead_fraction']}. "
            f"inert: {_MEANINGS['inert_fraction']}. tokens/s: median of the training's.",
        ),
        link=_page_of if link else None,
    )


def _page_of(run: ListedRun) -> str | None:
    from urllib.parse import quote

    return f"{quote(run.name)}/{PAGE}" if (run.directory / PAGE).is_file() else None


def settings_table(runs: Sequence[ListedRun]) -> Table:
    """Every setting in which the runs differ, a column each."""
    columns = [Column.words(key, f"config/{key}") for key in differing(runs)]
    return Table("Settings that differ", (Column.name("run", "name"), *columns), runs)


def answer(runs: Sequence[ListedRun]) -> str:
    """How many runs there are, the lowest loss, and the most dead, in two sentences at most."""
    states = list(dict.fromkeys(run.state for run in runs))
    counts = [f"{sum(run.state == state for run in runs):,} {state}" for state in states]
    sentence = (
        f"{formats.counted(len(runs), 'run')}: {formats.joined(counts if len(states) > 1 else [f'all {states[0]}'])}."
    )
    evaluated = [run for run in runs if run.loss is not None]
    if not evaluated:
        return sentence
    best = min(evaluated, key=lambda run: run.loss or 0.0)
    most = max(evaluated, key=lambda run: run.dead or 0.0)
    deaths = (
        f"{most.name} has the most dead neurons, {formats.percent(most.dead)}" if most.dead else "no neuron is dead"
    )
    return f"{sentence} The lowest loss is {formats.fixed(best.loss, 3)} nats per token ({best.name}); {deaths}."


def as_records(runs: Sequence[ListedRun]) -> list[Record]:
    """The runs for programs: every figure with all its digits, and the settings that differ."""
    keys = differing(runs)
    figures = ("name", "state", "step", "steps", "loss", "dead", "inert", "tokens_per_second", "problem")
    return [
        {key: lookup(run, key) for key in figures}
        | {"directory": str(run.directory), "settings": {key: (run.config or {}).get(key) for key in keys}}
        for run in runs
    ]
