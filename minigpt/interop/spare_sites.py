"""Which neurons of anybody's model could go: EF@1 % of each site and of the whole model, as `expendable.py` defines it.

The order and the means come from what was counted, the losses from windows that were held out of that. What was found
of a layer is committed at once, so an audit that is stopped or killed here loses one layer's search at most.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from minigpt.base import formats, storage
from minigpt.base.errors import CheckpointError, StopRequestedError
from minigpt.base.reading import read_json
from minigpt.interop.audit_text import AuditText
from minigpt.interop.count_sites import check_identity
from minigpt.interop.open_model import OpenedModel
from minigpt.neurons.expendable import FULL, Effort, Expendable, search
from minigpt.neurons.knockout import SequenceLosses
from minigpt.neurons.layer_statistics import LayerStatistics
from minigpt.neurons.mlp_site import MLPSite
from minigpt.neurons.site_health import site_contribution
from minigpt.neurons.site_knockout import TextAtBlock, predictor, read_up_to_site, site_losses_without
from minigpt.training.interrupts import stop_on_signals
from minigpt.training.terminal import print_notice

SEARCHED = "partial-expendable.json"
_BATCH_TOKENS = 2_048
_OF_A_LAYER = Effort(steps=6, random_steps=0)  # a forward pass of a large model takes long, and there are many layers
_WHOLE = "all"  # beside the numbers of the layers


@dataclass(frozen=True)
class Spared:
    """What could go of each layer, in the order of the places, and of the model; the losses are of `tokens` tokens."""

    tokens: int
    layers: list[Expendable]
    model: Expendable


def spare_sites(
    opened: OpenedModel,
    places: Mapping[str, MLPSite],
    text: AuditText,
    counted: Sequence[LayerStatistics],
    partial: Path | None,
    identity: dict[str, Any],
) -> Spared:
    """Search every layer and the model, going on from `partial` if it is of the same audit; None keeps nothing.

    Raises:
        StopRequestedError: a signal arrived; what was found is committed.
        CheckpointError: `partial` is of another audit, or damaged.
    """
    found = _read_partial(partial, identity) if partial else {}
    device = next(opened.model.parameters()).device
    size = max(1, _BATCH_TOKENS // text.held_out.shape[1])
    batches = [(ids.to(device), targets.to(device)) for ids, targets in text.held_out_batches(size)]
    split = predictor(opened.model, opened.body, batches[0][0][:1, :16])
    means = [layer.sum_h / layer.tokens for layer in counted]
    contributions = list(map(site_contribution, places.values(), counted))
    with stop_on_signals() as flag:

        def without(at: TextAtBlock, removed: list[Tensor]) -> SequenceLosses:
            if flag.signal_number:
                done = f"stopped after {len(found)} of {len(places) + 1} searches"
                raise StopRequestedError(flag.signal_number, f"{done}; the same command goes on")
            return site_losses_without(split, at, places, removed, means)

        whole = read_up_to_site(split, None, batches)
        begun = time.perf_counter()
        without(whole, [torch.zeros_like(mean, dtype=torch.bool) for mean in means])
        _announce(time.perf_counter() - begun, len(places), len(found))
        layers = [*enumerate(places.values()), (None, None)]
        for layer, site in tqdm(layers, desc="ablating", disable=None, file=sys.stderr, leave=False):
            name = _WHOLE if layer is None else str(layer)
            if name not in found:
                at = whole if site is None else read_up_to_site(split, site, batches)
                effort = FULL if site is None else _OF_A_LAYER
                found[name] = search(functools.partial(without, at), contributions, layer, effort)
                if partial:
                    _write_partial(partial, identity, found)
    return Spared(text.held_out[:, 1:].size, [found[str(layer)] for layer in range(len(places))], found[_WHOLE])


def _announce(seconds: float, layers: int, found: int) -> None:
    """Say on stderr how long the search will take: on average, half of the model runs for a layer's."""
    passes = FULL.evaluations + (_OF_A_LAYER.evaluations + 2) * (layers - found) * (layers - found + 1) / (2 * layers)
    left = passes * seconds
    if left >= 10:
        line = f"note: the search for expendable neurons takes about {formats.duration(left)}"
        print_notice(f"{line}; what was found of a layer is kept; fewer --expendable-tokens make it shorter")


def _write_partial(path: Path, identity: dict[str, Any], found: Mapping[str, Expendable]) -> None:
    storage.write_json(path, {"identity": identity, "found": {name: asdict(one) for name, one in found.items()}})


def _read_partial(path: Path, identity: dict[str, Any]) -> dict[str, Expendable]:
    if not path.exists():
        return {}
    record = read_json(path, CheckpointError)
    try:
        found = {
            name: Expendable(**{**one, "random": tuple(one["random"]), "random_rise": tuple(one["random_rise"])})
            for name, one in record["found"].items()
        }
        check_identity(path, "search", record["identity"], identity)
    except (KeyError, TypeError, AttributeError) as reason:
        raise CheckpointError(f"{path} is damaged; {reason!r}; --overwrite begins again") from reason
    return found
