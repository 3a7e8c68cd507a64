"""The callback of Lightning, against a stand-in that calls the documented hooks in Lightning's order."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from test_trainer_callback import brute_force, opt, rows
from torch import nn

from minigpt.base.errors import UsageError


class StandIn(nn.Module):
    """A LightningModule, as far as a validation goes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.hook = ""
        self.logged: dict[str, float] = {}

    def log(self, name: str, value: float) -> None:
        """Take a figure where Lightning would."""
        assert self.hook in ("on_validation_start", "on_validation_batch_end", "on_validation_epoch_end"), self.hook
        self.logged[name] = value


@pytest.fixture
def callback_class(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class, built on a stand-in for Lightning's base."""
    package, pytorch = ModuleType("lightning"), ModuleType("lightning.pytorch")
    pytorch.Callback = type("Callback", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning", package)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", pytorch)
    monkeypatch.delitem(sys.modules, "minigpt.interop.lightning_callback", raising=False)
    from minigpt.interop.lightning_callback import LightningDeadNeuronCallback

    yield LightningDeadNeuronCallback
    sys.modules.pop("minigpt.interop.lightning_callback", None)


def validate(callback: Any, module: StandIn, sanity_checking: bool = False) -> None:
    """A validation with the hooks in the order of Lightning 2.x; the model reads in inference mode."""
    trainer = SimpleNamespace(sanity_checking=sanity_checking, is_global_zero=True)

    def call(hook: str, *values: Any) -> None:
        module.hook = hook
        getattr(callback, hook, lambda *_: None)(trainer, module, *values)

    module.eval()
    with torch.inference_mode():
        for hook in ("on_validation_start", "on_validation_epoch_start"):
            call(hook)
        for index, row in enumerate(rows()):
            batch = {name: value[None] for name, value in row.items()}
            call("on_validation_batch_start", batch, index, 0)
            output = module.model(**batch)
            call("on_validation_batch_end", output, batch, index, 0)
        for hook in ("on_validation_epoch_end", "on_validation_end"):
            call(hook)
    module.train()


def test_a_validation_logs_exact_shares(callback_class: Any):
    """Where `log` is allowed, by the layers' numbers, without padding; twice gives the same."""
    module, callback = StandIn(opt()), callback_class()
    for _ in range(2):
        validate(callback, module)
        found = [module.logged[f"val_dead_fraction_layer_{layer}"] for layer in range(2)]
        assert found == pytest.approx(brute_force(module.model.eval(), rows()), abs=1e-12)


def test_the_sanity_check_does_not_count(callback_class: Any):
    """Lightning shows no figures of it, and its few batches would be taken for an evaluation."""
    module, callback = StandIn(opt()), callback_class()
    validate(callback, module, sanity_checking=True)
    assert module.logged == {}


def test_a_missing_model_is_named(callback_class: Any):
    """Who calls it otherwise reads what there is."""
    with pytest.raises(UsageError, match="no language model 'net' in StandIn; it has model"):
        validate(callback_class("net"), StandIn(opt()))


def test_lightning_is_asked_for_only_when_used():
    """Neither package is a dependency."""
    if "lightning" in sys.modules:
        pytest.skip("Lightning is installed")
    with pytest.raises(UsageError, match="pip install lightning"):
        import minigpt.interop.lightning_callback  # noqa: F401
