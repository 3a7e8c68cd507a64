"""What a result is the result of, besides its configuration: the text, and the version of the code.

The version is a hash over the modules that can change what is learned or measured. Comments, docstrings and layout do
not count, and neither do the modules that only show, check or time things. A module that is new counts until it is
listed here as one that does not matter.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

from minigpt import storage
from minigpt.errors import DataError
from minigpt.text.corpora import open_corpus
from minigpt.text.store import TokenStore, prepare
from minigpt.training.config import RunConfig

PACKAGE = Path(__file__).parents[1]
SHAPING_FOLDERS = ("text", "neurons", "training")
SHAPING_FILES = ("randomness.py", "activation_functions.py", "activation_registry.py", "activations.py", "model.py")
WITHOUT_INFLUENCE = frozenset(
    f"training/{name}.py"
    for name in (
        "checkpoints",
        "identity",
        "inference",
        "interrupts",
        "operation",
        "tensorboard",
        "terminal",
        "verification",
    )
)


def prepare_text(config: RunConfig) -> TokenStore:
    """Open the corpus and make sure that its tokens are prepared.

    Raises:
        DataError: the corpus cannot be used, or there is no validation text and evaluations are asked for.
    """
    if config.eval_every and not config.val_fraction:
        raise DataError("the validation part is empty; val-fraction is 0; raise it, or switch off with --eval-every 0")
    corpus = open_corpus(config.corpus, config.val_fraction, config.test_fraction)
    windows = 1 if config.eval_part == "all" else 2
    return prepare(corpus, config.tokenizer, Path(config.data_dir), min_tokens=windows * config.block_size + 1)


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
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
