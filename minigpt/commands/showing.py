"""How commands hand over a page: its address on the terminal, to click on, or the page itself in a browser."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path


def add_open_flag(parser: argparse._ActionsContainer) -> None:
    """Whether to open what was drawn."""
    parser.add_argument("--open", action="store_true", help="open it in the browser")


def show(page: Path, opens: bool = False) -> None:
    """Print the address of a page; with `opens`, open it instead if a browser can be found."""
    address = page.absolute().as_uri()
    if not opens or not webbrowser.open_new_tab(address):
        print(f"look:  {address}")
