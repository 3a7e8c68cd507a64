"""From a question to cells: each arm resolved on this machine, made comparable with the others, and described.

What must be equal in all arms is decided here once: the text, the windows of each seed, the threads, whether models are
compiled, and by `--match` the parameters, the widths or the training time. Nothing is trained here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minigpt.base.errors import UsageError
from minigpt.experiments.cells import MAIN, TUNE, Cell
from minigpt.experiments.question import Arm, Question, train_command
from minigpt.model import GPT
from minigpt.training import run_directory, runtime
from minigpt.training.code_version import code_hash
from minigpt.training.config import RunConfig
from minigpt.training.inheritance import parent_identity
from minigpt.training.run import model_config

# Seeds that choose a rate must not be seeds that judge it.
TUNING_SEED_OFFSET = 1 << 20


@dataclass(frozen=True)
class ResolvedArm:
    """An arm as it is trained, but for its seed (and its rate, where that is tuned), and the model that this makes."""

    arm: Arm
    config: RunConfig
    parameters: int
    flops_per_token: int
    widths: tuple[int, ...]
    shapes: dict[str, tuple[int, ...]]

    @property
    def name(self) -> str:
        """The arm's name."""
        return self.arm.name

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one update learns from."""
        return self.config.batch_size * self.config.grad_accumulation * self.config.block_size


def arm_configs(
    question: Question, threads: int, steps: Mapping[str, int] | None = None
) -> list[tuple[Arm, RunConfig]]:
    """Every arm and its configuration on this machine, the reference first; `steps` overrides their number by arm.

    Raises:
        UsageError: a value is not allowed, or two arms are the same under different names.
    """
    resolved: list[tuple[Arm, RunConfig]] = []
    for arm in question.arms():
        config = RunConfig(**{**question.base, **arm.settings})
        if question.options.match == "width":
            config = replace(config, d_ff=4 * config.n_embd)
        if question.options.tune_lr:
            config = replace(config, eval_part="odd")
        if steps:
            config = replace(config, steps=steps[arm.name])
        config = runtime.resolve(replace(config, threads=config.threads or threads))
        same = next((other.name for other, known in resolved if known == config), None)
        if same is not None:
            raise UsageError(f"two arms are the same; got {same!r} and {arm.name!r}; leave one out")
        resolved.append((arm, config))
    return resolved


def resolve_arms(
    question: Question, vocab_size: int, threads: int, steps: Mapping[str, int] | None = None
) -> list[ResolvedArm]:
    """Resolve every arm as `arm_configs` does, and build each model once to see what it amounts to."""
    described = [_described(arm, config, vocab_size) for arm, config in arm_configs(question, threads, steps)]
    return _compiled_alike(described)


def cells_of(
    question: Question,
    arms: list[ResolvedArm],
    data: str,
    rates: Mapping[str, float] | None = None,
) -> list[Cell]:
    """The cells that answer the question, seed by seed, so that an ablation cut short has complete pairs."""
    return [
        _cell(question, arm, replace(_with_rate(arm.config, (rates or {}).get(arm.name)), seed=seed), MAIN, data)
        for seed in question.seeds
        for arm in arms
    ]


def tuning_cells(
    question: Question, arms: list[ResolvedArm], data: str, rates: Mapping[str, tuple[float, ...]]
) -> list[Cell]:
    """The cells that choose each arm's rate among `rates`: other seeds, and the other half of the windows."""
    return [
        _cell(question, arm, replace(_with_rate(arm.config, rate), seed=seed, eval_part="even"), TUNE, data)
        for seed in tuning_seeds(question)
        for arm in arms
        for rate in rates[arm.name]
    ]


def tuning_seeds(question: Question) -> list[int]:
    """The seeds on which rates are chosen."""
    return [question.seeds[0] + TUNING_SEED_OFFSET + number for number in range(question.options.tune_seeds)]


def describe_arm(arm: ResolvedArm, reference: ResolvedArm) -> dict[str, Any]:
    """An arm as the plan on disk holds it, with what must be fair about it."""
    return {
        "name": arm.name,
        "settings": arm.arm.settings,
        "reference": arm is reference,
        "fairness": {
            "parameters": arm.parameters,
            "d_ff": list(arm.widths),
            "flops_per_token": arm.flops_per_token,
            "steps": arm.config.steps,
            "tokens": arm.config.steps * arm.tokens_per_step,
            "same_windows": _windows(arm) == _windows(reference),
            "same_start": _shared_start(arm, reference),
        },
    }


def describe_cell(cell: Cell, root: Path) -> dict[str, Any]:
    """A cell as the plan on disk holds it; its directory is written relative to `root`."""
    return {
        "id": cell.id,
        "arm": cell.arm,
        "seed": cell.config.seed,
        "lr": cell.config.lr,
        "purpose": cell.purpose,
        "steps": cell.config.steps,
        "directory": _relative(cell.directory, root),
        "command": train_command(cell.config),
    }


def _described(arm: Arm, config: RunConfig, vocab_size: int) -> ResolvedArm:
    model = GPT(model_config(config, vocab_size))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return ResolvedArm(arm, config, model.parameter_count(), model.flops_per_token(), model.config.layer_widths, shapes)


def _compiled_alike(arms: list[ResolvedArm]) -> list[ResolvedArm]:
    """Compile all arms or none: compiled models round differently."""
    chosen = [runtime.resolve_compile(arm.config, arm.flops_per_token * arm.tokens_per_step) for arm in arms]
    undecided = any(arm.config.compile == "auto" for arm in arms)
    together = "on" if all(config.compile == "on" for config in chosen) else "off"
    return [replace(arm, config=replace(arm.config, compile=together)) if undecided else arm for arm in arms]


def _with_rate(config: RunConfig, rate: float | None) -> RunConfig:
    """The configuration at another peak rate; the final rate keeps its proportion to it."""
    if rate is None:
        return config
    assert config.min_lr is not None
    return replace(config, lr=rate, min_lr=config.min_lr * rate / config.lr)


def _cell(question: Question, arm: ResolvedArm, config: RunConfig, purpose: str, data: str) -> Cell:
    identity = {"config": run_directory.config_hash(config), "data": data, "code": code_hash()}
    identity |= parent_identity(config)
    return Cell(arm.name, purpose, config, identity, Path(question.options.cells_dir))


def _windows(arm: ResolvedArm) -> tuple[int, int]:
    """What the windows of a step follow from, besides the seed and the text."""
    return arm.config.block_size, arm.config.batch_size * arm.config.grad_accumulation


def _shared_start(arm: ResolvedArm, reference: ResolvedArm) -> str:
    """How many tensors begin with the same numbers, up to their scale: those whose name and shape agree."""
    shared = sum(reference.shapes.get(name) == shape for name, shape in arm.shapes.items())
    return f"{shared} of {len(arm.shapes)} tensors"


def _relative(directory: Path, root: Path) -> str:
    """The way from one directory to the other, with forward slashes; absolute if they share no drive."""
    try:
        return Path(os.path.relpath(directory, root)).as_posix()
    except ValueError:
        return directory.resolve().as_posix()
