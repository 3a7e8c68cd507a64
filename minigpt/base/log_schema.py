"""What a line of a run's log, `metrics.jsonl`, and the progress in a checkpoint must hold: checked when they are read.

Whoever reads a record that passed may take its fields by name. A record may hold more than is asked for here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Check = Callable[[Any], bool]
Schema = dict[str, tuple[str, Check]]

_LIMIT = 1 << 63
_MOST_LAYERS = 1 << 16


def _is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) < _LIMIT


def _is_number(value: Any) -> bool:
    return _is_whole(value) or type(value) is float


def _is_figure(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_list(value: Any, of: Check) -> bool:
    return isinstance(value, list) and all(map(of, value))


def _is_layer(value: Any) -> bool:
    return isinstance(value, dict) and not _problem(value, _LAYER)


WHOLE: tuple[str, Check] = ("a whole number", _is_whole)
COUNT: tuple[str, Check] = ("a whole number from 0", lambda value: _is_whole(value) and value >= 0)
INDEX: tuple[str, Check] = ("the number of a layer", lambda value: _is_whole(value) and 0 <= value < _MOST_LAYERS)
NUMBER: tuple[str, Check] = ("a number", _is_number)
FIGURE: tuple[str, Check] = ("a number or null", _is_figure)
TEXT: tuple[str, Check] = ("text", lambda value: isinstance(value, str))
COUNTS: tuple[str, Check] = ("a list of whole numbers", lambda value: _is_list(value, _is_whole))
TEXTS: tuple[str, Check] = ("a list of texts", lambda value: _is_list(value, lambda one: isinstance(one, str)))
FIGURES: tuple[str, Check] = ("a list of numbers or nulls", lambda value: _is_list(value, _is_figure))
LAYERS: tuple[str, Check] = ("a list of layers", lambda value: _is_list(value, _is_layer))

_LAYER: Schema = {"layer": INDEX, "activation": TEXT, "neurons": COUNT, "dead_fraction": FIGURE}
_EVALUATION: Schema = {
    "step": COUNT,
    "split": TEXT,
    "loss": FIGURE,
    "perplexity": FIGURE,
    "bits_per_byte": FIGURE,
    "tokens": COUNT,
    "dead_fraction": FIGURE,
    "layers": LAYERS,
}
_CHANGE: Schema = {"layer": INDEX, "neurons": COUNTS}
_KINDS: dict[str, Schema] = {
    "train": {
        "step": COUNT,
        "loss": FIGURE,
        "lr": FIGURE,
        "grad_norm": FIGURE,
        "tokens": COUNT,
        "tokens_per_second": FIGURE,
    },
    "eval": _EVALUATION,
    "event": {"event": TEXT, "step": COUNT},
}
_EVENTS: dict[str, Schema] = {
    "neurons_died": _CHANGE,
    "neurons_revived": _CHANGE,
    "neurons_recycled": {"counts": COUNTS},
    "neurons_killed": {"counts": COUNTS},
    "test_opened": _EVALUATION,
    "cohort": {"size": COUNT, "members": TEXTS},
}
_IF_THERE: Schema = {"silent": FIGURES, "trapped": FIGURES, "again": COUNTS, "last_fired": FIGURES}
_PROGRESS: Schema = {
    "step": COUNT,
    "tokens": COUNT,
    "seconds": NUMBER,
    "evaluated_step": WHOLE,
    "committed_step": WHOLE,
    "recycled_step": WHOLE,
    "best_step": WHOLE,
    "best_loss": FIGURE,
    "evaluations_without_gain": COUNT,
    "log_length": COUNT,
}


def log_problems(records: Iterable[Any]) -> list[str]:
    """Of each record of a log which field is missing or does not fit, in words; an empty string if none."""
    problems = []
    layers = None
    for record in records:
        found = _record_problem(record)
        if not found and record["kind"] == "eval":
            layers = layers or len(record["layers"])
            if len(record["layers"]) != layers:
                found = f"layers has {len(record['layers'])} of them; {layers} are needed, as in the evaluations before"
        problems.append(found)
    return problems


def progress_problem(progress: dict[str, Any]) -> str:
    """Which field of a checkpoint's progress is missing, unknown or does not fit; an empty string if none."""
    unknown = sorted(progress.keys() - _PROGRESS.keys())
    return f"{unknown[0]} is unknown" if unknown else _problem(progress, _PROGRESS)


def _record_problem(record: Any) -> str:
    if not isinstance(record, dict):
        return f"it is {record!r:.40}; an object is needed"
    kind, event = record.get("kind"), record.get("event")
    if not isinstance(kind, str) or kind not in _KINDS:
        return f"kind is {kind!r:.40}; allowed: {', '.join(_KINDS)}"
    more = _EVENTS.get(event, {}) if kind == "event" and isinstance(event, str) else {}
    there = {name: wanted for name, wanted in _IF_THERE.items() if name in record}
    return _problem(record, _KINDS[kind] | more | there)


def _problem(record: dict[str, Any], schema: Schema) -> str:
    for name, (wanted, fits) in schema.items():
        if name not in record:
            return f"{name} is missing"
        if not fits(record[name]):
            return f"{name} is {record[name]!r:.40}; {wanted} is needed"
    return ""
