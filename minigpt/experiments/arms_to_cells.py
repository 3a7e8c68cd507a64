"""From arms to cells: settings over a base, resolved on this machine, made comparable, and named by what they make.

What must be equal in all arms of an ablation is decided here once: the text, the windows of each seed, the threads,
whether models are compiled, and by `--match` the parameters, the widths or the training time. A cell belongs to nobody:
whoever names the same setting shares it. Nothing is trained here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minigpt.base.errors import UsageError
from minigpt.experiments.arms import Arm, Question, train_command, tuning_rates
from minigpt.experiments.cells import MAIN, TUNE, Cell, read_result
from minigpt.model import GPT
from minigpt.text.preparation import prepare_text
from minigpt.text.store import TokenStore
from minigpt.training import run_directory, runtime
from minigpt.training.code_version import code_hash
from minigpt.training.config import RunConfig
from minigpt.training.inheritance import parent_identity
from minigpt.training.run import model_config

# Seeds that choose a rate must not be seeds that judge it.
TUNING_SEED_OFFSET = 1 << 20


# ------------------------------------------------------------------------------------------------------- any one cell


def arm_config(arm: Arm, base: Mapping[str, Any], threads: int, **chosen: Any) -> RunConfig:
    """How an arm over a base is trained on this machine; `chosen` are flags that come before both."""
    config = RunConfig(**{**arm.flags(base), **chosen})
    return runtime.resolve(replace(config, threads=config.threads or threads))


def named_cell(arm: str, config: RunConfig, data: str, cells_dir: str, purpose: str = MAIN) -> Cell:
    """The cell of a resolved configuration on the text with this hash."""
    identity = {"config": run_directory.config_hash(config), "data": data, "code": code_hash()}
    return Cell(arm, purpose, config, identity | parent_identity(config), Path(cells_dir))


# ------------------------------------------------------------------------------------- arms that start from each other


class Planner:
    """Turns arms over one base into cells, and remembers them: many ask for the same.

    An arm that continues from another one has cells only once those of the other are trained, since they are part of
    its identity.
    """

    def __init__(self, base: Mapping[str, Any], cells_dir: str, threads: int) -> None:
        self.base = base
        self._cells_dir = cells_dir
        self._threads = threads
        self._texts: dict[tuple[Any, ...], TokenStore] = {}
        self._cells: dict[tuple[Any, ...], Cell] = {}

    def cells(self, arms: Mapping[str, Arm], seeds: Sequence[int]) -> dict[tuple[str, int], Cell | None]:
        """The cell of each arm and seed; None where an arm starts from a cell that is not trained yet."""
        return {(name, seed): self._cell(arms, name, seed) for seed in seeds for name in arms}

    def configuration(self, arm: Arm, seed: int) -> RunConfig:
        """How an arm is trained, without where it starts from; enough to price it."""
        chosen = {"seed": seed + arm.seed_offset, **({"init_from": arm.start} if arm.start else {})}
        return arm_config(arm, self.base, self._threads, **chosen)

    def text(self, config: RunConfig) -> TokenStore:
        """The prepared text of a configuration."""
        fractions = (config.val_fraction, config.test_fraction)
        text = (config.corpus, config.text_field, config.tokenizer, *fractions, config.data_dir)
        if text not in self._texts:
            self._texts[text] = prepare_text(config)
        return self._texts[text]

    def _cell(self, arms: Mapping[str, Arm], name: str, seed: int) -> Cell | None:
        key = (*_with_starts(arms, name), seed)
        if key not in self._cells:
            arm = arms[name]
            config = self.configuration(arm, seed)
            if arm.start:
                parent = self._cell(arms, arm.start, seed)
                result = read_result(parent.directory) if parent else None
                if parent is None or result is None:
                    return None
                if result["status"] != "finished":
                    return parent  # what diverged has no continuation, and counts as diverged again
                config = replace(config, init_from=parent.directory.as_posix())
            self._cells[key] = named_cell(name, config, self.text(config).sha256, self._cells_dir)
        return self._cells[key]


def _with_starts(arms: Mapping[str, Arm], name: str) -> tuple[Any, ...]:
    """What an arm says, and all that it starts from: a name alone may mean different arms elsewhere."""
    arm = arms[name]
    return tuple(sorted(arm.settings.items())), arm.seed_offset, *(_with_starts(arms, arm.start) if arm.start else ())


# --------------------------------------------------------------------------------------------- the arms of an ablation


@dataclass(frozen=True)
class ResolvedArm:
    """An arm as it is trained, without its seed (and its rate, where that is tuned), and the model that this makes."""

    name: str
    settings: Mapping[str, Any]
    config: RunConfig
    parameters: int
    flops_per_token: int
    widths: tuple[int, ...]
    shapes: dict[str, tuple[int, ...]]


def arm_configs(question: Question, threads: int, steps: Mapping[str, int] | None = None) -> dict[str, RunConfig]:
    """The configuration of every arm on this machine, the reference first; `steps` overrides their number by arm.

    Raises:
        UsageError: a value is not allowed, or two arms are the same under different names.
    """
    resolved: dict[str, RunConfig] = {}
    for name, arm in question.arms().items():
        chosen: dict[str, Any] = {"eval_part": "odd"} if question.options.tune_lr else {}
        if question.options.match == "width":
            chosen["d_ff"] = 4 * arm.flags(question.base).get("n_embd", RunConfig.n_embd)
        if steps:
            chosen["steps"] = steps[name]
        config = arm_config(arm, question.base, threads, **chosen)
        same = next((other for other, known in resolved.items() if known == config), None)
        if same is not None:
            raise UsageError(f"two arms are the same; got {same!r} and {name!r}; leave one out")
        resolved[name] = config
    return resolved


def resolve_arms(
    question: Question, vocab_size: int, threads: int, steps: Mapping[str, int] | None = None, data: str = ""
) -> list[ResolvedArm]:
    """Resolve every arm as `arm_configs` does, and build each model once to see what it amounts to.

    `data` is the hash of the text, by which cells are found that are trained already.
    """
    configs = arm_configs(question, threads, steps)
    described = [_described(name, arm, configs[name], vocab_size) for name, arm in question.arms().items()]
    return _compiled_alike(question, described, data)


def cells_of(
    question: Question, arms: list[ResolvedArm], data: str, rates: Mapping[str, float] | None = None
) -> list[Cell]:
    """The cells that answer the question, seed by seed, so that an ablation cut short has complete pairs."""
    cells_dir = question.options.cells_dir
    return [
        named_cell(arm.name, replace(_with_rate(arm.config, (rates or {}).get(arm.name)), seed=seed), data, cells_dir)
        for seed in question.seeds
        for arm in arms
    ]


def tuning_cells(
    question: Question, arms: list[ResolvedArm], data: str, rates: Mapping[str, tuple[float, ...]]
) -> list[Cell]:
    """The cells that choose each arm's rate among `rates`: other seeds, and the other half of the windows."""
    tried = [
        (arm.name, replace(_with_rate(arm.config, rate), seed=seed, eval_part="even"))
        for seed in tuning_seeds(question)
        for arm in arms
        for rate in rates[arm.name]
    ]
    return [named_cell(name, config, data, question.options.cells_dir, TUNE) for name, config in tried]


def tuning_seeds(question: Question) -> list[int]:
    """The seeds on which rates are chosen."""
    return [question.seeds[0] + TUNING_SEED_OFFSET + number for number in range(question.options.tune_seeds)]


def describe_arm(arm: ResolvedArm, reference: ResolvedArm) -> dict[str, Any]:
    """An arm as the plan on disk holds it, with what must be fair about it."""
    return {
        "name": arm.name,
        "settings": arm.settings,
        "reference": arm is reference,
        "fairness": {
            "parameters": arm.parameters,
            "d_ff": list(arm.widths),
            "flops_per_token": arm.flops_per_token,
            "steps": arm.config.steps,
            "tokens": arm.config.steps * arm.config.tokens_per_step,
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


def _described(name: str, arm: Arm, config: RunConfig, vocab_size: int) -> ResolvedArm:
    model = GPT(model_config(config, vocab_size))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    flops, widths = model.flops_per_token(), model.config.layer_widths
    return ResolvedArm(name, arm.settings, config, model.parameter_count(), flops, widths, shapes)


def _compiled_alike(question: Question, arms: list[ResolvedArm], data: str) -> list[ResolvedArm]:
    """Compile all arms or none: compiled models round differently.

    If cells of this grid are trained already, in the way that most of them were: a grid that grows keeps its cells.
    """
    if all(arm.config.compile != "auto" for arm in arms):
        return arms
    either = {how: [replace(arm, config=replace(arm.config, compile=how)) for arm in arms] for how in ("on", "off")}
    done = {how: _count_done(question, alike, data) for how, alike in either.items()}
    if done["on"] != done["off"]:
        return either[max(done, key=done.__getitem__)]
    return either["on" if _compiling_repays(question, arms) else "off"]


def _count_done(question: Question, arms: list[ResolvedArm], data: str) -> int:
    rates = {arm.name: tuning_rates(question) for arm in arms}
    tuned = question.options.tune_lr
    cells = tuning_cells(question, arms, data, rates) if tuned else cells_of(question, arms, data)
    return sum(read_result(cell.directory) is not None for cell in cells)


def _compiling_repays(question: Question, arms: list[ResolvedArm]) -> bool:
    """Whether to compile the cells of a grid, by the grid alone: how many there are of each architecture, how long.

    On a CPU each architecture is compiled once for all its cells (`compile_once.py`); elsewhere every cell compiles,
    and has to repay that itself.
    """
    flops = [arm.flops_per_token * arm.config.tokens_per_step for arm in arms]
    if arms[0].config.device != "cpu":
        chosen = [runtime.resolve_compile(arm.config, each) for arm, each in zip(arms, flops, strict=True)]
        return all(config.compile == "on" for config in chosen)
    cells = len(question.seeds)
    if question.options.tune_lr:
        cells += question.options.tune_seeds * len(tuning_rates(question))
    work = cells * sum(arm.config.steps * each for arm, each in zip(arms, flops, strict=True))
    models = {(arm.config.activation, tuple(arm.shapes.items()), arm.config.batch_size) for arm in arms}
    return runtime.compiling_once_repays([arm.config for arm in arms], work, len(models))


def _with_rate(config: RunConfig, rate: float | None) -> RunConfig:
    """The configuration at another peak rate; the final rate keeps its proportion to it."""
    if rate is None:
        return config
    assert config.min_lr is not None
    return replace(config, lr=rate, min_lr=config.min_lr * rate / config.lr)


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
