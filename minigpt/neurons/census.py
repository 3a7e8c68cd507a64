"""The table of neurons: what was counted of each one, and the verdict on it.

The flow of a verdict, each neuron taking the first that fits:

    certified   its weights prove that no input wakes it (`certificate.py`)
    dead        h was exactly 0 on every token probed; another text may wake it
    rare        it fired, but on fewer than one token in 10,000
    alive       anything else, however little it contributes
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minigpt.base.health_columns import RARE_RATE
from minigpt.model import Block
from minigpt.neurons.certificate import certified_dead, inapplicable, largest_computed_preactivation
from minigpt.neurons.health import contribution, outgoing_norms
from minigpt.neurons.layer_statistics import LayerStatistics

VERDICTS = ("certified", "dead", "rare", "alive")
COLUMNS = (
    "layer", "neuron", "verdict", "firing_rate", "open_rate", "sequence_rate", "mean_h", "sd_h", "mean_abs_h", "max_z",
    "outgoing_norm", "contribution", "certificate_bound",
)  # fmt: skip


@dataclass(frozen=True)
class NeuronTable:
    """One layer, neuron by neuron; `certificate_bound` is None where no certificate exists.

    Shapes: every tensor (F,), float64, on the CPU; `verdict` has F words.
    """

    layer: int
    verdict: list[str]
    firing_rate: Tensor
    open_rate: Tensor
    sequence_rate: Tensor
    mean_h: Tensor
    sd_h: Tensor
    mean_abs_h: Tensor
    max_z: Tensor
    outgoing_norm: Tensor
    contribution: Tensor
    certificate_bound: Tensor | None

    def verdicts(self) -> dict[str, int]:
        """How many neurons have each verdict."""
        counted = Counter(self.verdict)
        return {verdict: counted[verdict] for verdict in VERDICTS}


def neuron_table(layer: int, block: Block, counted: LayerStatistics, dtype: str) -> NeuronTable:
    """Tabulate what a deep probe counted of one layer, and judge every neuron."""
    assert counted.deep is not None, "the table needs a deep probe"
    outgoing = outgoing_norms(block.mlp)
    return NeuronTable(
        layer=layer,
        verdict=judge(counted, certified_dead(block, dtype)),
        firing_rate=counted.fired.double() / counted.tokens,
        open_rate=counted.opened.double() / counted.tokens,
        sequence_rate=counted.deep.fired_sequences.double() / counted.deep.sequences,
        mean_h=counted.sum_h / counted.tokens,
        sd_h=contribution(counted, torch.ones_like(outgoing)),
        mean_abs_h=counted.sum_abs_h / counted.tokens,
        max_z=counted.deep.max_z,
        outgoing_norm=outgoing,
        contribution=contribution(counted, outgoing),
        certificate_bound=largest_computed_preactivation(block, dtype) if inapplicable(block) is None else None,
    )


def as_csv(tables: Sequence[NeuronTable]) -> str:
    """All neurons as CSV, one row each; a figure that does not exist is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for table in tables:
        absent = [""] * len(table.verdict)
        columns = [getattr(table, name) for name in COLUMNS[3:]]
        figures = [absent if column is None else column.tolist() for column in columns]
        for neuron, row in enumerate(zip(table.verdict, *figures, strict=True)):
            writer.writerow([table.layer, neuron, *row])
    return text.getvalue()


def judge(counted: LayerStatistics, certified: Tensor | None) -> list[str]:
    """The verdict on each neuron; `certified` (F,) says which are proven dead, None that none can be."""
    dead = counted.fired == 0
    rare = ~dead & (counted.fired < RARE_RATE * counted.tokens)
    proven = torch.zeros_like(dead) if certified is None else certified
    assert not (proven & ~dead).any(), "a neuron fired that was proven dead"
    number = torch.where(proven, 0, torch.where(dead, 1, torch.where(rare, 2, 3)))
    return [VERDICTS[index] for index in number.tolist()]
