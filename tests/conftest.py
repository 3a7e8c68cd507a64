"""What many tests need: a small text, flags for a model that trains in a blink, and a way to run a command."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from minigpt.cli import main
from minigpt.text.grammar import grammar

TINY_MODEL = (
    "--n-layer 2 --n-head 2 --n-embd 16 --block-size 16 --batch-size 4 --device cpu --dtype float32 --threads 1"
)
TINY_RUN = f"--corpus text.txt {TINY_MODEL} --steps 12 --eval-every 4 --checkpoint-every 4 --log-every 1 --lr 1e-2"

Command = Callable[..., int]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Use one thread: the models are so small that several would spend their time waiting for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory with a small text in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("".join(grammar(3).text(0, 20_000)), encoding="utf-8")
    return tmp_path


@pytest.fixture
def minigpt(workplace: Path) -> Command:
    """Run one command line in the workplace; words may be given as one string."""

    def run(command: str, *more: str) -> int:
        return main([*command.split(), *more])

    return run


@pytest.fixture
def tiny_run(minigpt: Command, workplace: Path) -> Path:
    """A finished run of twelve steps."""
    assert minigpt(f"train {TINY_RUN} --out run") == 0
    return workplace / "run"


def tree_hash(folder: Path) -> str:
    """One hash over the names and contents of all files, to see that nothing has changed."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes() if path.is_file() and not path.is_symlink() else b"-")
    return digest.hexdigest()
