"""`explorer.json` made ready for the page: text made visible, numbers shortened, and small enough to open at once.

The script `explorer.js` shows what this returns and computes nothing but colours.
"""

from __future__ import annotations

import json
from typing import Any

from minigpt.base.formats import percent, visible
from minigpt.report.anatomy_words import Lives, sentences
from minigpt.report.figures import Record

MAX_BYTES = 2_000_000
_FEWEST_PASSAGES = 3
_RARE = 1e-3  # below this share a percentage says too little
_SHOWN_SPACES = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥"})


def explorer_data(explorer: Record, tokens: int, lived: Lives | None) -> Record:
    """What the script needs of `explorer.json`; if that is too much, first fewer passages each, then fewer neurons.

    `tokens` is what the neurons were counted on, `lived` what the log tells of them.
    """
    whole = [_layer(layer, tokens, lived) for layer in explorer["layers"]]
    neurons = [neuron for layer in whole for neuron in layer["neurons"]]
    passages, stride = max((len(neuron["passages"]) for neuron in neurons), default=0), 1
    layers, trimmed = whole, False
    while _size(layers) > MAX_BYTES and stride < len(neurons):
        passages, stride = (passages - 1, 1) if passages > _FEWEST_PASSAGES else (passages, stride + 1)
        layers, trimmed = [_trimmed(layer, passages, stride) for layer in whole], True
    return {"layers": layers, "trimmed": trimmed}


def _layer(layer: Record, tokens: int, lived: Lives | None) -> Record:
    neurons = [
        {**_neuron(neuron), "why": sentences(layer["layer"], neuron, tokens, lived) if tokens else []}
        for neuron in layer["neurons"]
    ]
    return {"layer": layer["layer"], "curve": layer.get("curve"), "neurons": neurons}


def _trimmed(layer: Record, passages: int, stride: int) -> Record:
    """A layer with only every `stride`-th neuron, and of each only the first passages."""
    neurons = [{**neuron, "passages": neuron["passages"][:passages]} for neuron in layer["neurons"][::stride]]
    return {**layer, "neurons": neurons}


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8"))


def _neuron(neuron: Record) -> Record:
    return {
        "neuron": neuron["neuron"],
        "verdict": visible(str(neuron["verdict"])),
        "rate": _short(neuron["firing_rate"]),
        "firing": _firing(neuron["firing_rate"]),
        "contribution": _short(neuron["contribution"]),
        "z": neuron.get("z"),
        "promoted": [shown_token(token) for token in neuron.get("promoted") or []],
        "suppressed": [shown_token(token) for token in neuron.get("suppressed") or []],
        "passages": [_passage(passage) for passage in neuron.get("passages") or []],
    }


def _passage(passage: Record) -> Record:
    return {
        "tokens": [_in_line(token) for token in passage["tokens"]],
        "values": [_short(value) for value in passage["values"]],
        "peak": passage["peak"],
    }


def shown_token(token: str) -> str:
    """A token on its own, with its spaces and breaks as signs."""
    return visible(token.translate(_SHOWN_SPACES))


def _in_line(token: str) -> str:
    """A token within a passage, where only breaks need a sign."""
    return visible(token.replace("\n", "↵").replace("\t", "⇥"))


def _firing(share: float | None) -> str:
    if share is None or share == 0 or share >= _RARE:
        return "never" if share == 0 else percent(share)
    return f"1 token in {1 / share:,.0f}"


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")
