"""`minigpt activations` and `minigpt corpora`: what can be chosen from."""

from __future__ import annotations

import argparse

from minigpt.base.flags import Parser
from minigpt.base.storage import to_json


def add_flags(parser: Parser) -> None:
    """Only the form of the output."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run_activations(values: argparse.Namespace) -> int:
    """List the registry; returns 0."""
    from minigpt.activations import list_activations

    entries = list_activations()
    if values.json:
        print(
            to_json(
                {
                    entry.name: {
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
                    for entry in entries
                }
            )
        )
        return 0
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        gated = " (gated)" if entry.gated else ""
        print(f"{entry.name.ljust(width)}  {entry.summary}{gated}  [{entry.source}]")
    print("arguments: leaky_relu:0.1; by layer: 0-1=relu,2-3=swiglu; own ones: minigpt/activations/functions.py")
    return 0


def run_corpora(values: argparse.Namespace) -> int:
    """List what `--corpus` takes; returns 0."""
    from minigpt.text.corpora import describe_corpora

    corpora = describe_corpora()
    if values.json:
        print(to_json({corpus.name: vars(corpus) for corpus in corpora}))
        return 0
    width = max(len(corpus.name) for corpus in corpora)
    for corpus in corpora:
        network = "; needs the network once" if corpus.needs_network else ""
        print(f"{corpus.name.ljust(width)}  {corpus.description}  [{corpus.source}; {corpus.licence}{network}]")
    return 0
