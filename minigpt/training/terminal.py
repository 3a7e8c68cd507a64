"""What a run shows in the terminal: results on stdout, a progress bar on stderr that is silent off a terminal.

The tables of neurons take their columns and legends from `base/health_columns.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minigpt.base import formats
from minigpt.base.health_columns import (
    LAYER,
    NEURONS,
    TRAINING,
    TRUSTED_TOKENS,
    WHICH,
    by_question,
    figures,
    health_tables,
    legend,
    reasons_for_missing,
)
from minigpt.base.tables import Column, Table, terminal_width, wrapped
from minigpt.neurons.health import LayerHealth
from minigpt.training.evaluation import Evaluation
from minigpt.training.step import StepResult

EMULATION = "this machine has no native bfloat16 and emulates it, which is slow"


class Terminal:
    """A progress bar over the steps, with lines of results printed above it."""

    def __init__(self, steps: int, start: int, quiet: bool) -> None:
        self.steps = steps
        self.quiet = quiet
        self._bar = tqdm(
            total=steps,
            initial=start,
            disable=True if quiet else None,
            file=sys.stderr,
            unit="step",
            dynamic_ncols=True,
        )

    def say(self, line: str) -> None:
        """Print one line of results above the bar; a window that is too narrow shows it in several."""
        if not self.quiet:
            text = wrapped(line, terminal_width()) if sys.stdout.isatty() else line
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def step(self, result: StepResult, tokens_per_second: float | None) -> None:
        """Move the bar on; its figures are renewed when the speed was measured."""
        if tokens_per_second is not None:
            self._bar.set_postfix_str(f"loss {result.loss:.3f}, {tokens_per_second:,.0f} tok/s", refresh=False)
        self._bar.update()

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Print the line of one evaluation."""
        self.say(evaluation_line(evaluation, f"step {step}/{self.steps}  "))

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def evaluation_line(evaluation: Evaluation, prefix: str = "") -> str:
    """One line: loss, perplexity, bits per byte and the dead share of each layer, marked if drawn from few tokens."""
    dead = formats.percents([layer.dead_fraction for layer in evaluation.layers])
    mark = "" if evaluation.tokens >= TRUSTED_TOKENS else f" (! only {evaluation.tokens:,} tokens)"
    loss, bits = formats.fixed(evaluation.loss, 3), formats.fixed(evaluation.bits_per_byte, 2)
    perplexity = formats.perplexity(evaluation.perplexity)
    return f"{prefix}{evaluation.split} {loss}  ppl {perplexity}  bits/byte {bits}  dead {dead}{mark}"


def health_table(layers: list[LayerHealth]) -> str:
    """A table of the health of every layer, with what its columns mean below."""
    tokens = layers[0].tokens
    mark = "" if tokens >= TRUSTED_TOKENS else f" (! fewer than {TRUSTED_TOKENS:,}: take these figures as hints)"
    shown = figures(TRAINING)
    which, counted = WHICH, f"Counted on {tokens:,} tokens{mark}."
    if len({layer.activation for layer in layers}) == 1:  # without its column the table fits 80 characters
        which, counted = WHICH[1:], f"{layers[0].activation}, counted on {tokens:,} tokens{mark}."
    columns = (LAYER, *which, *(figure.column() for figure in shown))
    return Table("", columns, layers, (f"{counted} {legend(shown)}",)).terminal()


def diagnosis_text(run: Path, record: dict[str, Any], answer: Sequence[str]) -> str:
    """What `neurons.json` holds: the answer in words, then tables, each with what its columns mean below."""
    width = terminal_width()
    parts = [*_counted_on(run, record), *([" ".join(answer)] if answer else [])]
    missing = [wrapped(line, width) for line in _missing(record["layers"])]
    tables = [table.terminal() for table in _neuron_tables(record)]
    return "\n\n".join([*(wrapped(part, width) for part in parts), *tables, *filter(None, ["\n".join(missing)])])


def _counted_on(run: Path, record: dict[str, Any]) -> list[str]:
    tokens = f"{record['tokens']:,} tokens in {record['sequences']:,} sequences"
    line = f"{run}, step {record['step']}, on {tokens} of {record['corpus']} ({record['split']})"
    if record["tokens"] >= TRUSTED_TOKENS:
        return [line]
    return [line, f"! fewer than {TRUSTED_TOKENS:,} tokens: every figure that carries the mark is only a hint"]


def _neuron_tables(record: dict[str, Any]) -> Iterable[Table]:
    mark = "" if record["tokens"] >= TRUSTED_TOKENS else "!"
    *tables, expendable = health_tables(by_question(NEURONS), record["layers"], record["model"], mark=mark)
    yield from tables
    yield replace(expendable, notes=(f"{expendable.notes[0]} all: from all layers at once, within the same limit.",))
    if record["model"]["least_active_zeroed"]:
        yield _least_active_table(record["model"]["least_active_zeroed"])


def _least_active_table(points: Sequence[dict[str, Any]]) -> Table:
    columns = (
        Column("share", "share", formats.percent),
        Column("perplexity", "perplexity", _perplexity),
        Column("random ones", "random_perplexity", _perplexity),
    )
    note = "Perplexity with this share of all neurons at 0: those that do least beside their layer's, or random ones."
    return Table("What would it cost?", columns, points, (note,))


def _perplexity(value: float | None) -> str:
    """With a digit more than elsewhere, since it is compared before and after."""
    return formats.perplexity(value, digits=5)


def _missing(layers: Sequence[dict[str, Any]]) -> list[str]:
    """Why figures are missing, each reason once."""
    return [
        f"{formats.MISSING} no {key.replace('_', ' ')} in layer {where}: {reason}"
        for key, where, reason in reasons_for_missing(layers)
    ]


def print_notice(line: str) -> None:
    """Tell the user something that is neither a result nor an error."""
    tqdm.write(line, file=sys.stderr)
