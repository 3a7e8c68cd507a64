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


def open_writer(run: Path, step: int) -> SummaryWriter:
    """Open an event writer; events of an earlier attempt beyond `step` are hidden."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run / FOLDER), purge_step=step + 1)


def write_step(writer: SummaryWriter, step: int, result: StepResult) -> None:
    """Write the scalars of one step."""
    writer.add_scalar("train/loss", result.loss, step)
    writer.add_scalar("train/lr", result.lr, step)
    writer.add_scalar("train/grad_norm", result.grad_norm, step)


def write_evaluation(writer: SummaryWriter, step: int, evaluation: Evaluation) -> None:
    """Write the scalars of one evaluation and each layer's histogram of firing rates."""
    writer.add_scalar("val/loss", evaluation.loss, step)
    writer.add_scalar("val/perplexity", evaluation.perplexity, step)
    writer.add_scalar("val/bits_per_byte", evaluation.bits_per_byte, step)
    for layer, counted in zip(evaluation.layers, evaluation.statistics, strict=True):
        for name in ("dead_fraction", "never_positive_fraction", "density", "inert_fraction"):
            writer.add_scalar(f"{name}/layer_{layer.layer}", getattr(layer, name), step)
        writer.add_histogram(f"firing_rate/layer_{layer.layer}", counted.fired / counted.tokens, step)
