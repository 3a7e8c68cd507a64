"""The figures on neurons are declared once, and each is one that the instrument really records."""

from __future__ import annotations

import random

from neuron_files import layer_record

from minigpt.base import health_columns
from minigpt.base.health_columns import ABLATION, BY_KEY, HEALTH, NEURONS, TRAINING, figures

LAYER = {**layer_record(0, 64, random.Random(0)), "saturated_fraction": 0.0, "linear_fraction": 0.0}


def test_every_figure_is_declared_once() -> None:
    """Two figures of one key would be two truths; two of one title in one table could not be told apart."""
    assert len(BY_KEY) == len(HEALTH)
    for shown in health_columns.by_question().values():
        for titles in ([figure.title for figure in shown], [figure.long_title for figure in shown]):
            assert len(set(titles)) == len(shown)


def test_every_key_is_in_a_layer_of_neurons_json() -> None:
    """A misspelt key would show a dash for ever."""
    undefined = {"saturated_and_linear_fraction"}
    assert [figure.key for figure in HEALTH if figure.of(LAYER) is None and figure.key not in undefined] == []


def test_every_place_shows_known_figures() -> None:
    """And the closer look has all that the quick one has."""
    for place in (TRAINING, NEURONS, ABLATION):
        assert [figure.key for figure in figures(place)] == list(place)
        assert len(set(place)) == len(place)
    assert set(TRAINING) <= set(NEURONS)


def test_few_tokens_mark_shares_only() -> None:
    """A share carries the mark, a bound and a missing share do not."""
    assert BY_KEY["dead_fraction"].column(mark="!").cell({"dead_fraction": 0.5}) == "50.0 %!"
    assert BY_KEY["dead_fraction"].column(mark="!").cell({}) == "–"
    assert BY_KEY["dead_upper"].column(mark="!").cell({"dead_upper": 0.001}) == "1.0e-3"


def test_meanings_name_the_constants_they_speak_of() -> None:
    """The thresholds are not repeated in prose."""
    legend = health_columns.legend(HEALTH)
    for written in ("one token in 10,000", "at most 2.5 % of the layer's mean", "at most 1 % more perplexity"):
        assert written in legend


def test_reasons_are_said_once_for_all_layers_that_share_them() -> None:
    """Neighbouring layers are joined."""
    layers = [{"layer": layer, "undefined": {"linear_fraction": "no slope"}} for layer in (0, 1, 3)]
    assert health_columns.reasons_for_missing([*layers, {"layer": 4}]) == [("linear_fraction", "0–1, 3", "no slope")]
    assert health_columns.title_of("linear_fraction") == "linear"
    assert health_columns.title_of("some_new_figure") == "some new figure"


def test_the_glossary_has_a_row_for_every_figure() -> None:
    """With its key as the files have it, and every row whole."""
    lines = health_columns.glossary_markdown().splitlines()
    assert len(lines) == 2 + len(HEALTH)
    for line, figure in zip(lines[2:], HEALTH, strict=True):
        assert f"| `{figure.key}` |" in line
        assert line.replace("\\|", "").count("|") == 5


def test_a_share_of_the_model_weighs_each_layer_by_its_neurons() -> None:
    """A wide layer counts more than a narrow one, and a layer without the figure leaves it unknown."""
    layers = [
        {"neurons": 100, "dormant_fraction": {"0.025": 0.4}},
        {"neurons": 300, "dormant_fraction": {"0.025": 0.0}},
    ]
    assert health_columns.over_layers(layers, health_columns.DORMANT) == 0.1
    assert health_columns.over_layers([*layers, {"neurons": 1}], health_columns.DORMANT) is None
    assert health_columns.over_layers([], "dead_fraction") is None
