"""Altered checkpoints by the thousand: each is read as before or refused in one line, quickly, and nothing runs."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from conftest import TINY_RUN

from battery.fuzzing import fuzz
from battery.grounds import SmallState, quietly, surely, workplace
from battery.hostile import altered_bytes, altered_json, altered_lines, altered_tensors
from battery.tallies import Figure, Tally
from minigpt.base import storage
from minigpt.base.errors import MinigptError

RUN_FILES = {
    "config.json": altered_json,
    "tokenizer.json": altered_json,
    "summary.json": altered_json,
    "environment.json": altered_json,
    "metrics.jsonl": altered_lines,
}
REFUSED = (0, 3, 4, 5, 6)


def run(count: int, seed: int, place: Path) -> list[Figure]:
    """Nine in ten alter a checkpoint and load all of it, one in ten another file of a run, which `verify` reads."""
    loaded = Tally("fuzz_checkpoints", "a checkpoint altered, half of them with hashes that fit, and loaded", seed)
    verified = Tally("fuzz_checkpoints", "another file of a run altered, and verified", seed)
    with workplace(place):
        of_runs = count // 10
        fuzz(loaded, count - of_runs, _checkpoint_case(place))
        fuzz(verified, of_runs, _run_case(place))
    return [loaded.figure(), verified.figure()]


def _checkpoint_case(place: Path) -> Callable[[random.Random], str]:
    state = SmallState()
    directory = state.save(place / "run", 1)
    whole = {path.name: path.read_bytes() for path in directory.iterdir()}

    def case(chance: random.Random) -> str:
        files = dict(whole)
        name = chance.choice(sorted(files))
        if chance.random() < 0.5:
            files[name] = altered_bytes(files[name], chance)
        elif name == "manifest.json":
            files[name] = _sealed(altered_json(_unsealed(files[name]), chance))
        else:
            files[name] = altered_tensors(files[name], chance)
            files["manifest.json"] = restamped(files)
        for file, data in files.items():
            (directory / file).write_bytes(data)
        return _fault_of(lambda: state.load(directory))

    return case


def _fault_of(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except MinigptError:
        return ""
    except BaseException as error:
        return f"not an error of ours: {error!r:.300}"
    return ""


def _unsealed(manifest: bytes) -> bytes:
    return storage.to_json({key: value for key, value in json.loads(manifest).items() if key != "sha256"}).encode()


def _sealed(manifest: bytes) -> bytes:
    """The hash that fits, if there is an object to be hashed at all."""
    try:
        content = json.loads(manifest)
        return storage.json_document({**content, "sha256": storage.json_hash(content)})
    except (ValueError, TypeError, RecursionError):
        return manifest


def restamped(files: dict[str, bytes]) -> bytes:
    """The manifest as somebody writes it who wants altered files to be believed."""
    manifest = json.loads(_unsealed(files["manifest.json"]))
    for name in manifest["files"]:
        manifest["files"][name] = {"bytes": len(files[name]), "sha256": storage.sha256_bytes(files[name])}
    return _sealed(storage.to_json(manifest).encode())


def _run_case(place: Path) -> Callable[[random.Random], str]:
    surely(f"train {TINY_RUN} --steps 2 --out whole")
    shutil.copytree(place / "whole", place / "altered")

    def case(chance: random.Random) -> str:
        name = chance.choice(sorted(RUN_FILES))
        data = (place / "whole" / name).read_bytes()
        change = altered_bytes if chance.random() < 0.3 else RUN_FILES[name]
        try:
            (place / "altered" / name).write_bytes(change(data, chance))
            code, printed = quietly("verify altered")
        finally:
            (place / "altered" / name).write_bytes(data)
        fits = code in REFUSED and "Traceback" not in printed and "a bug of minigpt" not in printed
        return "" if fits else f"{name}: verify ends with {code}: {printed[-300:]}"

    return case
