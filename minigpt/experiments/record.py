"""What an ablation leaves on disk, and how its answer is derived from that.

ablation.json   the question, and the cells that answer it
analysis.json   the answer: derived from the plan and the cells' result files each time it is asked for
logs/           what each cell printed, in a folder for each host

Nothing here trains, and nothing needs torch: a finished ablation answers at once.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from minigpt.base import owners, storage
from minigpt.base.errors import CheckpointError, MinigptError, UsageError
from minigpt.experiments.arms import Question
from minigpt.experiments.cells import read_result
from minigpt.text.preparation import prepare_text
from minigpt.text.store import TokenStore
from minigpt.training import run_directory
from minigpt.training.code_version import code_hash
from minigpt.training.config import RunConfig

PLAN = "ablation.json"
ANALYSIS = "analysis.json"
LOGS = "logs"
FORMAT = 1
_NOT_ASKED = ("workers", "cohort")
_SLUG = 60  # characters


def question_json(question: Question) -> dict[str, Any]:
    """The question as the plan holds it."""
    options = {n: v for n, v in dataclasses.asdict(question.options).items() if n not in _NOT_ASKED}
    factors = {name: list(values) for name, values in question.factors.items()}
    return {"asked": question.asked, "factors": factors, "options": options}


def default_directory(question: Question) -> Path:
    """`runs/ablate-<values>-<hash>`: the same question has the same place."""
    values = "-".join(str(value) for values in question.factors.values() for value in values)
    slug = re.sub(r"[^a-z0-9.]+", "-", values.lower()).strip("-")[:_SLUG]
    return run_directory.RUNS / f"ablate-{slug}-{storage.json_hash(question_json(question))[:6]}"


def logs(directory: Path) -> Path:
    """Where this host keeps what jobs print: two hosts may try the same cell at the same moment."""
    return directory / LOGS / owners.this_process().at


def open_text(question: Question) -> TokenStore:
    """Prepare the text of an ablation, long enough for the longest context among its arms."""
    configs = [RunConfig(**arm.flags(question.base)) for arm in question.arms().values()]
    longest = max(configs, key=lambda config: config.block_size)
    return prepare_text(dataclasses.replace(longest, eval_part="odd") if question.options.tune_lr else longest)


def check_place(directory: Path, question: Question, overwrite: bool) -> None:
    """Raise `UsageError` if something else is where this ablation would be described."""
    if not (directory / PLAN).exists():
        if run_directory.is_occupied(directory) and any(path.name != LOGS for path in directory.iterdir()):
            raise UsageError(f"{directory} is not empty and holds no ablation; choose another --out")
    elif not overwrite and not _answers(read_plan(directory), question):
        raise UsageError(f"{directory} holds another ablation; use --overwrite to replace it, or another --out")


def read_plan(directory: Path) -> dict[str, Any]:
    """Read the plan of an ablation; raises `CheckpointError` if there is none or it was altered."""
    path = directory / PLAN
    if not path.is_file():
        raise CheckpointError(f"no ablation at {directory}; it has no {PLAN}; give what `minigpt ablate` made")
    plan = storage.read_sealed(path, CheckpointError)
    if plan is None or plan.get("format") != FORMAT:
        raise CheckpointError(f"{path} was altered or is of another version; run the same `minigpt ablate` again")
    return plan


def write_plan(directory: Path, plan: dict[str, Any]) -> None:
    """Write the plan, sealed with its own hash."""
    storage.make_directory(directory)
    storage.write_sealed(directory / PLAN, plan)


def read_results(directory: Path, plan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the cells of a plan have found so far, by cell."""
    found = {cell["id"]: read_result(directory / cell["directory"]) for cell in plan["cells"]}
    return {cell: result for cell, result in found.items() if result is not None}


def analyse_directory(directory: Path) -> dict[str, Any]:
    """Derive `analysis.json` from the plan and the cells' result files, unless it is that already; return it."""
    from minigpt.experiments.analysis import analyse

    plan = read_plan(directory)
    results = read_results(directory, plan)
    analysis = {**analyse(plan, results), "inputs": _inputs(plan, results)}
    storage.write_json(directory / ANALYSIS, analysis)
    return analysis


def finished_analysis(directory: Path, question: Question) -> dict[str, Any] | None:
    """The answer on disk if it is complete and still holds: same question, code, text, plan and result files."""
    try:
        plan = read_plan(directory)
        if not _answers(plan, question) or plan["code"] != code_hash():
            return None
        if plan["corpus"]["sha256"] != open_text(question).sha256:
            return None
        analysis = storage.read_json(directory / ANALYSIS, CheckpointError)
        holds = analysis["complete"] and analysis["inputs"] == _inputs(plan, read_results(directory, plan))
        return dict(analysis) if holds else None
    except (MinigptError, KeyError, TypeError):
        return None


def _answers(plan: dict[str, Any], question: Question) -> bool:
    return storage.json_hash(plan["question"]) == storage.json_hash(question_json(question))


def _inputs(plan: dict[str, Any], results: dict[str, dict[str, Any]]) -> str:
    return storage.json_hash([plan, results])
