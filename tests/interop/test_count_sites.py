"""The pass of an audit holds the activations of one block at a time, however deep the model is."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from tiny_architectures import some_ids, tiny
from torch import Tensor, nn

from minigpt.interop.count_sites import watching
from minigpt.neurons.find_mlps import find_mlps, run_model

pytestmark = pytest.mark.filterwarnings("ignore")

BATCH, TIME = 8, 64


def live_bytes() -> int:
    """Of all tensors with at least a value for each token that are no parameters."""
    storages = {}
    for thing in gc.get_objects():
        made = issubclass(type(thing), Tensor) and not issubclass(type(thing), nn.Parameter)
        if made and thing.numel() >= BATCH * TIME and not thing.is_meta:
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(storages.values())


def growth(layers: int, keeping: bool = False, **changes: Any) -> int:
    """Bytes that were alive when the last block had run, above those before the pass."""
    model: Any = tiny("llama", num_hidden_layers=layers, **changes)
    ids = some_ids(BATCH, TIME)
    places = {site.label: site for site in find_mlps(model, ids[:1, :8])}
    before, seen, kept = live_bytes(), [], []
    for block in model.model.layers:
        block.mlp.down_proj.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]) if keeping else None)
    block.register_forward_hook(lambda *_: seen.append(live_bytes()))
    with torch.no_grad(), watching(places, "include", slopes=True) as watch:
        watch.expect(ids)
        run_model(model.base_model, ids)
        watch.counted()
    return seen[0] - before


def test_memory_does_not_grow_with_the_number_of_layers() -> None:
    """Five layers take what two take; an instrument that kept the neurons of each would be seen."""
    width = 4 * BATCH * TIME * 48  # bytes of one layer's h
    assert growth(5) <= growth(2) + width / 2
    assert growth(5, keeping=True) >= growth(2, keeping=True) + 3 * width
