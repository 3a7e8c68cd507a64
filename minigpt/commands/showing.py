"""How commands hand over a page: its address on the terminal, to click on, or the page itself in a browser."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from minigpt.base.errors import UsageError


def add_open_flag(parser: argparse._ActionsContainer) -> None:
    """Whether to open what was drawn."""
    parser.add_argument("--open", action="store_true", help="open what was drawn in the browser")


def add_json_or_open(parser: argparse._ActionsContainer, json_help: str) -> argparse._MutuallyExclusiveGroup:
    """For a program or for a person: the answer as JSON, or the page in a browser; returns the group, to add to it."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help=json_help)
    add_open_flag(form)
    return form


def check_open(opens: bool, without_page: str) -> None:
    """Raise `UsageError` if a page shall be opened where `without_page`, if it was asked for, draws none."""
    if opens and without_page:
        raise UsageError(f"--open needs a page; got {without_page}, which draws none; leave out one of them")


def show(page: Path, opens: bool = False) -> None:
    """Print the address of a page; with `opens`, open it instead if a browser can be found."""
    address = page.absolute().as_uri()
    if not opens or not webbrowser.open_new_tab(address):
        print(f"look:  {address}")
