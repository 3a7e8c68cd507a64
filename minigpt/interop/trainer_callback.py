"""Dead neurons among the figures of a Hugging Face `Trainer`: in its logs, `trainer_state.json` and TensorBoard.

Source: the order of events in `Trainer.evaluate` of transformers 4.46 to 5.24: it logs before `on_evaluate`.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from minigpt.base.errors import UsageError
from minigpt.interop.evaluation_counts import EvaluationCounts, figures, say
from minigpt.interop.export_hf import require_transformers

require_transformers()
from transformers import Trainer, TrainerCallback  # noqa: E402


class DeadNeuronCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types here
    """Counts the neurons of each layer on the evaluation batches: `Trainer(..., callbacks=[DeadNeuronCallback()])`.

    Adds `eval_dead_fraction`, `eval_inert_fraction` and `eval_dead_fraction_layer_N` to the metrics of every evaluation
    and says which layer is dying. Training is not looked at, so gradient checkpointing does not matter.

    Raises:
        UsageError: the model is compiled or split by `DataParallel`, or its MLPs cannot be told; with the reason.
    """

    def __init__(self) -> None:
        self._counts = EvaluationCounts()

    def on_init_end(self, args: Any, state: Any, control: Any, *, model: nn.Module, **more: Any) -> None:
        """Look at the model from now on."""
        if args.torch_compile:
            raise UsageError("hooks never fire in a compiled model; torch_compile is on; switch it off to count")
        if args.n_gpu > 1:
            raise UsageError(f"DataParallel copies the model; {args.n_gpu} GPUs; start one process for each (torchrun)")
        self._counts.attach(model)

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Look at the model, for a callback that came after the `Trainer` was made."""
        self.on_init_end(args, state, control, **more)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Count the batch that was just evaluated."""
        self._counts.keep_batch()

    def on_predict(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **more: Any) -> None:
        """Forget batches that were only predicted."""
        self._counts.forget()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **more: Any) -> None:
        """Add the figures to the metrics and log them, as one more entry of the same step."""
        layers = self._counts.layers()
        prefix = next(name for name in metrics if name.endswith("_runtime")).removesuffix("runtime")
        found = {prefix + name: value for name, value in figures(layers).items()}
        metrics.update(found)
        _calling_trainer().log(dict(found))
        lines = self._counts.dying(layers)
        if state.is_world_process_zero:
            say(lines)


def _calling_trainer() -> Trainer:
    """The trainer whose event this is.

    NOTE: events come without it, and the metrics were logged before; only its `log` reaches every logger.
    """
    frame = sys._getframe()
    while not isinstance(frame.f_locals.get("self"), Trainer):
        assert frame.f_back is not None, "an event came from no trainer"
        frame = frame.f_back
    return frame.f_locals["self"]
