"""A cell: one training of an ablation or a claim, named by what it is the result of.

A cell's identity is a hash over its resolved configuration, its text and the version of the code that matters, and its
directory is a run like any other. So the disk alone says which cells are done: a cell is done if its summary, written
last, is unaltered, names the same identity and is of a training that finished or diverged. Nobody keeps a list.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt.base import storage
from minigpt.base.errors import CheckpointError, DivergedError, MinigptError, StopRequestedError
from minigpt.training import run_directory
from minigpt.training.cohort_shape import obstacle, shape_of
from minigpt.training.config import RunConfig

DONE = ("finished", "diverged")
MAIN, TUNE = "main", "tune"
_ID_CHARACTERS = 16
_ENVIRONMENT = ("commit", "dirty", "torch", "processor", "accelerator", "platform", "python", "threads")


@dataclass(frozen=True)
class Cell:
    """One setting times one seed; `config` is resolved and `identity` holds the hashes that name the cell."""

    arm: str
    purpose: str
    config: RunConfig
    identity: dict[str, str]
    cells_dir: Path

    @property
    def id(self) -> str:
        """Its name."""
        return cell_id(self.identity)

    @property
    def directory(self) -> Path:
        """Where it is trained."""
        return self.cells_dir / self.id


def cell_id(identity: dict[str, str]) -> str:
    """The name of the cell whose configuration, text, code and, if it has one, parent have these hashes."""
    parts = [identity[part] for part in ("config", "data", "code", "parent") if part in identity or part != "parent"]
    return storage.sha256_bytes("/".join(parts).encode())[:_ID_CHARACTERS]


def read_result(directory: Path) -> dict[str, Any] | None:
    """What a cell found, or None if it is not done or its files were altered.

    Besides the summary: `evaluations`, `seconds_per_step` and `environment`, as an analysis needs them.
    """
    try:
        summary = run_directory.read_summary(directory)
        if summary["status"] not in DONE or cell_id(summary["identity"]) != directory.name:
            return None
        log = storage.read_bytes(directory / run_directory.METRICS, CheckpointError)[: summary["log"]["bytes"]]
        if storage.sha256_bytes(log) != summary["log"]["sha256"]:
            return None
        environment = storage.read_json(directory / run_directory.ENVIRONMENT, CheckpointError)
        records = run_directory.read_metrics(directory)
        evaluations = [r for r in records if r["kind"] == "eval" and r["split"] == "val"]
        return {
            **summary,
            "status": _status(summary),
            "evaluations": [{"step": record["step"], "loss": record["loss"]} for record in evaluations],
            "seconds_per_step": _seconds_per_step(records, summary),
            "environment": {name: environment.get(name) for name in _ENVIRONMENT}
            | {"cohort": summary.get("cohort", 1)},
        }
    except StopRequestedError:
        raise
    except (MinigptError, KeyError, TypeError):
        return None


def share_done(cell: Cell) -> float:
    """How much of a cell that is being trained is done, from 0 to 1, by the last line of its log."""
    try:
        records = run_directory.read_metrics(cell.directory)
    except MinigptError:
        return 0.0
    return min(1.0, records[-1]["step"] / max(1, cell.config.steps)) if records else 0.0


def stale_cells(cells: list[Cell], cells_dir: Path) -> list[dict[str, Any]]:
    """Trainings of the same configurations on the same text that another version of the code finished."""
    wanted = {_besides_code(cell.identity): cell for cell in cells}
    found = []
    for path in sorted(cells_dir.glob(f"*/{run_directory.SUMMARY}")):
        try:
            identity = run_directory.read_summary(path.parent)["identity"]
            cell = wanted.get(_besides_code(identity))
        except (MinigptError, KeyError, TypeError):
            continue
        if cell is not None and cell.id != path.parent.name and cell_id(identity) == path.parent.name:
            found.append({"id": path.parent.name, "arm": cell.arm, "seed": cell.config.seed, "code": identity["code"]})
    return found


def _besides_code(identity: dict[str, str]) -> tuple[str, str, str | None]:
    """What a training is of, whichever version of the code it was made with."""
    return identity["config"], identity["data"], identity.get("parent")


def train_cell(cell: Cell) -> None:
    """Train a cell, continuing from its checkpoint if there is one; nothing happens if it is done.

    Raises:
        DataError: the text is no longer the one that the cell is named by.
        MinigptError: the subclasses say what; a training that diverges is a result and raises nothing.
    """
    from minigpt.training import checkpoints
    from minigpt.training.loop import train

    if read_result(cell.directory) is not None:
        return
    config, data = run_directory.located(cell.config), cell.identity["data"]
    begun = (cell.directory / run_directory.CONFIG).exists()
    damaged = _is_damaged(cell)
    try:
        try:
            train(config, cell.directory, resume=not damaged, overwrite=damaged, quiet=True, data=data)
        except CheckpointError:
            if not begun:
                raise
            train(config, cell.directory, overwrite=True, quiet=True, data=data)
    except DivergedError:
        return
    checkpoints.prune(cell.directory, keep_also=set(), newest_kept=1)


def packed(cells: Iterable[Cell], size: int) -> list[list[Cell]]:
    """The cells in packs that can each be trained as one: at most `size` of one shape, in their order."""
    packs: list[list[Cell]] = []
    open_packs: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        shape = (cell.identity["data"], *shape_of(cell.config))
        if shape not in open_packs or len(open_packs[shape]) == size or obstacle(cell.config):
            open_packs[shape] = []
            packs.append(open_packs[shape])
        open_packs[shape].append(cell)
    return packs


def train_pack(cells: Sequence[Cell]) -> None:
    """Train cells as one, as `train_cell` would each of them."""
    from minigpt.training import checkpoints
    from minigpt.training.cohort import Planned, train_cohort

    todo = [cell for cell in cells if read_result(cell.directory) is None]
    if len(todo) > 1:
        planned = [
            Planned(run_directory.located(cell.config), cell.directory, _is_damaged(cell), cell.identity["data"])
            for cell in todo
        ]
        with contextlib.suppress(CheckpointError):  # of one cell, which is then found and mended apart
            train_cohort(planned)
        for cell in todo:
            if read_result(cell.directory) is not None:
                checkpoints.prune(cell.directory, keep_also=set(), newest_kept=1)
    for cell in todo:
        train_cell(cell)


def _is_damaged(cell: Cell) -> bool:
    """Whether what is there of a cell cannot be continued."""
    begun = (cell.directory / run_directory.CONFIG).exists()
    return run_directory.is_unfinished(cell.directory) or (begun and _claims_to_be_done(cell.directory))


def _claims_to_be_done(directory: Path) -> bool:
    """Whether there is a summary of a training that came to its end; `read_result` has found it not to be true."""
    try:
        return run_directory.read_summary(directory)["status"] in DONE
    except (MinigptError, KeyError):
        return (directory / run_directory.SUMMARY).exists()


def _status(summary: dict[str, Any]) -> str:
    """A training that ends with a loss that is no number has diverged, even if its weights are finite."""
    val = summary["val"]
    return "finished" if summary["status"] == "finished" and val and val["loss"] is not None else "diverged"


def _seconds_per_step(records: list[dict[str, Any]], summary: dict[str, Any]) -> float | None:
    """Median over the log; evaluations and checkpoints are not counted."""
    rates = [record["tokens_per_second"] for record in records if record["kind"] == "train"]
    if not rates or not summary["steps"]:
        return None
    return float(summary["tokens"] / summary["steps"] / statistics.median(rates))
