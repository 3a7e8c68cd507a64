"""Reading: only regular files are opened, a refusal of the system is no damage, and names may be any bytes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from minigpt.base import storage
from minigpt.base.errors import CheckpointError, StorageError

READERS = (storage.read_bytes, storage.read_json, storage.sha256_file)


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE, errno.EPERM, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("name", ["open", "read"])
def test_a_refusal_to_read_names_the_reason_and_is_no_damage(
    tmp_path: Path, name: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to be the caller's error, which says of weights that they are damaged, and has them trained again."""
    path = tmp_path / "file.json"
    path.write_text("{}")
    for read in READERS:
        with monkeypatch.context() as patch:
            patch.setattr(os, name, lambda *arguments: (_ for _ in ()).throw(OSError(code, os.strerror(code))))
            with pytest.raises(StorageError, match=errno.errorcode[code]) as caught:
                read(path, CheckpointError)
        assert "overwrite" not in str(caught.value)


def test_a_call_that_a_signal_cut_short_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EINTR at the first attempt of every operation of reading and writing."""
    path = tmp_path / "file.json"
    for name in ("open", "read", "write", "fsync", "replace"):
        original, interrupted = getattr(os, name), []

        def call(*arguments, o=original, seen=interrupted, **options):  # type: ignore[no-untyped-def]
            if not seen:
                seen.append(True)
                raise InterruptedError(errno.EINTR, "interrupted")
            return o(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, call)
            storage.write_json(path, {"a": 1})
            assert storage.read_json(path, CheckpointError) == {"a": 1}
        assert interrupted == [True]


@pytest.mark.parametrize("kind", ["fifo", "device", "link", "folder"])
def test_what_is_no_regular_file_is_named_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    """A FIFO in place of a file used to hang forever whoever hashed it."""
    path = tmp_path / "file.json"
    (tmp_path / "target").write_text("{}")
    make = {
        "fifo": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "link": lambda: path.symlink_to("target"),
        "folder": path.mkdir,
    }
    make[kind]()
    for read in READERS:
        with pytest.raises(CheckpointError, match="is a link" if kind in ("device", "link") else "not a regular file"):
            read(path, CheckpointError)
    if kind == "fifo":
        with pytest.raises(StorageError):
            storage.append_json_line(path, {})


def test_a_name_that_is_no_utf8_survives_json(tmp_path: Path) -> None:
    """Its bytes reach Python as lone surrogates, which used to end in an encoding error, called a bug."""
    path = tmp_path / os.fsdecode(b"caf\xe9.json")
    storage.write_json(path, {"corpus": str(path)})
    assert storage.read_json(path, CheckpointError) == {"corpus": str(path)}
    storage.write_text(path, str(path))
    assert b"\\udce9" in path.read_bytes()
