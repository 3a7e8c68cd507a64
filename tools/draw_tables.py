"""Put what a command prints into the pages of docs/ that show it, between its name in a comment and `end of table`.

python tools/draw_tables.py         # rewrites the pages
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from minigpt.cli import main

DOCS = Path(__file__).resolve().parents[1] / "docs"
TABLE = re.compile(r"(<!-- table: python -m minigpt (.*?) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def redrawn(page: str) -> str:
    """A page whose tables are what their commands print now."""
    return TABLE.sub(lambda found: found[1] + _printed(found[2]) + found[3], page)


def _printed(command: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main(command.split())
    assert code == 0, f"minigpt {command} failed"
    return output.getvalue()


if __name__ == "__main__":
    for path in DOCS.glob("*.md"):
        path.write_text(redrawn(path.read_text(encoding="utf-8")), encoding="utf-8")
