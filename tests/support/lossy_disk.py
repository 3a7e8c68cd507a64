"""A disk that loses in a power cut what was not flushed, and the question whether a run survived that."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minigpt.base.errors import CheckpointError
from minigpt.training import checkpoints
from minigpt.training.verification import verify

MANNERS = ("lost", "names", "torn", "content", "random")


class Disk:
    """Logs what a program does to one directory, and rebuilds what a power cut could leave of it.

    Only flushed content is sure to be there, and only names in a directory that was flushed since they changed.
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.operations: list[tuple[Any, ...]] = []
        self._paths: dict[int, str] = {}  # of open descriptors
        self._files: dict[str, int] = {}  # path -> number of the file
        self._count = 0

    def acknowledge(self, step: int) -> None:
        self.operations.append(("acknowledge", step))

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Log every call of these functions from now on."""
        for name in ("open", "write", "fsync", "replace", "unlink", "mkdir", "rmdir"):
            original, log = getattr(os, name), getattr(self, f"_{name}")
            patch.setattr(os, name, self._logging(original, log))

    def _logging(self, original: Callable[..., Any], log: Callable[..., None]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            result = original(*arguments, **options)
            log(result, *arguments, **options)
            return result

        return call

    def _path(self, path: Any, dir_fd: int | None = None) -> str:
        start = os.getcwd() if dir_fd is None else self._paths[dir_fd]
        return os.path.normpath(os.path.join(start, os.fspath(path)))

    def _log(self, kind: str, path: str, *more: Any) -> None:
        if path.startswith(self.root) or path == os.path.dirname(self.root):
            self.operations.append((kind, path, *more))

    def _new_file(self, path: str) -> None:
        self._count += 1
        self._files[path] = self._count
        self._log("link", path, self._count)

    def _open(self, descriptor: int, path: Any, flags: int, mode: int = 0, *, dir_fd: int | None = None) -> None:
        self._paths[descriptor] = path = self._path(path, dir_fd)
        if flags & os.O_CREAT and path not in self._files:
            self._new_file(path)

    def _write(self, count: int, descriptor: int, data: Any) -> None:
        path = self._paths.get(descriptor, "")
        self._log("write", path, self._files.get(path), bytes(data[:count]))

    def _fsync(self, _: None, descriptor: int) -> None:
        path = self._paths[descriptor]
        if path in self._files:
            self._log("flush", path, self._files[path])
        else:
            self._log("flush names", path)

    def _replace(self, _: None, source: Any, target: Any) -> None:
        source, target = self._path(source), self._path(target)
        self._files[target] = self._files.pop(source)
        self._log("link", target, self._files[target])
        self._log("unlink", source)

    def _unlink(self, _: None, path: Any, *, dir_fd: int | None = None) -> None:
        path = self._path(path, dir_fd)
        self._files.pop(path, None)
        self._log("unlink", path)

    def _mkdir(self, _: None, path: Any, mode: int = 0, *, dir_fd: int | None = None) -> None:
        self._log("link", self._path(path, dir_fd), None)

    def _rmdir(self, _: None, path: Any, *, dir_fd: int | None = None) -> None:
        self._log("unlink", self._path(path, dir_fd))

    def after_power_loss(self, length: int, manner: str, chance: random.Random) -> dict[str, bytes | None]:
        """Path -> content (None: a directory) if power fails after this number of operations.

        Of what was not flushed: `lost` keeps nothing, `names` keeps names without content, `torn` names and half of
        the content, `content` what was written but no name, `random` any part of it.
        """
        keep_name = {"lost": 0.0, "content": 0.0, "names": 1.0, "torn": 1.0, "random": 0.5}[manner]
        keep_content = {"lost": 0.0, "content": 1.0, "names": 0.0, "torn": 0.5}
        done = self.operations[:length]
        sure_names = {op[1]: number for number, op in enumerate(done) if op[0] == "flush names"}
        sure_content = {op[2]: number for number, op in enumerate(done) if op[0] == "flush"}
        content: dict[int, bytes] = {}
        names: dict[str, int | None] = {}
        for number, (kind, *what) in enumerate(done):
            if kind == "write":
                share = keep_content.get(manner, chance.random())
                kept = len(what[2]) if number < sure_content.get(what[1], -1) else int(share * len(what[2]))
                content[what[1]] = content.get(what[1], b"") + what[2][:kept]
            elif kind in ("link", "unlink"):
                is_sure = number < sure_names.get(os.path.dirname(what[0]), -1)
                if is_sure or chance.random() < keep_name:
                    names.pop(what[0], None)
                    names.update({what[0]: what[1]} if kind == "link" else {})
        return {
            path: None if file is None else content.get(file, b"")
            for path, file in names.items()
            if self._is_reachable(path, names)
        }

    def _is_reachable(self, path: str, names: dict[str, int | None]) -> bool:
        return path == self.root or (
            os.path.dirname(path) in names and self._is_reachable(os.path.dirname(path), names)
        )


@contextlib.contextmanager
def recording(run: Path) -> Iterator[Disk]:
    """Log what is done to the disk at `run`, and which steps are acknowledged as committed, inside this block."""
    disk, save = Disk(run), checkpoints.save

    def acknowledged(directory: Path, step: int, *arguments: Any, **options: Any) -> None:
        save(directory, step, *arguments, **options)
        disk.acknowledge(step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "save", acknowledged)
        disk.watch(patch)
        yield disk


def disk_states(disk: Disk, seed: int, rounds: int = 1) -> Iterator[tuple[str, int, dict[str, bytes | None]]]:
    """Every state that differs from the ones before, with the step that must be found in it.

    After each operation each manner of loss, the random one once a round.
    """
    chance, seen = random.Random(seed), set()
    for turn in range(rounds):
        acknowledged = -1
        for length in range(len(disk.operations) + 1):
            if length and disk.operations[length - 1][0] == "acknowledge":
                acknowledged = disk.operations[length - 1][1]
            for manner in MANNERS if turn == 0 else ("random",):
                tree = disk.after_power_loss(length, manner, chance)
                key = _key(acknowledged, tree)
                if key not in seen:
                    seen.add(key)
                    yield f"{manner} after operation {length}, round {turn} of seed {seed}", acknowledged, tree


def _key(acknowledged: int, tree: dict[str, bytes | None]) -> bytes:
    """What two states have in common only if they are equal."""
    digest = hashlib.sha256(f"{acknowledged}".encode())
    for path, content in sorted(tree.items()):
        digest.update(f"\0{path}\0{'directory' if content is None else len(content)}\0".encode())
        digest.update(content or b"")
    return digest.digest()


def rebuild(tree: dict[str, bytes | None], root: str, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    for path, content in sorted(tree.items()):
        target = place / os.path.relpath(path, root)
        if content is None:
            target.mkdir(parents=True)
        else:
            target.write_bytes(content)


def is_lost(run: Path, acknowledged: int) -> bool:
    """Whether an acknowledged checkpoint, or what is needed to go on from it, cannot be read any more.

    Before the first is acknowledged a run may be anything that is not taken for a damaged one.
    """
    damaged: list[str] = []
    try:
        newest = checkpoints.newest(run, damaged.append)
        findings = verify(run) if newest else []
    except CheckpointError:
        return True
    if damaged or (newest.step if newest else -1) < acknowledged:
        return True
    needed = {"configuration", "tokenizer", "log", f"checkpoint of step {newest.step}"} if newest else set()
    return any(finding.error for finding in findings if finding.what in needed)
