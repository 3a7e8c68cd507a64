"""The version of the code that a result came from: a hash over the modules that can change what is learned or measured.

Comments, docstrings and layout do not count, and neither do the modules that only show, check or time things. A module
that is new counts until it is listed here as one that does not matter.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

from minigpt import storage

PACKAGE = Path(__file__).parents[1]
SHAPING_FOLDERS = ("text", "neurons", "training")
SHAPING_FILES = ("randomness.py", "activation_functions.py", "activation_registry.py", "activations.py", "model.py")
WITHOUT_INFLUENCE = frozenset(
    f"training/{name}.py"
    for name in ("checkpoints", "identity", "inference", "interrupts", "tensorboard", "terminal", "verification")
)


@functools.cache
def code_hash() -> str:
    """SHA-256 over what the code says, for all modules that shape a result."""
    modules = [PACKAGE / name for name in SHAPING_FILES]
    for folder in SHAPING_FOLDERS:
        modules += sorted((PACKAGE / folder).glob("*.py"))
    named = {path.relative_to(PACKAGE).as_posix(): path for path in modules}
    parts = [
        f"{name}\n{substance(path.read_text(encoding='utf-8'))}"
        for name, path in named.items()
        if name not in WITHOUT_INFLUENCE
    ]
    return storage.sha256_bytes("\n".join(parts).encode("utf-8"))


def substance(source: str) -> str:
    """Python source without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
