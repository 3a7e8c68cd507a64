"""Dead neurons among the figures that Lightning logs.

Source: the hooks of `lightning.pytorch.Callback` 2.x, in their order; `log` is not allowed in `on_validation_end`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from minigpt.base.errors import UsageError
from minigpt.interop.evaluation_counts import EvaluationCounts, figures, say

try:
    from lightning.pytorch import Callback
except ImportError as reason:
    raise UsageError(f"this needs Lightning; {reason}; pip install lightning") from reason


class LightningDeadNeuronCallback(Callback):  # type: ignore[misc]  # Lightning need not be installed
    """Counts the neurons of each layer on the validation batches: `Trainer(callbacks=[LightningDeadNeuronCallback()])`.

    `model` names the attribute of the LightningModule that is the language model. It logs `val_dead_fraction`,
    `val_inert_fraction` and `val_dead_fraction_layer_N` and says which layer is dying. The sanity check does not count.

    Raises:
        UsageError: the model is missing or compiled, or its MLPs cannot be told; with the reason.
    """

    def __init__(self, model: str = "model", prefix: str = "val_") -> None:
        self._name, self._prefix = model, prefix
        self._counts = EvaluationCounts()

    def on_validation_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Look at the model during this validation."""
        model = getattr(pl_module, self._name, None)
        if not isinstance(model, nn.Module):
            known = ", ".join(name for name, _ in pl_module.named_children())
            raise UsageError(f"no language model {self._name!r} in {type(pl_module).__name__}; it has {known}")
        if not trainer.sanity_checking:
            self._counts.attach(model)

    def on_validation_batch_end(self, trainer: Any, *batch: Any, **more: Any) -> None:
        """Count the batch that was just evaluated."""
        if not trainer.sanity_checking:
            self._counts.keep_batch()

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the figures of this validation."""
        if trainer.sanity_checking:
            return
        layers = self._counts.layers()
        for name, value in figures(layers).items():
            pl_module.log(self._prefix + name, value)
        lines = self._counts.dying(layers)
        if trainer.is_global_zero:
            say(lines)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Look at the model no longer."""
        self._counts.detach()
