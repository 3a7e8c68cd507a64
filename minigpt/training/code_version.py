"""The version of the code that a result is the result of.

It is a hash over the modules that a training imports, directly or not, except those that only store, show,
check or time things. Comments, docstrings and layout do not count. A new module counts from its first import on.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

from minigpt.base import storage

PACKAGE = Path(__file__).parents[1]
BEGINNINGS = ("training/loop.py", "training/cohort.py")
_STORING = (
    "errors",
    "flags",
    "locks",
    "log_schema",
    "owners",
    "plugins",
    "reading",
    "soft_locks",
    "storage",
    "strict_json",
)
_TELLING = ("formats", "health_columns", "help_text", "invocation", "tables", "version")
_SHOWING = ("checkpoints", "code_version", "compilers", "interrupts", "presets", "tensorboard", "terminal")
WITHOUT_INFLUENCE = frozenset(
    [f"base/{name}.py" for name in (*_STORING, *_TELLING)]
    + [f"training/{name}.py" for name in _SHOWING]
    + ["text/progress.py"]
)


@functools.cache
def code_hash() -> str:
    """SHA-256 over what the code says, for all modules that shape a result."""
    parts = [
        f"{name}\n{substance((PACKAGE / name).read_text(encoding='utf-8'))}"
        for name in sorted(imported_by(*BEGINNINGS) - WITHOUT_INFLUENCE)
    ]
    return storage.sha256_bytes("\n".join(parts).encode("utf-8"))


def imported_by(*names: str) -> set[str]:
    """The modules of this package that some of them import, directly or not, and they; as paths within the package."""
    reached: set[str] = set()
    frontier = set(names)
    while frontier:
        reached |= frontier
        frontier = {found for module in frontier for found in _imports(PACKAGE / module)} - reached
    return reached


def _imports(path: Path) -> set[str]:
    """What a module imports of this package, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    stems = {name.removeprefix("minigpt.").replace(".", "/") for name in found if name.startswith("minigpt.")}
    files = {name for stem in stems for name in (f"{stem}.py", f"{stem}/__init__.py")}
    return {name for name in files if (PACKAGE / name).is_file()}


def substance(source: str) -> str:
    """What Python source says, without comments, docstrings and layout; the same for every version of Python."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return _told(tree)


def _told(value: object) -> str:
    """A syntax tree as text.

    NOTE: `ast.unparse` and `ast.dump` write the same tree otherwise in other versions; what is new in one is empty.
    """
    if isinstance(value, list):
        return f"[{','.join(map(_told, value))}]"
    if not isinstance(value, ast.AST):
        return repr(value)
    fields = [f"{name}={_told(found)}" for name, found in ast.iter_fields(value) if found is not None and found != []]
    return f"{type(value).__name__}({','.join(fields)})"
