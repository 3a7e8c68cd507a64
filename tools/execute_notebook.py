"""Run the code cells of a notebook in this process and write their outputs into it; no Jupyter is needed.

python tools/execute_notebook.py docs/lessons/dead-neurons.ipynb

A cell shows what it prints, and the value of its last line as text or, if it has `_repr_svg_`, as a picture. A cell
with the tag `figure-NAME` also leaves its picture in figures/NAME.svg beside the notebook; one with the tag `page` puts
what it prints between the marks of one-page.md there. With LESSON_FAST=1 all runs at toy size and nothing is written.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

FAST = "LESSON_FAST"
FROM, TO = "<!-- from the notebook -->\n", "<!-- end -->"

Cell = dict[str, Any]


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with the outputs of its cells, run from the first to the last in one namespace."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    number = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number += 1
            cell["execution_count"] = number
            cell["outputs"] = outputs_of("".join(cell["source"]), f"cell {number}", namespace, number)
    return notebook


def outputs_of(source: str, name: str, namespace: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Run one cell and return its outputs as a notebook holds them."""
    tree = ast.parse(source, name)
    last = ast.Interactive([tree.body.pop()]) if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    shown: list[Any] = []
    printed, hook = io.StringIO(), sys.displayhook
    sys.displayhook = shown.append
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, name, "exec"), namespace)
            if last is not None:
                exec(compile(last, name, "single"), namespace)
    finally:
        sys.displayhook = hook
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": lines(printed.getvalue())})
    outputs += [
        {"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data_of(value)}
        for value in shown
        if value is not None
    ]
    return outputs


def data_of(value: Any) -> dict[str, list[str]]:
    """A value as text, and as a picture if it can be one."""
    picture = {"image/svg+xml": lines(value._repr_svg_())} if hasattr(value, "_repr_svg_") else {}
    return {"text/plain": lines(repr(value))} | picture


def lines(text: str) -> list[str]:
    """Text as a notebook holds it: lines with their ends."""
    return text.splitlines(keepends=True)


def tagged(notebook: dict[str, Any], prefix: str) -> list[tuple[str, Cell]]:
    """The cells whose tag begins like this, each with the rest of the tag."""
    cells = [(tag, cell) for cell in notebook["cells"] for tag in cell["metadata"].get("tags", [])]
    return [(tag.removeprefix(prefix), cell) for tag, cell in cells if tag.startswith(prefix)]


def figures(notebook: dict[str, Any]) -> dict[str, str]:
    """The pictures of the cells that are to leave one, by name."""
    return {
        name: "".join(next(output["data"]["image/svg+xml"] for output in cell["outputs"] if "data" in output))
        for name, cell in tagged(notebook, "figure-")
    }


def with_figures_of(page: str, notebook: dict[str, Any]) -> str:
    """A page that repeats what the notebook printed."""
    printed = "".join("".join(output["text"]) for _, cell in tagged(notebook, "page") for output in cell["outputs"])
    before, _, rest = page.partition(FROM)
    return before + FROM + printed + TO + rest.partition(TO)[2]


def main(path: Path) -> None:
    """Run a notebook in an empty folder and write it, its figures and its page."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    os.environ["LESSON_ROOT"] = str(Path(__file__).resolve().parents[1])
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(os.environ.get("LESSON_FOLDER", folder)):
        executed(notebook)
    if os.environ.get(FAST):
        return
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, svg in figures(notebook).items():
        (path.parent / "figures" / f"{name}.svg").write_text(svg, encoding="utf-8")
    page = path.parent / "one-page.md"
    page.write_text(with_figures_of(page.read_text(encoding="utf-8"), notebook), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
