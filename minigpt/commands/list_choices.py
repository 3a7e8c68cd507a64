"""`minigpt activations` and `minigpt corpora`: what can be chosen from."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from minigpt.base.flags import Parser
from minigpt.base.formats import MISSING
from minigpt.base.help_text import Introduction
from minigpt.base.storage import to_json
from minigpt.base.tables import Column, Table, terminal_width, wrapped

if TYPE_CHECKING:
    from minigpt.activations.registry import ActivationEntry

_WIDTH = 512
"""Of the layer for which gains are listed; only where neurons depend on each other does the gain depend on it."""

_HOW_TO_WRITE = "arguments: leaky_relu:0.1; by layer: 0-1=relu,2-3=swiglu; own ones: minigpt/activations/functions.py"


def add_activations_flags(parser: Parser) -> None:
    """The form of the output."""
    parser.introduction = Introduction(examples=(("", "all of them"), ("--json", "with every property, for programs")))
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--markdown", action="store_true", help="print the table of docs/activations.md")


def run_activations(values: argparse.Namespace) -> int:
    """List the registry; returns 0."""
    from minigpt.activations import list_activations

    entries = list_activations()
    if values.json:
        print(to_json({entry.name: _record(entry) for entry in entries}))
    elif values.markdown:
        print(Table("Activations", (_MARKDOWN_NAME, *_FORMULA, *_FACTS), entries).markdown())
    else:
        gated = Column.words("gated", "gated", _yes)
        print(Table("", (Column.name("name", "name"), *_FORMULA, gated), entries).terminal())
        print(wrapped(_HOW_TO_WRITE, terminal_width()))
    return 0


def _record(entry: ActivationEntry) -> dict[str, object]:
    return {
        "formula": entry.summary,
        "source": entry.source,
        "aliases": entry.aliases,
        "arguments": dict(entry.arguments),
        "learnable": entry.learnable,
        "gated": entry.gated,
        "exact_zeros": entry.exact_zeros,
        "slope_bound": entry.slope_bound,
        "monotone": entry.monotone,
    }


def _yes(flag: bool) -> str:
    return "yes" if flag else ""


def _name_and_arguments(entry: ActivationEntry) -> str:
    """As Markdown, with the defaults of the arguments and whether they are learned."""
    if not entry.arguments:
        return f"`{entry.name}`"
    arguments = [f"`{name}={value:g}`" + ", learned" * (name in entry.learnable) for name, value in entry.arguments]
    return f"`{entry.name}` ({', '.join(arguments)})"


def _largest_slope(entry: ActivationEntry) -> str:
    if not entry.elementwise:
        return MISSING
    return "∞" if entry.slope_bound is None else f"{entry.slope_bound:.4g}"


def _gain(entry: ActivationEntry) -> str:
    from minigpt.activations import init_gain

    return f"{init_gain(entry.name, _WIDTH):.4g}" if entry.elementwise else "by width"


_MARKDOWN_NAME = Column("name", _name_and_arguments, kind="name", markdown=True)
_FORMULA = (
    Column("h", "summary", kind="words", markdown=True),
    Column("source", "source", kind="words", markdown=True),
)
_FACTS = (
    Column.words("gated", "gated", _yes),
    Column.words("exact zeros", "exact_zeros", _yes),
    Column.words("largest slope", _largest_slope),
    Column.words("monotone", "monotone", _yes),
    Column.words("gain", _gain),
)


def add_corpora_flags(parser: Parser) -> None:
    """The form of the output."""
    parser.introduction = Introduction(examples=(("", "all of them"), ("--json", "for programs")))
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run_corpora(values: argparse.Namespace) -> int:
    """List what `--corpus` takes; returns 0."""
    from minigpt.text.corpora import describe_corpora

    corpora = describe_corpora()
    if values.json:
        print(to_json({corpus.name: vars(corpus) for corpus in corpora}))
        return 0
    columns = (
        Column.name("name", "name"),
        Column.words("text", "description"),
        Column.words("source", "source"),
        Column.words("licence", "licence"),
        Column.words("network", "needs_network", lambda needed: "needed once" if needed else ""),
    )
    print(Table("", columns, corpora).terminal())
    return 0
