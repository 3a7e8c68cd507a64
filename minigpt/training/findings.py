"""What an examination of neurons shows in the terminal: three tables by layer, each with its columns in plain words.

All is read from the record that `neurons.json` holds. A figure that does not exist is "–"; the reason stands below.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

from minigpt.neurons.bounds import TRUSTED_TOKENS
from minigpt.neurons.expendable import ALLOWED_RISE
from minigpt.neurons.health import DORMANT_THRESHOLDS
from minigpt.training.terminal import aligned

_ABSENT = "–"
_TAU = f"{DORMANT_THRESHOLDS[1]:g}"
_DEAD_COLUMNS = ["layer", "activation", "neurons", "proven", "dead", "estimate", "rare", "bound", "by sequence"]
_ACTIVE_COLUMNS = [
    "layer",
    "h nonzero",
    "always",
    "z never > 0",
    f"dormant {_TAU}",
    "flat",
    "linear",
    "both",
    "trapped",
]
_WORTH_COLUMNS = ["layer", "inert", "effective width", "expendable", "at random", "lowest"]


def findings(record: dict[str, Any]) -> str:
    """All tables of one examination, as text."""
    lines = [_text_line(record), ""]
    for table in (_dead_table, _activity_table, _worth_table):
        lines += [*table(record), ""]
    return "\n".join([*lines, *_model_lines(record["model"]), *_missing_lines(record["layers"])]).rstrip()


def _text_line(record: dict[str, Any]) -> str:
    tokens = f"{record['tokens']:,} tokens in {record['sequences']:,} sequences"
    line = f"step {record['step']}, on {tokens} of {record['corpus']} ({record['split']})"
    if record["tokens"] >= TRUSTED_TOKENS:
        return line
    return f"{line}\n! fewer than {TRUSTED_TOKENS:,} tokens: every figure that carries the mark is only a hint"


def _dead_table(record: dict[str, Any]) -> list[str]:
    rows = [_DEAD_COLUMNS]
    for layer in record["layers"]:
        percent = _marked(layer["tokens"])
        silent = layer["chao1"]
        rows.append(
            [
                str(layer["layer"]),
                layer["activation"],
                str(layer["neurons"]),
                percent(layer["certified_dead_fraction"]),
                percent(layer["dead_fraction"]),
                f"{silent['truly_dead']:.0f} of {silent['never']}",
                percent(layer["rare_fraction"]),
                f"{layer['dead_upper']:.1e}",
                f"{layer['dead_upper_sequences']:.1e}",
            ]
        )
    return [
        *aligned(rows),
        "proven: dead for every input, by the weights alone. dead: h = 0 on all tokens counted, proven or not.",
        "estimate: how many of them never fire at all; the others would be met in more text (Chao). rare: fires, but",
        "on less than one token in 10,000. bound: a neuron that fires more often would have been seen (95 %, for the",
        "whole layer), were tokens independent; they are not, so also by sequence: one that fires in more of them.",
    ]


def _activity_table(record: dict[str, Any]) -> list[str]:
    rows = [_ACTIVE_COLUMNS]
    for layer in record["layers"]:
        shares = [layer["density"], layer["always_fraction"], layer["never_positive_fraction"]]
        shares += [layer["dormant_fraction"][_TAU], layer["saturated_fraction"], layer["linear_fraction"]]
        shares += [layer["saturated_and_linear_fraction"], layer["trapped_fraction"]]
        rows.append([str(layer["layer"]), *map(_marked(layer["tokens"]), shares)])
    return [
        *aligned(rows),
        f"h nonzero: mean share of tokens. always: on every token. dormant: mean |h| at most {_TAU} of the layer's.",
        "flat: slope under 5 % of the largest on 99 % of tokens (saturated). linear: the slope hardly varies; a dead",
        "neuron is both. trapped: no gradient reached its incoming weights, so it cannot learn.",
    ]


def _worth_table(record: dict[str, Any]) -> list[str]:
    rows = [_WORTH_COLUMNS]
    named = [(str(layer["layer"]), layer) for layer in record["layers"]] + [("all", record["model"])]
    for name, part in named:
        percent, random = _marked(record["tokens"]), part["expendable_random"]
        width = part.get("effective_width")
        rows.append(
            [
                name,
                percent(part.get("inert_fraction")),
                _ABSENT if width is None else f"{width:.0f}",
                percent(part["expendable_fraction"]),
                percent(random["mean"]) if random else _ABSENT,
                percent(random["low"]) if random else _ABSENT,
            ]
        )
    rise = f"{100 * ALLOWED_RISE:g} %"
    return [
        *aligned(rows),
        "inert: writes at most 2.5 % of the layer's mean. effective width: as many equal neurons would share the work",
        f"as unevenly. expendable: so many can be replaced by their means together before perplexity rises {rise}, the",
        "least contributing first; beside it, if they go in a random order: mean and lowest of a few orders.",
    ]


def _model_lines(model: dict[str, Any]) -> list[str]:
    done = model["dead_zeroed"]
    before, after = _perplexity(done["perplexity_before"]), _perplexity(done["perplexity_after"])
    lines = [
        f"the {done['neurons']:,} dead neurons set to 0: perplexity {before} before, {after} after; "
        f"largest change of a logit {done['largest_logit_change']:g}"
    ]
    if not done["neurons"]:
        lines = ["no dead neuron to set to 0"]
    if model["least_active_zeroed"]:
        points = [
            f"{share:.0%}: {_perplexity(lost)} ({_perplexity(random)})"
            for share, lost, random in map(
                itemgetter("share", "perplexity", "random_perplexity"), model["least_active_zeroed"]
            )
        ]
        lines.append(f"perplexity with the least active set to 0 (with as many random ones): {', '.join(points)}")
    return lines


def _perplexity(value: float) -> str:
    return f"{value:.5g}"


def _missing_lines(layers: list[dict[str, Any]]) -> list[str]:
    """Why figures are missing, each reason once."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for layer in layers:
        for name, reason in layer["undefined"].items():
            reasons.setdefault((name, reason), []).append(str(layer["layer"]))
    return [
        f"{_ABSENT} no {name.replace('_', ' ')} in layer {', '.join(where)}: {reason}"
        for (name, reason), where in reasons.items()
    ]


def _marked(tokens: int) -> Callable[[float | None], str]:
    """How to write a share that was counted on so many tokens: with a mark if they are few."""
    mark = "" if tokens >= TRUSTED_TOKENS else "!"

    def percent(share: float | None) -> str:
        return _ABSENT if share is None else f"{100 * share:.1f} %{mark}"

    return percent
