"""Whether a compiler works is found out by compiling, and only a good answer is kept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from minigpt.training import compilers, runtime
from minigpt.training.config import RunConfig

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the compilers are scripts of a shell")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the only programs that are there besides `sh`, and an empty place for compiled code."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("CXX", "set, so that it is restored whatever is set on the way")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    compilers._obstacle_with.cache_clear()
    return folder


def program(path: Path, complaint: str) -> None:
    path.write_text(f"#!/bin/sh\necho '{complaint}' >&2\nexit 1\n")
    path.chmod(0o755)


def test_a_broken_compiler_is_an_obstacle_that_says_why(
    programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It used to end the training at its first step; `auto` now goes on without, with a note. Nothing is kept."""
    program(programs / "g++", "fatal error: Python.h: No such file")
    assert "g++ cannot compile; fatal error: Python.h: No such file; install" in compilers.obstacle()
    assert list((tmp_path / "cache").iterdir()) == []
    config = RunConfig(device="cpu", steps=10**6)
    assert runtime.resolve_compile(config, flops_per_step=4 * 10**9).compile == "off"
    assert "note: not compiled; " in capsys.readouterr().err


def test_what_is_called_is_what_torch_will_call(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CXX before g++; clang++ where it is alone, which torch then has to be told; nothing at all."""
    assert compilers.obstacle().startswith("no C++ compiler was found")
    program(programs / "clang++", "error: from clang")
    assert "error: from clang" in compilers.obstacle()
    assert os.environ["CXX"] == str(programs / "clang++")
    program(programs / "mine", "error: from mine")
    monkeypatch.setenv("CXX", "mine")
    assert "error: from mine" in compilers.obstacle()
    monkeypatch.setenv("CXX", "absent")
    assert compilers.obstacle().startswith("no C++ compiler was found")


def test_no_place_for_what_is_built(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in place of the folder; the flag that may help is named."""
    program(programs / "g++", "never called")
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file/cache"))
    assert "torch has no place to compile in" in compilers.obstacle()
    assert "TORCHINDUCTOR_CACHE_DIR" in compilers.obstacle()


def test_what_is_built_must_run(programs: Path) -> None:
    """A compiler that answers well and builds what cannot be loaded, as on a file system mounted noexec."""
    script = programs / "g++"
    script.write_text('#!/bin/sh\nfor word; do last=$word; done\necho "no library" > "$last"\n')
    script.chmod(0o755)
    assert "does not run" in compilers.obstacle()
    assert "--compile off" in compilers.obstacle()


def test_a_compiler_that_hangs_is_not_waited_for(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that waits for a licence."""
    monkeypatch.setattr(compilers, "_PATIENCE", 0.1)
    script = programs / "g++"
    script.write_text("#!/bin/sh\nwhile :; do :; done\n")
    script.chmod(0o755)
    assert "does not end within" in compilers.obstacle()


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler here")
def test_a_good_answer_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For this compiler as it is now; asked again, nothing is compiled."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    compilers._obstacle_with.cache_clear()
    if compilers.obstacle():
        pytest.skip("the compiler here does not work")
    (answer,) = tmp_path.glob("*.json")
    compilers._obstacle_with.cache_clear()
    monkeypatch.setattr(compilers, "_attempt", lambda compiler: pytest.fail("compiled again"))
    assert compilers.obstacle() == ""
    answer.unlink()
    compilers._obstacle_with.cache_clear()
