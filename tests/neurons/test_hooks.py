"""Hooks: called in order with what the module computed, able to replace it, and gone afterwards whatever happens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from minigpt.neurons.hooks import hooked


def test_hooks_see_and_replace_what_a_module_computes() -> None:
    """The module's arguments and output come in; what comes out, unless None, goes on in its place."""
    first, second = nn.Linear(3, 3), nn.Linear(3, 2)
    x, seen = torch.ones(1, 3), []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((module, inputs[0], output))

    with hooked([(first, lambda module, inputs, output: 2 * output), (second, keep)]):
        replaced = second(first(x))
    assert seen[0][0] is second
    assert torch.equal(seen[0][1], 2 * first(x))
    assert torch.equal(seen[0][2], replaced)
    second(first(x))
    assert len(seen) == 1


def test_no_hook_outlives_an_error() -> None:
    """Neither one inside the block nor one while hooks are being registered may leave a model that is watched."""
    layers = [nn.Linear(2, 2), nn.Linear(2, 2)]

    def pairs():  # type: ignore[no-untyped-def]
        yield layers[0], lambda *_: None
        raise KeyError("the second module")

    with pytest.raises(KeyError), hooked(pairs()):
        pass
    with pytest.raises(ZeroDivisionError), hooked((layer, lambda *_: None) for layer in layers):
        raise ZeroDivisionError
    assert all(not layer._forward_hooks for layer in layers)
