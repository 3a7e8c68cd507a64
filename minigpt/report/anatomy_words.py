"""Why a single neuron is dead or alive, in three sentences: its largest z, its bias, and when it died or came back."""

from __future__ import annotations

from collections.abc import Mapping

from minigpt.base import formats
from minigpt.report.death_tables import DIED, RECYCLED, REVIVED, life_events, touched, watched
from minigpt.report.figures import Record

Lives = Mapping[tuple[int, int], list[tuple[str, int]]]
"""What happened to a neuron, by layer and number: (event, step) in the order of the log."""
_MOST_TOLD = 4
_SAID = {DIED: "died", REVIVED: "revived", RECYCLED: "was given new weights"}
_SILENT = ("dead", "certified")


def lives(records: list[Record]) -> Lives | None:
    """The lives of all neurons that ever died; None if the training did not watch."""
    if not watched(records):
        return None
    told: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for event in life_events(records):
        for layer, neurons in touched(event):
            for neuron in neurons:
                told.setdefault((layer, neuron), []).append((event["event"], event["step"]))
    return told


def sentences(layer: int, neuron: Record, tokens: int, lived: Lives | None) -> list[str]:
    """What explains this neuron; fewer sentences if a file of another version knows less."""
    return [*_of_z(neuron, tokens), *_of_bias(neuron), _of_life(layer, neuron, lived)]


def _of_z(neuron: Record, tokens: int) -> list[str]:
    largest = neuron.get("max_z")
    if largest is None:
        return []
    reached = f"The largest z on {tokens:,} tokens was {formats.short(largest)}"
    if neuron["verdict"] not in _SILENT:
        return [f"{reached}."]
    if neuron["verdict"] == "certified":
        return [f"{reached}, and the weights prove that no input wakes it."]
    return (
        [f"{reached}: never above 0, so h was 0 every time."] if largest <= 0 else [f"{reached}, yet h was always 0."]
    )


def _of_bias(neuron: Record) -> list[str]:
    if "bias" not in neuron:
        return []
    largest, bias = neuron["max_z"], neuron["bias"]
    if bias is None:
        return [f"It has no bias: this came from its input alone, which added at most {formats.short(largest)}."]
    added = formats.signed(largest - bias, 3)
    return [f"Its bias is {formats.short(bias)}; what it read added at most {added} to that."]


def _of_life(layer: int, neuron: Record, lived: Lives | None) -> str:
    if lived is None:
        return "The training did not watch, so when it fell silent is not known."
    told = lived.get((layer, neuron["neuron"]), [])
    if not told:
        return "At every evaluation of the training it fired."
    steps = [f"{_SAID[event]} at step {step:,}" for event, step in told]
    if len(told) > _MOST_TOLD:
        deaths = sum(event == DIED for event, _ in told)
        return f"It died {formats.counted(deaths, 'time')}, first at step {told[0][1]:,}; it last {steps[-1]}."
    return f"It {formats.joined(steps)}."
