"""How this process was called, so that a hint names a command as its reader types it.

Messages anywhere name commands as `minigpt NAME` between backticks; the command line rewrites them when it prints.
What is stored in files and pages is not rewritten: its reader may call minigpt otherwise.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_NAMED = re.compile(r"`minigpt(?: ([a-z][a-z-]*))?(?=[ `])")
_SCRIPTS = frozenset({"train", "sample"})


def typed(command: str = "") -> str:
    """A command as the user would type it: with `minigpt`, `python -m minigpt` or the scripts `train.py`, `sample.py`.

    A process that is none of these, such as a test, speaks as the scripts do.
    """
    program = Path(sys.argv[0])
    if program.stem == "minigpt":
        return f"minigpt {command}".rstrip()
    as_module = program.name == "__main__.py" and program.parent.name == "minigpt"
    if command in _SCRIPTS and not as_module:
        return f"python {command}.py"
    return f"python -m minigpt {command}".rstrip()


def as_typed(text: str) -> str:
    """Text in which each command between backticks is named as the user types it."""
    return _NAMED.sub(lambda found: "`" + typed(found[1] or ""), text)
