"""The night sky of a model as data: what is known of each neuron's firing, read from what a run or an audit left.

That is `neurons.csv` and the deaths in the log of a run, or `audit.csv`. Each neuron becomes one
character of `CODES`, so that a million of them are drawn, embedded and binned cheaply.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from minigpt.base.errors import CheckpointError
from minigpt.base.reading import read_bytes
from minigpt.report.death_tables import DIED, evenly_picked, life_events, touched, watched
from minigpt.report.figures import Record

CODES = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
"""A: dead; B: alive, rate unknown; the others are firing rates, ten to a decade, the last one from 10^-0.1 to 1."""
DEAD, UNKNOWN = CODES[0], CODES[1]
FIRST_COMMON = len(CODES) - 41
"""Place in `CODES` of the rate of one token in 10,000: a neuron that fires less often is rare."""
MAX_CELLS = 50_000
_PER_DECADE = 10
_MAX_FRAMES = 60
_MAX_TOGGLES = 60_000
_OPEN = 0.9995  # a layer whose neurons all fire at least this often is told apart by open gates instead


@dataclass(frozen=True)
class SkyLayer:
    """One row of the sky: a character of `CODES` for every neuron; `gates` if the rates are those of z > 0."""

    layer: int
    codes: str
    gates: bool = False

    @property
    def dead(self) -> int:
        """How many of its neurons are dead."""
        return self.codes.count(DEAD)


@dataclass(frozen=True)
class Frame:
    """What changed at a step: of each layer the neurons that died or came back."""

    step: int
    changed: list[tuple[int, list[int]]]


@dataclass(frozen=True)
class Sky:
    """All layers, and the deaths while training from the first frame, in which nothing is dead."""

    layers: list[SkyLayer]
    frames: list[Frame] = field(default_factory=list)

    @property
    def neurons(self) -> int:
        """How many there are."""
        return sum(len(layer.codes) for layer in self.layers)

    @property
    def dead(self) -> int:
        """How many of them are dead."""
        return sum(layer.dead for layer in self.layers)

    @property
    def measured(self) -> bool:
        """Whether firing rates are known, and not only who is dead."""
        return any(layer.codes.strip(DEAD + UNKNOWN) for layer in self.layers)


def read_layers(path: Path) -> list[SkyLayer]:
    """The layers of a table of neurons, as `minigpt neurons` or `minigpt audit` writes it.

    Raises:
        CheckpointError: it is no such table.
    """
    try:
        rows = csv.reader(io.StringIO(read_bytes(path, CheckpointError).decode("utf-8")))
        header = next(rows)
        places = [header.index(name) for name in ("layer", "neuron", "verdict", "firing_rate", "open_rate")]
        by_layer = groupby(map(itemgetter(*places), rows), key=itemgetter(0))
        return [_layer(int(layer), list(neurons)) for layer, neurons in by_layer]
    except (StopIteration, ValueError, IndexError) as reason:
        raise CheckpointError(f"{path} is no table of neurons; {reason}; make it again") from reason


def _layer(number: int, rows: Sequence[tuple[str, ...]]) -> SkyLayer:
    """Brightness is the firing rate; where every neuron fires always, as if smooth, how often z > 0."""
    if [row[1] for row in rows] != list(map(str, range(len(rows)))):
        raise ValueError(f"the neurons of layer {number} are not numbered from 0 on")
    silent = [row[2] in ("dead", "certified") for row in rows]
    rates = [float(row[3]) for row in rows]
    gates = all(row[4] for row in rows) and all(dead or rate > _OPEN for dead, rate in zip(silent, rates, strict=True))
    shown = [float(row[4]) for row in rows] if gates else rates
    return SkyLayer(number, "".join(map(_code, silent, shown)), gates)


def _code(dead: bool, rate: float) -> str:
    if dead:
        return DEAD
    decade = math.floor(_PER_DECADE * math.log10(rate) + 1e-9) if rate > 0 else -99
    return CODES[min(max(2, len(CODES) - 1 + decade), len(CODES) - 1)]


def rate_of(code: str) -> float:
    """The middle of the rates that a code is given."""
    return min(1.0, 10 ** ((CODES.index(code) - len(CODES) + 1.5) / _PER_DECADE))


# ------------------------------------------------------------------------------------------------- while training


def sky_of_log(records: list[Record]) -> Sky | None:
    """Who was dead at the last evaluation, without rates; None if the training did not watch."""
    evaluations = [record for record in records if record["kind"] == "eval"]
    if not evaluations or not watched(records):
        return None
    widths = [layer["neurons"] for layer in evaluations[-1]["layers"]]
    dead: list[set[int]] = [set() for _ in widths]
    for _, changed in _toggles(records, len(widths)):
        for layer, neurons in changed:
            dead[layer] ^= neurons
    layers = [
        SkyLayer(number, "".join(DEAD if neuron in silent else UNKNOWN for neuron in range(width)))
        for number, (width, silent) in enumerate(zip(widths, dead, strict=True))
    ]
    return Sky(layers, frames_of_log(records, widths))


def frames_of_log(records: list[Record], widths: Sequence[int]) -> list[Frame]:
    """The deaths and revivals of a log in at most `_MAX_FRAMES` steps; none if they are more than a page can hold.

    The first frame is the first evaluation; between two frames that are shown, changes are joined.
    """
    evaluations = [record for record in records if record["kind"] == "eval"]
    if not watched(records) or len(evaluations) < 2:
        return []
    shown = [record["step"] for record in evenly_picked(evaluations, _MAX_FRAMES)]
    frames, waiting = [], _toggles(records, len(widths))
    for step in dict.fromkeys(shown):
        joined: dict[int, set[int]] = {}
        while waiting and waiting[0][0] <= step:
            for layer, neurons in waiting.pop(0)[1]:
                joined[layer] = joined.get(layer, set()) ^ {neuron for neuron in neurons if neuron < widths[layer]}
        frames.append(Frame(step, [(layer, sorted(neurons)) for layer, neurons in sorted(joined.items()) if neurons]))
    toggles = sum(len(neurons) for frame in frames for _, neurons in frame.changed)
    return frames if 0 < toggles <= _MAX_TOGGLES else []


def _toggles(records: list[Record], layers: int) -> list[tuple[int, list[tuple[int, set[int]]]]]:
    """(step, [(layer, neurons that changed sides)]) in the order of the log; what changes nothing is left out."""
    dead: list[set[int]] = [set() for _ in range(layers)]
    found = []
    for event in life_events(records):
        changed = []
        for layer, neurons in touched(event):
            if layer < layers:
                turned = set(neurons) - dead[layer] if event["event"] == DIED else dead[layer].intersection(neurons)
                dead[layer] ^= turned
                changed.append((layer, turned))
        found.append((event["step"], changed))
    return found
