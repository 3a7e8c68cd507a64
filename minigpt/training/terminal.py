"""What a training shows in the terminal: results on stdout, a progress bar on stderr that is silent off a terminal."""

from __future__ import annotations

import sys

from tqdm import tqdm

from minigpt.neurons.bounds import TRUSTED_TOKENS
from minigpt.neurons.health import DORMANT_THRESHOLDS, LayerHealth
from minigpt.training.evaluation import Evaluation
from minigpt.training.step import StepResult

EMULATION = "this machine has no bfloat16 of its own and emulates it, which is slow"

_COLUMNS = ("layer", "activation", "neurons", "dead", "bound", "z never > 0", "h nonzero", "rare", "always")


class Terminal:
    """A progress bar over the steps, with lines of results printed above it."""

    def __init__(self, steps: int, start: int, quiet: bool = False) -> None:
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
        """Print one line of results above the bar."""
        if not self.quiet:
            self._bar.write(line, file=sys.stdout)
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
        """Leave the bar as it stands."""
        self._bar.close()


def evaluation_line(evaluation: Evaluation, prefix: str = "") -> str:
    """One line: loss, perplexity, bits per byte and the dead share of each layer, marked if drawn from few tokens."""
    dead = " ".join(f"{100 * layer.dead_fraction:.1f}" for layer in evaluation.layers)
    mark = "" if evaluation.tokens >= TRUSTED_TOKENS else f" (! only {evaluation.tokens:,} tokens)"
    return (
        f"{prefix}{evaluation.split} {evaluation.loss:.3f}  ppl {short(evaluation.perplexity)}  "
        f"bits/byte {evaluation.bits_per_byte:.2f}  dead {dead} %{mark}"
    )


def short(value: float) -> str:
    """Three significant digits, without an exponent for what fits into a column."""
    return f"{value:.3g}" if value < 1000 or value >= 1e6 else f"{value:,.0f}"


def health_table(layers: list[LayerHealth]) -> str:
    """A table of the health of every layer, with what its columns mean below."""
    tau = f"{DORMANT_THRESHOLDS[1]:g}"
    rows = [[*_COLUMNS, f"dormant {tau}", "inert"]]
    for layer in layers:
        shares = [layer.never_positive_fraction, layer.density, layer.rare_fraction, layer.always_fraction]
        shares += [layer.dormant_fraction[tau], layer.inert_fraction]
        rows.append(
            [str(layer.layer), layer.activation, str(layer.neurons), _percent(layer.dead_fraction)]
            + [f"{layer.dead_upper:.1e}"]
            + [_percent(share) for share in shares]
        )
    lines = aligned(rows)
    tokens = layers[0].tokens
    mark = "" if tokens >= TRUSTED_TOKENS else f" (! fewer than {TRUSTED_TOKENS:,}: take these figures as hints)"
    lines += [
        f"dead: h = 0 on all {tokens:,} tokens{mark}. bound: a higher firing rate would have been seen (95 %).",
        f"h nonzero: mean share of tokens. dormant: mean |h| <= {tau} of the layer's. inert: writes <= 2.5 % of it.",
    ]
    return "\n".join(lines)


def aligned(rows: list[list[str]]) -> list[str]:
    """One line for each row, the cells of a column flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def print_notice(line: str) -> None:
    """Tell the user something that is neither a result nor an error."""
    tqdm.write(line, file=sys.stderr)
