"""What an audit says in plain words, computed from its figures; and what others published on the same kind of model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minigpt.base import formats
from minigpt.base.health_columns import ALLOWED_RISE, INERT_SHARE, TRUSTED_TOKENS, over_layers

# Where computed values of these become exactly 0 (measured); everything else has its zeros at z <= 0 or nowhere.
_ZEROS_MOVE = (
    "GELU in tanh form is exactly 0 below about z = -5.2 in float32, -3.1 in bfloat16 and -3.6 in float16, so its "
    "counts of dead neurons move with the dtype"
)


def answer(record: Mapping[str, Any]) -> str:
    """How many neurons are dead, how sure that is, proven or only unseen, and whether it matters: one paragraph."""
    layers = [layer for layer in record["layers"] if layer["tokens"]]
    return " ".join(
        [
            *_how_many(record, layers),
            *_how_sure(record, layers),
            *_does_it_matter(record, layers),
            *_of_the_first_token(record, layers),
            *_of_the_numbers(record, layers),
        ]
    )


def published(record: Mapping[str, Any]) -> str | None:
    """The comparison with published figures, for a family of models of which there are some."""
    if record["family"] != "opt":
        return None
    layers = [layer for layer in record["layers"] if layer["tokens"]]
    middle = (len(layers) + 1) // 2
    most = max(layers, key=lambda layer: layer["dead_fraction"])
    halves = [over_layers(half, "dead_fraction") for half in (layers[:middle], layers[middle:]) if half]
    return (
        "Published: Voita et al. 2023 (arXiv:2309.04827) found more than 70 % of the neurons dead in some layers of "
        "OPT-66b, counted on more than 20 million tokens; the dead are in the first half of the network, the second is "
        "essentially alive, the share grows with the size of the model, and OPT-350m has none. Here: at most "
        f"{formats.percent(most['dead_fraction'])}, in layer {most['layer']} of {len(layers)}; in the first half "
        f"{formats.percent(halves[0])}, in the second {formats.percent(halves[-1])}, on {record['tokens']:,} tokens."
    )


def _how_many(record: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> list[str]:
    model, text = record["model"], f"{record['tokens']:,} tokens of {record['corpus']} ({record['split']})"
    if not model["dead"]:
        sentences = [f"None of {model['neurons']:,} neurons is dead: each fired at least once on {text}."]
    else:
        counted = f"{model['dead']:,} of {model['neurons']:,} neurons ({formats.percent(model['dead_fraction'])})"
        sentences = [f"{counted} never fired on {text}."]
    if model["dead"] and len(layers) > 1:
        most = max(layers, key=lambda layer: layer["dead_fraction"])
        sentences.append(f"The most are in layer {most['layer']}: {formats.percent(most['dead_fraction'])}.")
    if unseen := len(record["layers"]) - len(layers):
        sentences.append(f"{formats.counted(unseen, 'expert')} got no token, and nothing is known of their neurons.")
    return sentences


def _how_sure(record: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> list[str]:
    bound = formats.rate(max(layer["dead_upper"] for layer in layers))
    sentences = [f"One that fires on more than {bound} of all tokens would have been seen (95 %, by layer)."]
    if record["tokens"] < TRUSTED_TOKENS:
        sentences.append(f"Fewer than {TRUSTED_TOKENS:,} tokens: take all of this as a hint.")
    never = record["model"]["dead"]
    proven = sum(layer["verdicts"]["certified"] for layer in layers)
    provable = [layer for layer in layers if layer["certified_dead_fraction"] is not None]
    if never and provable:
        estimate = sum(layer["chao1"]["truly_dead"] for layer in layers)
        sentences.append(
            f"The weights prove {proven:,} of them dead for every input; the others are only unseen, and by estimate "
            f"{estimate:,.0f} of all that never fired never will."
        )
    elif not provable:
        sentences.append("Nothing can be proven here: the activation is not exactly 0 below 0, or no norm bounds it.")
    return sentences


def _does_it_matter(record: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> list[str]:
    sentences = []
    if record["model"]["dead"]:
        sentences.append("A dead neuron writes nothing: to cut it out changes no output on this text.")
    narrow = min(layers, key=lambda layer: layer["effective_width"])
    sentences.append(
        f"{formats.percent(over_layers(layers, 'inert_fraction'))} of the neurons are inert, contributing at most "
        f"{100 * INERT_SHARE:g} % of their layer's mean; the narrowest layer is {narrow['layer']}, with an "
        f"effective width of {formats.fixed(narrow['effective_width'], 1)} of {narrow['neurons']:,}."
    )
    return [*sentences, *_what_could_go(record, layers)]


def _what_could_go(record: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> list[str]:
    if not record["expendable_tokens"]:
        return []
    model, most = record["model"], max(layers, key=lambda layer: layer["expendable_fraction"])
    between = " to ".join(formats.percent(model["expendable_interval"][end]) for end in ("low", "high"))
    return [
        f"{formats.percent(model['expendable_fraction'])} ({between}) of all neurons could be replaced by their means "
        f"for {100 * ALLOWED_RISE:g} % more perplexity on {record['expendable_tokens']:,} other tokens, and "
        f"{formats.percent(model['expendable_random']['mean'])} if picked at random; of a single layer, the most in "
        f"layer {most['layer']}: {formats.percent(most['expendable_fraction'])}, where as many random ones cost "
        f"{formats.percent(most['expendable_random']['perplexity_rise']['mean'])}."
    ]


def _of_the_first_token(record: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> list[str]:
    without = record["without_position_0"]
    if without is None:
        return []
    narrow = min(layers, key=lambda layer: layer["effective_width"])
    there = without[narrow["layer"]]
    dead = sum(layer["chao1"]["never"] for layer in without)
    silent = f"{dead:,} never fired" if dead else "all fired"
    return [
        f"Without the first token of each window, on which models often park attention, {silent}, and that "
        f"layer's effective width is {formats.fixed(there['effective_width'], 1)}."
    ]


def _of_the_numbers(record: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> list[str]:
    sentences = []
    if record["dequantised"]:
        sentences.append(f"The weights were dequantised from {record['stored_dtype']}.")
    if any("gelu" in layer["activation"] or "geglu" in layer["activation"] for layer in layers):
        sentences.append(f"Stored as {record['stored_dtype']}, computed in {record['dtype']}: {_ZEROS_MOVE}.")
    elif record["dtype"] != record["stored_dtype"] and not record["dequantised"]:
        sentences.append(f"Stored as {record['stored_dtype']}, computed in {record['dtype']}.")
    return sentences
