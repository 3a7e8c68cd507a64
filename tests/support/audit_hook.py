"""What the interpreter itself reports: code that is imported, compiled or run, processes and connections."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

DANGEROUS = (
    "import", "exec", "compile", "marshal.loads", "pickle.find_class", "os.system", "os.exec", "os.posix_spawn",
    "os.fork", "os.forkpty", "subprocess.Popen", "ctypes.dlopen", "socket.connect", "socket.bind", "socket.getaddrinfo",
)  # fmt: skip

_seen: list[str] | None = None
_installed = False
_expected: set[str] = set()  # type hints, which the standard library compiles whenever it is asked for them
_expects_exec = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    global _expects_exec
    if _seen is None or event not in DANGEROUS or (event == "ctypes.dlopen" and arguments == (None,)):
        return  # NOTE: the library without a name is the program itself
    if event == "exec" and _expects_exec:
        _expects_exec = False
        return
    what = arguments[0] if arguments else ""
    source = what.decode("utf-8", "replace") if isinstance(what, bytes) else str(what)
    _expects_exec = event == "compile" and source in _expected
    if not _expects_exec:
        _seen.append(f"{event} {source!r:.100}")


def _type_hints() -> set[str]:
    """What our own classes and functions are annotated with."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("minigpt")]
    members = [member for module in modules for member in vars(module).values() if hasattr(member, "__annotations__")]
    return {hint for member in members for hint in member.__annotations__.values() if isinstance(hint, str)}


@contextlib.contextmanager
def audited() -> Iterator[list[str]]:
    """Collect the dangerous events inside this block. A hook cannot be removed, only told not to watch."""
    global _seen, _installed
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    _expected.update(() if _expected else _type_hints())
    _seen = events = []
    try:
        yield events
    finally:
        _seen = None
