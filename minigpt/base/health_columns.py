"""Every figure on a layer's neurons, once: its key, titles and meaning, how it is written and where it is shown.

The terminal, the pages, Markdown and the glossary take their columns from here; `neurons/health.py` and
`training/diagnose_run.py` compute the figures. A record is a layer as `metrics.jsonl` or `neurons.json` has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from minigpt.base import formats
from minigpt.base.tables import Column, Table, lookup

TRUSTED_TOKENS = 65_536
"""A share that was counted on fewer tokens carries a mark."""
RARE_RATE = 1e-4
INERT_SHARE = 0.025
DORMANT_THRESHOLDS = (0.0, 0.025, 0.1)
ALLOWED_RISE = 0.01
"""How much the perplexity may rise when neurons are replaced by their means."""

TRAINING, NEURONS, ABLATION = "training", "neurons", "ablation"
"""Where a figure is shown besides the page of a run: after a training, by `minigpt neurons`, in an ablation."""
_DEAD, _HOW_MANY, _AT_WORK, _STUCK, _EXPENDABLE = (
    "Dead, and how sure is that?",
    "How many neurons?",
    "Alive, but at work?",
    "Stuck?",
    "How many could go?",
)
_RARELY = f"on fewer than one token in {1 / RARE_RATE:,.0f}"
_INERT = f"{100 * INERT_SHARE:g} %"


@dataclass(frozen=True)
class HealthColumn:
    """One figure of a layer.

    key        its path in a record, such as `chao1/never`
    title      in a terminal, where columns are narrow
    long       on a page
    question   what it helps to answer: the heading of the table that it is in
    """

    key: str
    title: str
    long: str
    meaning: str
    question: str
    shown: frozenset[str] = frozenset()
    show: Callable[[Any], str] = formats.percent

    def of(self, record: Any) -> Any:
        """The figure of one layer; None if it has none."""
        return lookup(record, self.key)

    def column(self, long: bool = False, mark: str = "") -> Column:
        """The column of a table; shares carry `mark`, if there is any, for having been counted on few tokens."""
        show = partial(_marked, mark) if mark and self.show is formats.percent else self.show
        return Column(self.long if long else self.title, self.key, show)


def _marked(mark: str, share: float | None) -> str:
    return formats.percent(share) + ("" if share is None else mark)


def _figure(
    key: str, titles: str, meaning: str, question: str, *shown: str, show: Any = formats.percent
) -> HealthColumn:
    """A figure whose titles, short and long, are given as `short / long`, or as one where they are the same."""
    title, _, long = titles.partition(" / ")
    return HealthColumn(key, title, long or title, meaning, question, frozenset(shown), show)


def _dormant(tau: float, *shown: str) -> HealthColumn:
    meaning = f"mean |h| at most {100 * tau:g} % of the layer's" if tau else "mean |h| is 0"
    return _figure(f"dormant_fraction/{tau:g}", f"dormant {tau:g}", meaning, _AT_WORK, *shown)


HEALTH = (
    _figure("dead_fraction", "dead", "h = 0 on every token", _DEAD, TRAINING, NEURONS, ABLATION),
    _figure(
        "dead_upper_one",
        "bound, one / bound, one neuron",
        "a neuron picked in advance that fires more often would have been seen (95 %)",
        _DEAD,
        show=formats.rate,
    ),
    _figure(
        "dead_upper",
        "bound / bound, layer",
        "any neuron of the layer that fires more often would have been seen (95 %, if tokens were independent)",
        _DEAD,
        TRAINING,
        NEURONS,
        ABLATION,
        show=formats.rate,
    ),
    _figure(
        "dead_upper_sequences",
        "by sequence / bound, sequences",
        "the same bound on the share of sequences in which a neuron fires; neighbouring tokens are not independent",
        _DEAD,
        NEURONS,
        show=formats.rate,
    ),
    _figure(
        "certified_dead_fraction",
        "proven / proven dead",
        "dead for every input: the weights alone prove it, because normalization limits what can arrive",
        _DEAD,
        NEURONS,
    ),
    _figure(
        "never_positive_fraction",
        "z never > 0 / never open",
        "z ≤ 0 on every token; for a smooth activation a closed gate, not death",
        _DEAD,
        TRAINING,
        NEURONS,
        ABLATION,
    ),
    _figure("verdicts/certified", "certified", "dead, and the weights prove it", _HOW_MANY, show=formats.count),
    _figure("verdicts/dead", "dead", "silent on every token, but not proven", _HOW_MANY, show=formats.count),
    _figure("verdicts/rare", "rare", f"fire, but {_RARELY}", _HOW_MANY, show=formats.count),
    _figure("verdicts/alive", "alive", "fire more often than that", _HOW_MANY, show=formats.count),
    _figure(
        "chao1/never", "never / fired never", "as counted: both kinds of dead", _HOW_MANY, NEURONS, show=formats.count
    ),
    _figure("chao1/once", "once", "fired on exactly one token", _HOW_MANY, show=formats.count),
    _figure("chao1/twice", "twice", "fired on exactly two tokens", _HOW_MANY, show=formats.count),
    _figure(
        "chao1/truly_dead",
        "truly dead / truly dead, estimated",
        "those that never fired less those that more text would wake, estimated from how many fired only once or twice "
        "(Chao1)",
        _HOW_MANY,
        NEURONS,
        show=formats.count,
    ),
    _figure(
        "density",
        "h ≠ 0",
        "mean share of tokens on which a neuron is not zero; the rest is sparsity, not death",
        _AT_WORK,
        TRAINING,
        NEURONS,
        ABLATION,
    ),
    _figure("rare_fraction", "rare", f"fires, but {_RARELY}", _AT_WORK, TRAINING, NEURONS),
    _figure("always_fraction", "always", "h ≠ 0 on every token", _AT_WORK, TRAINING, NEURONS),
    _dormant(DORMANT_THRESHOLDS[0]),
    _dormant(DORMANT_THRESHOLDS[1], TRAINING, NEURONS, ABLATION),
    _dormant(DORMANT_THRESHOLDS[2]),
    _figure(
        "inert_fraction",
        "inert",
        f"contribution sd(h)·‖w_out‖ at most {_INERT} of the layer's mean; compare activations by this",
        _AT_WORK,
        TRAINING,
        NEURONS,
        ABLATION,
    ),
    _figure(
        "effective_width",
        "effective width",
        "number of equal contributors with the same participation ratio",
        _AT_WORK,
        NEURONS,
        show=partial(formats.fixed, digits=1),
    ),
    _figure(
        "saturated_fraction",
        "flat / saturated",
        "slope below 5 % of its largest on at least 99 % of tokens",
        _STUCK,
        NEURONS,
    ),
    _figure("linear_fraction", "linear", "the slope hardly varies over the tokens", _STUCK, NEURONS),
    _figure(
        "saturated_and_linear_fraction",
        "both",
        "saturated and linear: flat throughout, like a dead neuron",
        _STUCK,
        NEURONS,
    ),
    _figure(
        "trapped_fraction",
        "trapped",
        "no gradient reaches its incoming weights, so training cannot change it",
        _STUCK,
        NEURONS,
    ),
    _figure(
        "expendable_fraction",
        "expendable",
        "the largest set of least contributing neurons that can be replaced by their means for at most "
        f"{100 * ALLOWED_RISE:g} % more perplexity",
        _EXPENDABLE,
        NEURONS,
    ),
    _figure("expendable_random/mean", "at random", "the same in a random order, on average", _EXPENDABLE, NEURONS),
    _figure("expendable_random/low", "lowest", "the lowest of the random orders", _EXPENDABLE, NEURONS),
    _figure("expendable_random/high", "highest", "the highest of the random orders", _EXPENDABLE),
)
BY_KEY = {figure.key: figure for figure in HEALTH}
DORMANT = f"dormant_fraction/{DORMANT_THRESHOLDS[1]:g}"
"""The threshold that is shown where there is room for one."""


def shown_in(place: str) -> tuple[HealthColumn, ...]:
    """The figures that a place shows, in their order."""
    return tuple(figure for figure in HEALTH if place in figure.shown)


def by_question(figures: Iterable[HealthColumn] = HEALTH) -> dict[str, list[HealthColumn]]:
    """The figures by the question that they help to answer."""
    found: dict[str, list[HealthColumn]] = {}
    for figure in figures:
        found.setdefault(figure.question, []).append(figure)
    return found


def legend(figures: Iterable[HealthColumn], long: bool = False) -> str:
    """What the columns mean, in one paragraph."""
    return " ".join(f"{figure.long if long else figure.title}: {figure.meaning}." for figure in figures)


def title_of(key: str, long: bool = False) -> str:
    """The title of a figure; the key in words for one that has no column."""
    figure = BY_KEY.get(key)
    return key.replace("_", " ") if figure is None else figure.long if long else figure.title


def reasons_for_missing(layers: Sequence[Any]) -> list[tuple[str, str, str]]:
    """(key of the figure, layers, why) for everything that a layer's activation leaves undefined, each reason once."""
    concerned: dict[tuple[str, str], list[int]] = {}
    for layer in layers:
        for key, why in (layer.get("undefined") or {}).items():
            concerned.setdefault((key, why), []).append(layer["layer"])
    return [(key, formats.ranges(numbers), why) for (key, why), numbers in concerned.items()]


def glossary_markdown() -> str:
    """The table of all figures, as the glossary has it."""
    units = {formats.percent: "share", formats.rate: "rate", formats.count: "neurons"}
    columns = (
        Column.name("figure", "long"),
        Column("key", lambda figure: f"`{figure.key}`", kind="words", markdown=True),
        Column.words("unit", lambda figure: units.get(figure.show, "number")),
        Column.words("meaning", "meaning"),
    )
    return Table("", columns, HEALTH).markdown()
