"""The pass of an audit: run the model over the text once, count at its sites, and lose little if it is killed.

What was counted so far is committed every few minutes, in one file that says of which audit it is; the same command
goes on from there, and its counts are those of an audit that was never interrupted.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tqdm import tqdm

from minigpt.base import formats, storage
from minigpt.base.errors import CheckpointError, StopRequestedError
from minigpt.interop.audit_text import AuditText
from minigpt.neurons.find_mlps import run_model
from minigpt.neurons.layer_statistics import DeepStatistics, LayerStatistics, SlopeStatistics
from minigpt.neurons.mlp_site import MLPSite
from minigpt.neurons.probe import NeuronProbe
from minigpt.neurons.site_probe import SiteProbe
from minigpt.training.interrupts import stop_on_signals
from minigpt.training.terminal import print_notice

PARTIAL = "partial.safetensors"
COMMIT_SECONDS = 120.0
PATIENCE = 600.0  # seconds; an audit that takes longer on a CPU is told how to take less
_PARTS = {"include": ("all",), "exclude": ("rest",), "both": ("first", "rest")}
_VECTORS = ("fired", "opened", "sum_h", "sum_abs_h", "sum_square_h")
_DEEP_VECTORS = ("fired_sequences", "first_sequence", "max_z")
_SLOPE_VECTORS = ("flat", "sum_slope", "sum_square_slope")


@dataclass(frozen=True)
class Tally:
    """What was counted on the first `batches` batches, for each part of the positions; in the order of the places."""

    batches: int
    seconds: float
    parts: dict[str, list[LayerStatistics]]

    @property
    def with_position_0(self) -> list[LayerStatistics] | None:
        """Counts over every token; None if the first of each window was left out."""
        if "all" in self.parts:
            return self.parts["all"]
        if "first" in self.parts:
            # NOTE: a sequence in which a neuron fired in both parts would count twice; sequences are those of the rest.
            return merged(self.parts["first"], [replace(found, deep=None) for found in self.parts["rest"]])
        return None

    @property
    def without_position_0(self) -> list[LayerStatistics] | None:
        """Counts over all tokens but the first of each window; None if these were not told apart."""
        return self.parts.get("rest")


class Watch:
    """The probes of an audit, one for each part of the positions; open them with `watching`."""

    def __init__(self, probes: dict[str, SiteProbe]) -> None:
        self._probes = probes

    def expect(self, ids: Tensor) -> None:
        """Say which ids (B,T) the next forward pass reads."""
        for part, probe in self._probes.items():
            probe.expect(ids.shape, _mask(part, ids))

    def counted(self) -> dict[str, list[LayerStatistics]]:
        """What was counted so far, by part and place."""
        return {part: probe.statistics() for part, probe in self._probes.items()}


@contextlib.contextmanager
def watching(places: Mapping[str, MLPSite], position_0: str, slopes: bool = False) -> Iterator[Watch]:
    """Inside this block the neurons at these places are counted."""
    with contextlib.ExitStack() as stack:
        probes = {part: NeuronProbe.for_modules(places, part != "first", slopes) for part in _PARTS[position_0]}
        yield Watch({part: stack.enter_context(probe) for part, probe in probes.items()})


def count_sites(
    body: nn.Module,
    places: Mapping[str, MLPSite],
    text: AuditText,
    batch_size: int,
    position_0: str,
    slopes: bool,
    partial: Path | None,
    identity: dict[str, Any],
) -> Tally:
    """Count on the whole text, going on from `partial` if it is of the same audit; None keeps nothing.

    Raises:
        DivergedError: hidden values are not finite; names the site.
        StopRequestedError: a signal arrived; what was counted is committed.
    """
    device = next(body.parameters()).device
    before = read_partial(partial, identity) if partial else None
    total = len(text.windows(batch_size))
    _announce(body, text, batch_size, device, total - (before.batches if before else 0))
    begun = committed = time.monotonic()
    done, so_far = (before.batches if before else 0), before
    with torch.no_grad(), watching(places, position_0, slopes) as watch, stop_on_signals() as flag:

        def tally() -> Tally:
            seconds = (before.seconds if before else 0.0) + time.monotonic() - begun
            counted = watch.counted()
            if before:
                counted = {part: merged(before.parts[part], found) for part, found in counted.items()}
            return Tally(done, seconds, counted)

        bar = tqdm(text.batches(batch_size), desc="counting", total=total, disable=None, file=sys.stderr, leave=False)
        for number, ids in enumerate(bar):
            if before and number < before.batches:
                continue
            watch.expect(ids)
            run_model(body, ids.to(device))
            done = number + 1
            if number == 0 or flag.signal_number or time.monotonic() - committed >= COMMIT_SECONDS:
                so_far, committed = tally(), time.monotonic()
                if partial and (number or flag.signal_number):
                    write_partial(partial, identity, so_far)
            if flag.signal_number:
                raise StopRequestedError(
                    flag.signal_number, f"stopped after {done} of {total} batches; the same command goes on"
                )
        return so_far if so_far is not None and so_far.batches == done else tally()


def merged(first: Sequence[LayerStatistics], second: Sequence[LayerStatistics]) -> list[LayerStatistics]:
    """Counts over the tokens of both, place by place."""
    return [one.merge(other) for one, other in zip(first, second, strict=True)]


def _mask(part: str, ids: Tensor) -> Tensor | None:
    """Which tokens (B,T) a part counts; None for all."""
    if part == "all":
        return None
    mask = torch.full(ids.shape, part == "rest")
    mask[:, 0] = part == "first"
    return mask


def _announce(body: nn.Module, text: AuditText, batch_size: int, device: torch.device, batches: int) -> None:
    """Say on stderr how long it will take, and how to take less where that is long; costs one batch."""
    ids = next(text.batches(batch_size)).to(device)
    with torch.no_grad():
        run_model(body, ids[:1])
        begun = time.perf_counter()
        run_model(body, ids)
    seconds = time.perf_counter() - begun
    if batches * seconds < 10:
        return
    speed = ids.numel() / seconds
    line = f"note: about {formats.duration(batches * seconds)} at {speed:,.0f} tokens/s"
    fitting = int(PATIENCE * speed) // 4096 * 4096
    if device.type == "cpu" and batches * seconds > PATIENCE and fitting:
        line += f"; --tokens {fitting} would take about {formats.duration(PATIENCE)}"
    print_notice(f"{line}; an audit that is stopped goes on with the same command")


# ---------------------------------------------------------------------------------------- what was counted, on disk


def write_partial(path: Path, identity: dict[str, Any], tally: Tally) -> None:
    """Commit what was counted so far: tensors, and in the header of the same file of which audit they are."""
    tensors = {
        f"{part}/{index}/{name}": vector
        for part, counted in tally.parts.items()
        for index, found in enumerate(counted)
        for name, vector in _vectors(found).items()
    }
    known = {part: [_numbers(found) for found in counted] for part, counted in tally.parts.items()}
    state = {"identity": identity, "batches": tally.batches, "seconds": tally.seconds, "parts": known}
    storage.make_directory(path.parent)
    storage.write_bytes(path, safetensors.torch.save(tensors, {"state": storage.to_json(state)}))


def read_partial(path: Path, identity: dict[str, Any]) -> Tally | None:
    """What an interrupted audit had counted; None if there is none.

    Raises:
        CheckpointError: it is of another model, text or setting, or damaged.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
        parts = {
            part: [_restored(numbers, _under(f"{part}/{index}/", tensors)) for index, numbers in enumerate(known)]
            for part, known in state["parts"].items()
        }
        check_identity(path, "audit", state["identity"], identity)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as reason:
        raise CheckpointError(f"{path} is damaged; {reason}; --overwrite begins again") from reason
    return Tally(state["batches"], state["seconds"], parts)


def check_identity(path: Path, what: str, stored: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` if what was left unfinished at `path` is of another model, text or setting."""
    changed = sorted(key for key in identity if stored.get(key) != identity[key])
    if changed:
        raise CheckpointError(
            f"{path.parent} holds an unfinished {what} with another {', '.join(changed)}; "
            "repeat its command, or begin again with --overwrite"
        )


def _vectors(found: LayerStatistics) -> dict[str, Tensor]:
    """All tensors of the counts of one place, by name."""
    slopes = found.deep.slopes if found.deep else None
    parts = ((found, _VECTORS), (found.deep, _DEEP_VECTORS), (slopes, _SLOPE_VECTORS))
    return {name: getattr(part, name) for part, names in parts if part is not None for name in names}


def _numbers(found: LayerStatistics) -> dict[str, Any]:
    """What of the counts of one place is no tensor."""
    return {
        "tokens": found.tokens,
        "z_known": found.z_known,
        "sequences": found.deep.sequences if found.deep else None,
        "slopes": found.deep is not None and found.deep.slopes is not None,
    }


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _restored(numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LayerStatistics:
    """What `_vectors` and `_numbers` hold of one place."""
    slopes, deep = None, None
    if numbers["slopes"]:
        slopes = SlopeStatistics(**{name: tensors[name] for name in _SLOPE_VECTORS})
    if numbers["sequences"] is not None:
        vectors = {name: tensors[name] for name in _DEEP_VECTORS}
        deep = DeepStatistics(sequences=numbers["sequences"], slopes=slopes, **vectors)
    vectors = {name: tensors[name] for name in _VECTORS}
    return LayerStatistics(numbers["tokens"], deep=deep, z_known=numbers["z_known"], **vectors)
