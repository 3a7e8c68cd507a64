"""Storage: a file is old or new whatever fails, JSON is strict, and a directory has one holder."""

from __future__ import annotations

import errno
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import tree_hash
from failing_disk import failing
from hypothesis import given
from hypothesis import strategies as st

from minigpt.base import owners, storage
from minigpt.base.errors import CheckpointError, LockedError, StorageError

OPERATIONS = ("open", "write", "fsync", "replace")
REFUSALS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT)


@pytest.mark.parametrize("code", REFUSALS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_refused_write_leaves_the_old_file(
    tmp_path: Path, name: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each operation of a replacement fails once: the old content stays, no temporary file does."""
    path = tmp_path / "figures.json"
    storage.write_json(path, {"a": 1})
    before = tree_hash(tmp_path)
    with monkeypatch.context() as patch:
        failing(name, 1, code, patch)
        with pytest.raises(StorageError, match=re.escape(os.strerror(code))):
            storage.write_json(path, {"a": 2})
    assert tree_hash(tmp_path) == before
    assert storage.read_json(path, CheckpointError) == {"a": 1}


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system call that takes one byte at a time still writes everything."""
    original = os.write
    monkeypatch.setattr(storage.os, "write", lambda descriptor, data: original(descriptor, data[:1]))
    digest = storage.write_bytes(tmp_path / "file", b"every byte counts")
    assert (tmp_path / "file").read_bytes() == b"every byte counts"
    assert digest == storage.sha256_bytes(b"every byte counts")
    storage.append_json_line(tmp_path / "log", {"step": 1})
    assert (tmp_path / "log").read_text() == '{"step": 1}\n'


def test_content_and_name_are_flushed_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write, fsync, rename, fsync of the directory: a power cut at any point leaves the old or the new file."""
    calls: list[str] = []
    for name in ("write", "fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(storage.os, name, lambda *arguments, o=original, n=name: calls.append(n) or o(*arguments))
    storage.write_bytes(tmp_path / "file", b"data")
    directory_flush = [] if os.name == "nt" else ["fsync"]
    assert calls == ["write", "fsync", "replace", *directory_flush]


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    """Reading refuses it; writing replaces the link and leaves its target alone."""
    target = tmp_path / "target"
    target.write_text("{}")
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(CheckpointError):
        storage.read_json(link, CheckpointError)
    storage.write_json(link, {"a": 1})
    assert target.read_text() == "{}"
    assert not link.is_symlink()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(json_values)
def test_json_round_trip(value: object) -> None:
    """What is written is what is read, unless it is not finite."""
    assert storage.parse_json(storage.to_json(value), "text", CheckpointError) == value


def test_figures_that_are_not_finite_become_null() -> None:
    """Strict JSON has neither NaN nor Infinity."""
    assert storage.to_json({"a": [math.nan, math.inf, 1.5]}) == '{"a": [null, null, 1.5]}'


@pytest.mark.parametrize("text", ["NaN", '{"a": Infinity}', '{"a": 1, "a": 2}', "[" * 100_000, "{", "", '{"a": 1} x'])
def test_loose_json_is_refused(text: str) -> None:
    """One line names the source; nothing leaks, however deep the nesting."""
    with pytest.raises(CheckpointError, match="the source is not valid JSON"):
        storage.parse_json(text, "the source", CheckpointError)


def test_a_torn_last_line_is_ignored(tmp_path: Path) -> None:
    """A crash in the middle of an append costs that record only."""
    log = tmp_path / "log"
    storage.append_json_line(log, {"step": 1})
    complete = storage.flush(log)
    with log.open("ab") as file:
        file.write(b'{"step": 2, "lo')
    assert storage.read_json_lines(log, CheckpointError) == [{"step": 1}]
    storage.write_bytes(log, log.read_bytes()[:complete])
    storage.append_json_line(log, {"step": 2})
    assert storage.read_json_lines(log, CheckpointError) == [{"step": 1}, {"step": 2}]
    assert storage.read_json_lines(log, CheckpointError, offset=complete) == [{"step": 2}]


def test_temporaries_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    """Only a process that no longer exists cannot miss its file."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    me = owners.this_process()
    again = replace(me, started="1")  # the same number, before this process had it
    dead = [tmp_path / f".a.json.{owner}.0123abcd.tmp" for owner in (replace(me, pid=process.pid), again)]
    alive = tmp_path / f".b.json.{me}.0123abcd.tmp"
    for path in (*dead, alive):
        path.touch()
    storage.remove_stale_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == [alive]


@pytest.mark.parametrize("token", ["0123abcd", "01234567", "abcdefab", "00000000"])
def test_whatever_the_random_part_of_a_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    """One in 43 is of digits alone; such a temporary of a dead process was once taken for nobody's, and stayed."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    dead = replace(owners.this_process(), pid=process.pid)
    with monkeypatch.context() as patch:
        patch.setattr(owners, "this_process", lambda: dead)
        patch.setattr(os, "urandom", lambda size: bytes.fromhex(token))
        storage.AtomicFile(tmp_path / "model.7.safetensors")
    assert len(list(tmp_path.iterdir())) == 1
    storage.remove_stale_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys, time
from pathlib import Path
from minigpt.base.storage import lock_directory
with lock_directory(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_directory_has_one_holder_and_death_frees_it(tmp_path: Path) -> None:
    """The message names the process; after SIGKILL the lock is free at once."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for attempt in (storage.check_unlocked, lambda path: storage.lock_directory(path).__enter__()):
            with pytest.raises(LockedError, match=f"process {holder.pid} "):
                attempt(tmp_path)
        holder.kill()
    storage.check_unlocked(tmp_path)
    with storage.lock_directory(tmp_path):
        assert owners.parse((tmp_path / storage.HOLDER_NAME).read_text()) == owners.this_process()


def test_a_sealed_record_is_read_back_and_an_altered_one_is_not(tmp_path: Path) -> None:
    """Whatever is changed in it, the seal included, and whatever else the file may hold."""
    path = tmp_path / "record.json"
    storage.write_sealed(path, {"loss": 1.5, "steps": 3})
    assert storage.read_sealed(path, CheckpointError) == {"loss": 1.5, "steps": 3}
    whole = path.read_text()
    for altered in (whole.replace("1.5", "1.4"), whole.replace('"steps"', '"step"'), '{"loss": 1.5}', "[1]", "null"):
        assert altered != whole
        path.write_text(altered)
        assert storage.read_sealed(path, CheckpointError) is None
    path.unlink()
    with pytest.raises(CheckpointError):
        storage.read_sealed(path, CheckpointError)
