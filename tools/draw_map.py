"""Print the map of the house, every source file with the first sentence of its docstring; architecture.md holds it.

python tools/draw_map.py            # prints it
python tools/draw_map.py --write    # puts it into docs/architecture.md
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- map: python tools/draw_map.py --write -->\n```text\n", "```\n<!-- end of map -->"


def first_sentence(path: Path) -> str:
    """What a file's docstring says first, on one line."""
    words = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split())
    return re.split(r"(?<=[.;])\s", words, maxsplit=1)[0].rstrip(".:;")


def draw(folder: Path, depth: int = 0) -> list[str]:
    """The lines of a folder: its files, then the folders in it."""
    entries = sorted(path for path in folder.iterdir() if path.suffix == ".py" and path.name != "__init__.py")
    folders = sorted(path for path in folder.iterdir() if (path / "__init__.py").is_file())
    indent = "  " * depth
    lines = [f"{indent}{path.name:<{26 - 2 * depth}} {first_sentence(path)}" for path in entries]
    for inner in folders:
        name = f"{inner.name}/"
        lines += [f"{indent}{name:<{26 - 2 * depth}} {first_sentence(inner / '__init__.py')}", *draw(inner, depth + 1)]
    return lines


def the_map() -> str:
    """The map of the package, and of the two scripts at the root."""
    scripts = [f"{name:<26} {first_sentence(ROOT / name)}" for name in ("train.py", "sample.py")]
    return "\n".join([*scripts, "minigpt/", *draw(ROOT / "minigpt", 1)]) + "\n"


def with_map(page: str) -> str:
    """A page with its map redrawn."""
    before, rest = page.split(BEGIN)
    after = rest.split(END, 1)[1]
    return before + BEGIN + the_map() + END + after


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(with_map(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(the_map(), end="")
