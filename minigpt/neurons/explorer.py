"""What single neurons react to and write: the passages that excite them most, the tokens they promote, and their z.

Only a bounded number of neurons of each layer is looked at: the strongest contributors, a spread over the rest, and
the dead ones by number, so that the result stays small for any model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minigpt.model import GPT
from minigpt.neurons.anatomy import activation_curve, biases, z_histograms
from minigpt.neurons.census import NeuronTable
from minigpt.neurons.hooks import hooked
from minigpt.neurons.knockout import Batch
from minigpt.neurons.probe import plain_blocks

STRONGEST = 16
SPREAD = 16
MOST_DEAD = 64
PASSAGES = 3
PASSAGE_TOKENS = 64
PROMOTED = 6
_DIGITS = 4


@contextlib.contextmanager
def find_passages(model: GPT) -> Iterator[Passages]:
    """Note, for all that the model reads inside this block, in which sequences each neuron's |h| was largest."""
    blocks = plain_blocks(model)
    tops = [_Tops(block.mlp.d_ff, model.device) for block in blocks]
    with hooked((block.mlp.act, top.note) for block, top in zip(blocks, tops, strict=True)):
        yield Passages(tops)


class Passages:
    """Where each neuron was most excited; O(F) memory a layer."""

    def __init__(self, tops: list[_Tops]) -> None:
        self._tops = tops

    def sequences(self, layer: int, neuron: int) -> list[int]:
        """Ordinals of the sequences that excited a neuron most, the strongest first; none if none did."""
        top = self._tops[layer]
        pairs = zip(top.strength[:, neuron].tolist(), top.sequence[:, neuron].tolist(), strict=True)
        return [sequence for strength, sequence in pairs if strength > 0]


class _Tops:
    """The largest |h| of each neuron, and the sequences they were in: both (PASSAGES,F)."""

    def __init__(self, neurons: int, device: torch.device) -> None:
        self.seen = 0
        self.strength = torch.zeros(PASSAGES, neurons, device=device)
        self.sequence = torch.zeros(PASSAGES, neurons, dtype=torch.int64, device=device)

    @torch.no_grad()
    def note(self, activation: nn.Module, inputs: tuple[Tensor, ...], h: Tensor) -> None:
        """A hook: take in the values of one batch (B,T,F)."""
        strength = torch.cat([self.strength, h.abs().amax(1).float()])  # (PASSAGES+B,F)
        ordinal = self.seen + torch.arange(h.size(0), device=h.device)[:, None].expand(-1, h.size(2))
        self.seen += h.size(0)
        self.strength, places = strength.topk(PASSAGES, dim=0)
        self.sequence = torch.cat([self.sequence, ordinal]).gather(0, places)


@torch.no_grad()
def explore(
    model: GPT,
    tables: Sequence[NeuronTable],
    found: Passages,
    batches: Iterable[Batch],
    token_text: Callable[[int], str],
) -> list[dict[str, Any]]:
    """Describe the chosen neurons of every layer; `batches` must be those in which the passages were found."""
    chosen = [choose_neurons(table) for table in tables]
    places = [
        _Place(table.layer, neuron, sequence)
        for table, neurons in zip(tables, chosen, strict=True)
        for neuron in neurons
        for sequence in found.sequences(table.layer, neuron)
    ]
    passages = _read(model, batches, places, token_text)
    kept = [[*neurons, *_dead(table)] for table, neurons in zip(tables, chosen, strict=True)]
    histograms = z_histograms(model, kept, batches)
    layers = []
    for table, neurons, block, shapes in zip(tables, kept, plain_blocks(model), histograms, strict=True):
        living = len(neurons) - len(_dead(table))
        promoted = [_promoted(scores, token_text) for scores in promotions(model, table.layer, neurons[:living])]
        promoted += [{"promoted": [], "suppressed": []}] * (len(neurons) - living)
        found_here = [
            {
                **_head(table, neuron),
                "max_z": table.max_z[neuron].item(),
                "bias": bias,
                "z": shape,
                **words,
                "passages": [
                    passages[_Place(table.layer, neuron, place)] for place in _sequences(found, table, neuron)
                ],
            }
            for neuron, words, bias, shape in zip(neurons, promoted, biases(block, neurons), shapes, strict=True)
        ]
        layers.append({"layer": table.layer, "curve": activation_curve(block), "neurons": found_here})
    return layers


def _dead(table: NeuronTable) -> list[int]:
    """The dead neurons to look at, by number."""
    return [neuron for neuron, verdict in enumerate(table.verdict) if verdict in ("certified", "dead")][:MOST_DEAD]


def _sequences(found: Passages, table: NeuronTable, neuron: int) -> list[int]:
    """Where a living neuron was most excited; nowhere for a dead one."""
    return found.sequences(table.layer, neuron) if table.verdict[neuron] in ("rare", "alive") else []


def choose_neurons(table: NeuronTable) -> list[int]:
    """The living neurons to look at: the strongest contributors, and as many spread evenly over the rest."""
    order = table.contribution.argsort(descending=True, stable=True).tolist()
    living = [neuron for neuron in order if table.verdict[neuron] in ("rare", "alive")]
    rest = living[STRONGEST:]
    picked = sorted({round(place) for place in torch.linspace(0, len(rest) - 1, min(SPREAD, len(rest))).tolist()})
    return living[:STRONGEST] + [rest[place] for place in picked]


def promotions(model: GPT, layer: int, neurons: list[int]) -> Tensor:
    """How much each neuron's write raises each token's logit, past the final norm's gain: (neurons,V).

    What later blocks make of the write, and the norm's division, are left out: only the order of tokens is meant.
    """
    written = model.blocks[layer].mlp.w_out.weight[:, neurons].T  # (neurons,C)
    if isinstance(model.ln_f, nn.LayerNorm):
        written = written - written.mean(dim=1, keepdim=True)
    gain = getattr(model.ln_f, "weight", None)
    return (written if gain is None else written * gain).float() @ model.lm_head.weight.float().T


class _Place(NamedTuple):
    """One neuron on one sequence."""

    layer: int
    neuron: int
    sequence: int


def _read(
    model: GPT, batches: Iterable[Batch], places: Sequence[_Place], token_text: Callable[[int], str]
) -> dict[_Place, dict[str, Any]]:
    """Run the model once more over the sequences in question alone, and keep what their neurons did there."""
    by_sequence: dict[int, list[_Place]] = {}
    for place in places:
        by_sequence.setdefault(place.sequence, []).append(place)
    passages, first = {}, 0
    for inputs, _ in batches:
        rows = [row for row in range(len(inputs)) if first + row in by_sequence]
        hidden = _hidden(model, inputs[rows]) if rows else []
        for number, row in enumerate(rows):
            for place in by_sequence[first + row]:
                values = hidden[place.layer][number, :, place.neuron]
                passages[place] = _shaded(inputs[row].tolist(), values.tolist(), token_text)
        first += len(inputs)
    return passages


def _hidden(model: GPT, ids: Tensor) -> list[Tensor]:
    """h (B,T,F) of every layer, on the CPU."""
    kept: list[Tensor] = []
    with hooked((block.mlp.act, lambda module, inputs, h: kept.append(h.cpu())) for block in plain_blocks(model)):
        model(ids.to(model.device))
    return kept


def _head(table: NeuronTable, neuron: int) -> dict[str, Any]:
    return {
        "neuron": neuron,
        "firing_rate": table.firing_rate[neuron].item(),
        "contribution": table.contribution[neuron].item(),
        "verdict": table.verdict[neuron],
    }


def _promoted(scores: Tensor, token_text: Callable[[int], str]) -> dict[str, list[str]]:
    """The tokens raised most and lowered most when h is positive, strongest first."""
    count = min(PROMOTED, len(scores) // 2)
    order = scores.argsort(descending=True).tolist()
    lowered = order[len(order) - count :][::-1]
    return {
        "promoted": [token_text(token) for token in order[:count]],
        "suppressed": [token_text(token) for token in lowered],
    }


def _shaded(ids: list[int], values: list[float], token_text: Callable[[int], str]) -> dict[str, Any]:
    """The stretch of a sequence around its peak: tokens, h at each, and where the peak is."""
    peak = max(range(len(values)), key=lambda place: abs(values[place]))
    first = max(0, min(peak - PASSAGE_TOKENS // 2, len(values) - PASSAGE_TOKENS))
    return {
        "tokens": [token_text(token) for token in ids[first : first + PASSAGE_TOKENS]],
        "values": [_short(value) for value in values[first : first + PASSAGE_TOKENS]],
        "peak": peak - first,
    }


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
