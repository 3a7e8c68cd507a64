"""The corpus `stdlib-code`: source of the Python that runs minigpt, a second domain beside its prose.

Modules in ASCII, without test suites, in an order that depends on their names alone and spreads over the library, until
the cap is reached. As with the prose, it is read from the user's own installation and differs between Pythons.
"""

from __future__ import annotations

import hashlib
from functools import cache

from minigpt.text import stdlib_prose

VERSION = 1  # raise it when the choice changes: tokens are then prepared again
MOST_CHARACTERS = 2_000_000
LONGEST_MODULE = 100_000


@cache
def modules() -> tuple[str, ...]:
    """Return the source of each chosen module, in an order that never varies; their sum is at most the cap."""
    root = stdlib_prose.library()
    names = {path: "/".join(path.relative_to(root).parts) for path in stdlib_prose.modules()}
    chosen, characters = [], 0
    for path in sorted(names, key=lambda path: hashlib.sha1(names[path].encode()).digest()):
        source = stdlib_prose.source(path).strip()
        if source and source.isascii() and len(source) <= LONGEST_MODULE:
            characters += len(source)
            if characters > MOST_CHARACTERS:
                break
            chosen.append(source)
    return tuple(dict.fromkeys(chosen))
