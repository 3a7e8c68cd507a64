"""Every figure on a layer's neurons, once: its key, titles and meaning, how it is written and where it is shown.

The terminal, the pages, Markdown and the glossary take their columns from here; `neurons/health.py` and
`training/diagnose_run.py` compute the figures. A record is a layer as `metrics.jsonl` or `neurons.json` has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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

_DEAD, _HOW_MANY, _AT_WORK, _STUCK, EXPENDABLE = (
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
    title      its name, in as few letters as a terminal needs
    question   what it helps to answer: the heading of the table that it is in
    page_title its name on a page, where there is room for another
    """

    key: str
    title: str
    meaning: str
    question: str
    show: Callable[[Any], str] = formats.percent
    page_title: str = ""

    @property
    def long_title(self) -> str:
        """Its name where there is room."""
        return self.page_title or self.title

    def of(self, record: Any) -> Any:
        """The figure of one layer; None if it has none."""
        return lookup(record, self.key)

    def column(self, long: bool = False, mark: str = "") -> Column:
        """The column of a table; shares carry `mark`, if there is any, for having been counted on few tokens."""
        show = partial(_marked, mark) if mark and self.show is formats.percent else self.show
        return Column(self.long_title if long else self.title, self.key, show)


def _marked(mark: str, share: float | None) -> str:
    return formats.percent(share) + ("" if share is None else mark)


def _dormant(tau: float) -> HealthColumn:
    meaning = f"mean |h| at most {100 * tau:g} % of the layer's" if tau else "mean |h| is 0"
    return HealthColumn(f"dormant_fraction/{tau:g}", f"dormant {tau:g}", meaning, _AT_WORK)


HEALTH = (
    HealthColumn("dead_fraction", "dead", "h = 0 on every token", _DEAD),
    HealthColumn(
        "dead_upper_one",
        "bound, one",
        "a neuron picked in advance that fires more often would have been seen (95 %)",
        _DEAD,
        show=formats.rate,
        page_title="bound, one neuron",
    ),
    HealthColumn(
        "dead_upper",
        "bound",
        "any neuron of the layer that fires more often would have been seen (95 %, if tokens were independent)",
        _DEAD,
        show=formats.rate,
        page_title="bound, layer",
    ),
    HealthColumn(
        "dead_upper_sequences",
        "by sequence",
        "the same bound on the share of sequences in which a neuron fires; neighbouring tokens are not independent",
        _DEAD,
        show=formats.rate,
        page_title="bound, sequences",
    ),
    HealthColumn(
        "certified_dead_fraction",
        "proven",
        "dead for every input: the weights alone prove it, because normalization limits what can arrive",
        _DEAD,
        page_title="proven dead",
    ),
    HealthColumn(
        "never_positive_fraction",
        "never open",
        "z ≤ 0 on every token; for a smooth activation a closed gate, not death",
        _DEAD,
    ),
    HealthColumn("verdicts/certified", "certified", "dead, and the weights prove it", _HOW_MANY, show=formats.count),
    HealthColumn("verdicts/dead", "dead", "h = 0 on every token, but not proven", _HOW_MANY, show=formats.count),
    HealthColumn("verdicts/rare", "rare", f"fire, but {_RARELY}", _HOW_MANY, show=formats.count),
    HealthColumn("verdicts/alive", "alive", "fire more often than that", _HOW_MANY, show=formats.count),
    HealthColumn(
        "chao1/never",
        "never",
        "as counted: both kinds of dead",
        _HOW_MANY,
        show=formats.count,
        page_title="fired never",
    ),
    HealthColumn("chao1/once", "once", "fired on exactly one token", _HOW_MANY, show=formats.count),
    HealthColumn("chao1/twice", "twice", "fired on exactly two tokens", _HOW_MANY, show=formats.count),
    HealthColumn(
        "chao1/truly_dead",
        "truly dead",
        "those that never fired less those that more text would wake, estimated from how many fired only once or twice "
        "(Chao1)",
        _HOW_MANY,
        show=formats.count,
        page_title="truly dead, estimated",
    ),
    HealthColumn(
        "density",
        "h ≠ 0",
        "mean share of tokens on which a neuron is not zero; the rest is sparsity, not death",
        _AT_WORK,
    ),
    HealthColumn("rare_fraction", "rare", f"fires, but {_RARELY}", _AT_WORK),
    HealthColumn("always_fraction", "always", "h ≠ 0 on every token", _AT_WORK),
    *map(_dormant, DORMANT_THRESHOLDS),
    HealthColumn(
        "inert_fraction",
        "inert",
        f"contribution sd(h)·‖w_out‖ at most {_INERT} of the layer's mean; compare activations by this",
        _AT_WORK,
    ),
    HealthColumn(
        "effective_width",
        "effective width",
        "number of equal contributors with the same participation ratio",
        _AT_WORK,
        show=partial(formats.fixed, digits=1),
    ),
    HealthColumn(
        "saturated_fraction",
        "flat",
        "slope below 5 % of its largest on at least 99 % of tokens",
        _STUCK,
        page_title="saturated",
    ),
    HealthColumn("linear_fraction", "linear", "the slope barely varies over the tokens", _STUCK),
    HealthColumn(
        "saturated_and_linear_fraction", "both", "saturated and linear: flat throughout, like a dead neuron", _STUCK
    ),
    HealthColumn(
        "trapped_fraction", "trapped", "no gradient reaches its incoming weights, so training cannot change it", _STUCK
    ),
    HealthColumn(
        "expendable_fraction",
        "expendable",
        "the largest set of least contributing neurons that can be replaced by their means for at most "
        f"{100 * ALLOWED_RISE:g} % more perplexity",
        EXPENDABLE,
    ),
    HealthColumn(
        "expendable_interval/low",
        "at least",
        "the largest of these sets that was tried and is surely within that; 95 %, over the sequences predicted",
        EXPENDABLE,
    ),
    HealthColumn(
        "expendable_interval/high", "at most", "the smallest that was tried and surely costs more", EXPENDABLE
    ),
    HealthColumn(
        "expendable_random/perplexity_rise/mean",
        "random cost",
        "how much more perplexity as many random neurons cost, on average",
        EXPENDABLE,
    ),
    HealthColumn("expendable_random/mean", "at random", "the same in a random order, on average", EXPENDABLE),
    HealthColumn("expendable_random/low", "lowest", "the lowest of the random orders", EXPENDABLE),
    HealthColumn("expendable_random/high", "highest", "the highest of the random orders", EXPENDABLE),
)
BY_KEY = {figure.key: figure for figure in HEALTH}

# Where a figure is shown besides the page of a run, which shows all of them.

DORMANT = f"dormant_fraction/{DORMANT_THRESHOLDS[1]:g}"
"""The threshold that is shown where there is room for one."""
TRAINING = (
    "dead_fraction", "dead_upper", "never_positive_fraction", "density", "rare_fraction", "always_fraction", DORMANT,
    "inert_fraction",
)  # fmt: skip
"""The table after a training and an evaluation; the line of an evaluation has the first."""
NEURONS = (
    *TRAINING, "dead_upper_sequences", "certified_dead_fraction", "chao1/never", "chao1/truly_dead", "effective_width",
    "saturated_fraction", "linear_fraction", "saturated_and_linear_fraction", "trapped_fraction",
    "expendable_fraction", "expendable_interval/low", "expendable_interval/high", "expendable_random/mean",
)  # fmt: skip
"""The tables of `minigpt neurons`."""
AUDIT = (
    "dead_fraction", "dead_upper", "dead_upper_sequences", "certified_dead_fraction", "chao1/truly_dead",
    "never_positive_fraction", "density", "rare_fraction", "always_fraction", DORMANT, "inert_fraction",
    "effective_width", "saturated_fraction", "linear_fraction", "saturated_and_linear_fraction", "expendable_fraction",
    "expendable_interval/low", "expendable_interval/high", "expendable_random/perplexity_rise/mean",
)  # fmt: skip
"""The tables of `minigpt audit`: what a count at any model's sites tells."""
ABLATION = ("dead_fraction", DORMANT, "inert_fraction", "density", "never_positive_fraction", "dead_upper")
"""The table of every arm and layer."""


def figures(keys: Iterable[str]) -> list[HealthColumn]:
    """The figures with these keys."""
    return [BY_KEY[key] for key in keys]


def by_question(keys: Iterable[str] = BY_KEY, layers: Sequence[Any] | None = None) -> dict[str, list[HealthColumn]]:
    """The figures with these keys, given layers only those that one has, by the question that they help to answer."""
    found: dict[str, list[HealthColumn]] = {}
    for figure in HEALTH:
        if figure.key in keys and (layers is None or any(figure.of(layer) is not None for layer in layers)):
            found.setdefault(figure.question, []).append(figure)
    return found


def over_layers(layers: Sequence[Any], key: str) -> float | None:
    """A share of all neurons from the shares of the layers; None without layers, or if one lacks it."""
    shares = [(lookup(layer, key), int(lookup(layer, "neurons"))) for layer in layers]
    neurons = sum(number for _, number in shares)
    if not neurons or any(share is None for share, _ in shares):
        return None
    return float(sum(share * number for share, number in shares) / neurons)


def legend(figures: Iterable[HealthColumn]) -> str:
    """What the columns mean, in one paragraph."""
    return " ".join(f"{figure.title}: {figure.meaning}." for figure in figures)


LAYER = Column.name("layer", "layer")
WHICH: tuple[Column, ...] = (Column.words("activation", "activation"), Column("neurons", "neurons", formats.whole))
"""What the first of several tables says of a layer besides its figures."""


def health_tables(
    questions: Mapping[str, Sequence[HealthColumn]],
    layers: Sequence[Any],
    model: Mapping[str, Any],
    long: bool = False,
    mark: str = "",
) -> list[Table]:
    """A table for each question, with a row for each layer and, of what could go, one for the model; legends below."""
    tables: list[Table] = []
    for question, shown in questions.items():
        rows = [*layers, {**model, "layer": "all"}] if question == EXPENDABLE else layers
        columns = (LAYER, *(() if tables else WHICH), *(figure.column(long, mark) for figure in shown))
        tables.append(Table(question, columns, rows, (legend(shown),)))
    return tables


def title_of(key: str, long: bool = False) -> str:
    """The title of a figure; the key in words for one that has no column."""
    figure = BY_KEY.get(key)
    return key.replace("_", " ") if figure is None else figure.long_title if long else figure.title


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
        Column.name("figure", "long_title"),
        Column("key", lambda figure: f"`{figure.key}`", kind="words", markdown=True),
        Column.words("unit", lambda figure: units.get(figure.show, "number")),
        Column.words("meaning", "meaning"),
    )
    return Table("", columns, HEALTH).markdown()
