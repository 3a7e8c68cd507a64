"""The one place that runs code which minigpt does not contain: what the user names with `--plugin`.

A plugin registers activations. Nothing that is read from a file leads here: `config.json` names the plugin that a run
was made with, and who opens the run is asked to give it again.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from minigpt.base.errors import CheckpointError, UsageError
from minigpt.base.reading import read_bytes

NAME, HASH = "plugin", "plugin_sha256"
_MOST_BYTES = 1 << 24


@dataclass(frozen=True)
class Plugin:
    """A plugin as it was named, and the hash of its source."""

    name: str
    sha256: str


_loaded: list[Plugin] = []  # at most one in a process


def load(name: str) -> None:
    """Run a Python file, named by a path that ends in .py, or an importable module; once in a process.

    Raises:
        UsageError: it cannot be read or fails, or this process has run another one.
    """
    path = _source(name)
    plugin = Plugin(str(path) if name.endswith(".py") else name, _sha256(path))
    if plugin in _loaded:
        return
    if _loaded:
        raise UsageError(f"one plugin in a process; got {name} after {_loaded[0].name}; start another process")
    try:
        _run(name, path)
    except Exception as error:
        raise UsageError(f"the plugin {name} failed; {type(error).__name__}: {error}; mend it") from error
    _loaded.append(plugin)


def record() -> dict[str, str]:
    """What `config.json` and the identity of a run say of the plugin of this process; nothing without one."""
    return {key: value for plugin in _loaded for key, value in ((NAME, plugin.name), (HASH, plugin.sha256))}


def require(name: object, sha256: object, what: str) -> None:
    """Compare what a run says of its plugin with the one of this process.

    Raises:
        UsageError: the run has a plugin and this process none.
        CheckpointError: they are not the same.
    """
    if sha256 is None:
        return
    if not _loaded:
        raise UsageError(f"{what} needs the code of a plugin; none was given; add --plugin {name!s:.200}")
    if sha256 != _loaded[0].sha256:
        raise CheckpointError(f"{what} was made with another version of its plugin {name!s:.200}; restore that")


def _source(name: str) -> Path:
    if name.endswith(".py"):
        path = Path(name).absolute()
    else:
        sys.path.insert(0, "")  # as `python -m` would find it
        try:
            found = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            found = None
        finally:
            sys.path.remove("")
        path = Path(found.origin) if found is not None and found.has_location and found.origin else Path(name)
    if not path.is_file():
        raise UsageError(f"no plugin {name!r:.200}; nothing is there; give a .py file or an importable module")
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_bytes(path, UsageError, limit=_MOST_BYTES)).hexdigest()


def _run(name: str, path: Path) -> ModuleType:
    if not name.endswith(".py"):
        sys.path.insert(0, "")
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove("")
    spec = importlib.util.spec_from_file_location(f"minigpt_plugin_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
