"""From a claim's arms to cells: settings over the base, resolved on this machine, named by what they are results of.

A cell belongs to no claim: claims that declare the same setting share it, with each other and with ablations. An arm
that continues from another one has cells only once those of the other are trained, since they are part of its identity.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from minigpt.claims.claim import Arm, Claim, Times
from minigpt.claims.scale import Scale
from minigpt.experiments.cells import MAIN, Cell, read_result
from minigpt.text.preparation import prepare_text
from minigpt.training import run_directory, runtime
from minigpt.training.code_version import code_hash
from minigpt.training.config import RunConfig
from minigpt.training.inheritance import parent_identity


class Planner:
    """Turns arms into cells and remembers them: many claims ask for the same."""

    def __init__(self, scale: Scale, threads: int) -> None:
        self.scale = scale
        self._threads = threads
        self._texts: dict[tuple[Any, ...], str] = {}
        self._cells: dict[tuple[str, str, int], Cell] = {}

    def cells(self, claim: Claim) -> dict[tuple[str, int], Cell | None]:
        """The cell of each arm and seed; None where an arm starts from a cell that is not trained yet."""
        seeds = self.scale.seeds(claim.seeds)
        return {(name, seed): self._cell(claim, name, seed) for seed in seeds for name in claim.arms}

    def _cell(self, claim: Claim, name: str, seed: int) -> Cell | None:
        key = (claim.id, name, seed)
        if key not in self._cells:
            arm = claim.arms[name]
            parent = self._cell(claim, arm.start, seed) if arm.start else None
            result = read_result(parent.directory) if parent else None
            if arm.start and result is None:
                return None
            if parent is not None and result is not None and result["status"] != "finished":
                self._cells[key] = parent  # what diverged has no continuation, and counts as diverged again
            else:
                self._cells[key] = self._named(name, self._configuration(arm, seed, parent))
        return self._cells[key]

    def configuration(self, claim: Claim, name: str, seed: int) -> RunConfig:
        """How an arm is trained, but for where it starts from; for what it will cost."""
        return self._configuration(claim.arms[name], seed, None)

    def base_configuration(self) -> RunConfig:
        """The base without any arm's settings."""
        return self._configuration(Arm(), self.scale.seeds(1)[0], None)

    def _configuration(self, arm: Arm, seed: int, parent: Cell | None) -> RunConfig:
        base = self.scale.base
        settings = {name: _applied(base, name, value) for name, value in arm.settings.items()}
        if arm.start:
            settings["init_from"] = parent.directory.as_posix() if parent else arm.start
        config = RunConfig(**{**base, **settings, "seed": seed})
        return runtime.resolve(replace(config, threads=config.threads or self._threads))

    def _named(self, arm: str, config: RunConfig) -> Cell:
        identity = {
            "config": run_directory.config_hash(config),
            "data": self._data(config),
            "code": code_hash(),
            **parent_identity(config),
        }
        return Cell(arm, MAIN, config, identity, Path(self.scale.options.cells_dir))

    def _data(self, config: RunConfig) -> str:
        text = (config.corpus, config.tokenizer, config.val_fraction, config.test_fraction, config.data_dir)
        if text not in self._texts:
            self._texts[text] = prepare_text(config).sha256
        return self._texts[text]


def untrained(cells: Iterable[Cell | None]) -> list[Cell]:
    """The cells that can be trained now and are not done, each once, in their order."""
    known = {cell.id: cell for cell in cells if cell is not None}
    return [cell for cell in known.values() if read_result(cell.directory) is None]


def _applied(base: dict[str, Any], name: str, value: Any) -> Any:
    """A setting as a flag takes it: multiples become what they are multiples of."""
    if not isinstance(value, Times):
        return value
    if name == "d_ff":
        return max(1, round(4 * base.get("n_embd", RunConfig.n_embd) * value.factor))
    # A final rate is a multiple of the peak's: its own default follows from that.
    default = base.get("lr" if name == "min_lr" else name, RunConfig.__dataclass_fields__[name].default)
    scaled = default * value.factor
    return max(1, round(scaled)) if isinstance(default, int) else scaled


def operations(config: RunConfig) -> float:
    """Floating-point operations of a training, evaluations left out; for comparing costs."""
    width, tokens = config.n_embd, config.batch_size * config.grad_accumulation * config.block_size
    products = config.n_layer * 12 * width * width
    return float(config.steps * tokens * (6 * products + 12 * config.n_layer * width * config.block_size))
