"""Whether C++ can be compiled here: asked by compiling a few lines as torch would, not by looking for a program.

A compiler may be there and lack Python's headers, OpenMP or a place where what it built may run. Asking takes a second,
so a good answer is kept on this machine beside torch's own compiled code, under a name that changes with the compiler.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from minigpt.base import storage
from minigpt.base.errors import StorageError

ADVICE = "install a working g++ with Python's headers, or use --compile off"
_PATIENCE = 60.0  # seconds
_SOURCE = """#include <Python.h>
#include <omp.h>
#include <vector>
extern "C" int answer() { std::vector<int> found(1, omp_get_max_threads() > 0 ? 42 : 0); return found[0]; }
"""
_LOAD = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).answer() != 42)"


def obstacle() -> str:
    """What keeps this machine from compiling, and what to do; an empty string if nothing does."""
    if os.name == "nt":
        return "" if shutil.which("cl") else f"no C++ compiler was found; {ADVICE}"
    compiler = _compiler()
    if compiler is None:
        return f"no C++ compiler was found; {ADVICE}"
    return _obstacle_with(compiler)


@functools.cache
def _obstacle_with(compiler: str) -> str:
    answer = _answer_file(compiler)
    if answer.is_file():
        return ""
    found = _attempt(compiler)
    if not found:
        with contextlib.suppress(StorageError):  # then the next process asks again
            storage.write_json(answer, {"compiler": compiler})
    return found


def _compiler() -> str | None:
    """The program that torch will call: what CXX names, else g++; a clang++ beside no g++ has to be named to it."""
    asked = os.environ.get("CXX") or "g++"
    found = shutil.which(asked)
    if found is None and "CXX" not in os.environ and (found := shutil.which("clang++")):
        os.environ["CXX"] = found
    return found


def _answer_file(compiler: str) -> Path:
    """Where the answer for this compiler, Python and place for built files is kept."""
    try:
        changed = os.stat(compiler).st_mtime_ns
    except OSError:
        changed = 0
    facts = [os.path.realpath(compiler), changed, sys.version, sysconfig.get_paths()["include"], _cache(), _headers()]
    return Path(_cache()) / f"minigpt-compiler-{storage.json_hash(facts)[:16]}.json"


def _cache() -> str:
    """The folder in which torch keeps what it compiles."""
    default = Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    return os.environ.get("TORCHINDUCTOR_CACHE_DIR") or str(default)


def _headers() -> bool:
    return (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file()


def _attempt(compiler: str) -> str:
    """Compile a library and load it, in the folder where torch's own will lie."""
    try:
        with storage.placed_by("TORCHINDUCTOR_CACHE_DIR or TMPDIR"):
            storage.make_directory(Path(_cache()))
        with tempfile.TemporaryDirectory(dir=_cache(), prefix="minigpt-") as folder:
            return _attempt_in(Path(folder), compiler)
    except (OSError, StorageError) as error:
        return f"torch has no place to compile in; {' '.join(str(error).split())}, or use --compile off"


def _attempt_in(folder: Path, compiler: str) -> str:
    source, library = folder / "answer.cpp", folder / "answer.so"
    storage.write_text(source, _SOURCE)
    include = f"-I{sysconfig.get_paths()['include']}"
    command = [compiler, "-shared", "-fPIC", "-fopenmp", include, str(source), "-o", str(library)]
    return _failure(command, f"{compiler} cannot compile") or _failure(
        [sys.executable, "-c", _LOAD, str(library)], f"what {compiler} builds in {folder.parent} does not run"
    )


def _failure(command: list[str], what: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return f"{what}; it does not end within {_PATIENCE:.0f} s; {ADVICE}"
    except OSError as error:
        return f"{what}; {' '.join(str(error).split())[:200]}; {ADVICE}"
    return f"{what}; {_reason(done.stderr)}; {ADVICE}" if done.returncode else ""


def _reason(output: str) -> str:
    """The line of a compiler's or Python's complaint that says what is wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it says nothing"]
    return next((line for line in lines if "error" in line.lower()), lines[-1])[:200]
