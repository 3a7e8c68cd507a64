"""What a result is the result of, besides its configuration: the text, and the version of the code.

The version is a hash over the modules that a training imports, directly or not, but for those that only store, show,
check or time things. Comments, docstrings and layout do not count. A new module counts from its first import on.
"""

from __future__ import annotations

import ast
import functools
import os
from pathlib import Path

from minigpt.base import storage
from minigpt.base.errors import DataError
from minigpt.base.flags import expanded
from minigpt.text import hub
from minigpt.text.corpora import open_corpus
from minigpt.text.store import TokenStore, prepare
from minigpt.training.config import RunConfig

_KNOWN_TEXTS = frozenset({"stdlib", "stdlib-code", "grammar", "professions", "task", "hf", *hub.ALIASES})
PACKAGE = Path(__file__).parents[1]
BEGINNING = "training/loop.py"
WITHOUT_INFLUENCE = frozenset(
    f"base/{name}.py" for name in ("errors", "flags", "locks", "log_schema", "reading", "storage", "strict_json")
) | frozenset(
    f"training/{name}.py"
    for name in ("checkpoints", "code_version", "compilers", "interrupts", "presets", "tensorboard", "terminal")
)


def absolute_corpus(spec: str) -> str:
    """A corpus that is a file or folder, by its absolute path; the name of a known one as it is, since it wins."""
    known = spec.partition(":")[0].partition("@")[0] in _KNOWN_TEXTS
    place = Path(expanded(spec))
    return spec if known or not spec or not os.path.lexists(place) else os.path.abspath(place)


def prepare_text(config: RunConfig) -> TokenStore:
    """Open the corpus and make sure that its tokens are prepared.

    Raises:
        DataError: the corpus cannot be used, has fewer training tokens than asked for, or no validation text although
            there are to be evaluations.
    """
    if config.eval_every and not config.val_fraction:
        raise DataError("the validation part is empty; val-fraction is 0; raise it, or switch off with --eval-every 0")
    corpus = open_corpus(expanded(config.corpus), config.val_fraction, config.test_fraction)
    windows = 1 if config.eval_part == "all" else 2
    data_dir = Path(expanded(config.data_dir))
    if data_dir.is_absolute() and not data_dir.parent.exists():  # the run was moved to another machine
        data_dir = Path(RunConfig.data_dir)
    with storage.placed_by("--data-dir"):
        store = prepare(corpus, config.tokenizer, data_dir, min_tokens=windows * config.block_size + 1)
    if config.train_tokens > store.size("train"):
        size = store.size("train")
        raise DataError(
            f"train-tokens {config.train_tokens:,} is more than there are; {size:,} are; lower it, or 0: all"
        )
    return store


@functools.cache
def code_hash() -> str:
    """SHA-256 over what the code says, for all modules that shape a result."""
    parts = [
        f"{name}\n{substance((PACKAGE / name).read_text(encoding='utf-8'))}"
        for name in sorted(imported_by(BEGINNING) - WITHOUT_INFLUENCE)
    ]
    return storage.sha256_bytes("\n".join(parts).encode("utf-8"))


def imported_by(name: str) -> set[str]:
    """The modules of this package that a module imports, directly or not, and itself; as paths within the package."""
    reached: set[str] = set()
    frontier = {name}
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
    """Python source without comments, docstrings and layout."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
