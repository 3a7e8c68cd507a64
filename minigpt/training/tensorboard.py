"""The same figures as `metrics.jsonl`, for TensorBoard; only imported when `--tensorboard` asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from minigpt.base.errors import UsageError
from minigpt.training.evaluation import Evaluation
from minigpt.training.step import StepResult

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


def check_installed() -> None:
    """Raise `UsageError` if the package is not there."""
    try:
        import torch.utils.tensorboard  # noqa: F401  (whether it can be imported is the question)
    except ImportError as error:
        raise UsageError("--tensorboard needs a package; none is here; pip install -e '.[tensorboard]'") from error


class Board:
    """What a training shows in TensorBoard, and nothing unless wanted.

    Events of an earlier attempt beyond `start` are hidden.
    """

    def __init__(self, run: Path, start: int, wanted: bool) -> None:
        self._writer: SummaryWriter | None = None
        if wanted:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(run / FOLDER), purge_step=start + 1)

    def step(self, step: int, result: StepResult) -> None:
        """Write the scalars of one step."""
        if self._writer is not None:
            for name in ("loss", "lr", "grad_norm"):
                self._writer.add_scalar(f"train/{name}", getattr(result, name), step)

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Write the scalars of one evaluation and each layer's histogram of firing rates."""
        if self._writer is None:
            return
        for name in ("loss", "perplexity", "bits_per_byte"):
            self._writer.add_scalar(f"val/{name}", getattr(evaluation, name), step)
        for layer, counted in zip(evaluation.layers, evaluation.statistics, strict=True):
            for name in ("dead_fraction", "never_positive_fraction", "density", "inert_fraction"):
                self._writer.add_scalar(f"{name}/layer_{layer.layer}", getattr(layer, name), step)
            self._writer.add_histogram(f"firing_rate/layer_{layer.layer}", counted.fired / counted.tokens, step)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
