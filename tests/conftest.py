"""What many tests need: a small text, flags for a model that trains in a blink, and ways to run a command."""

from __future__ import annotations

import hashlib
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from child_processes import Child, Start, begin_child, serving
from haste import spare_time

from minigpt.cli import main
from minigpt.text import gpt2
from minigpt.text.bpe import SINGLE_BYTES
from minigpt.text.grammar import grammar

TINY_MODEL = (
    "--n-layer 2 --n-head 2 --n-embd 16 --block-size 16 --batch-size 4 --device cpu --dtype float32 --threads 1"
)
TINY_RUN = f"--corpus text.txt {TINY_MODEL} --steps 12 --eval-every 4 --checkpoint-every 4 --log-every 1 --lr 1e-2"

Command = Callable[..., int]
Capture = pytest.CaptureFixture[str]


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
    write_small_text(tmp_path)
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with one finished run under runs/, made once and never changed: tests that write take a copy."""
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        write_small_text(place)
        assert main(f"train {TINY_RUN} --out runs/first".split()) == 0
    return place


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that place, as the current directory."""
    copy = tmp_path / "place"
    shutil.copytree(trained, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def command(place: Path, capsys: Capture):  # type: ignore[no-untyped-def]
    """Run a command there and return its exit code, output and error."""

    def run(words: str, *more: str) -> tuple[int, str, str]:
        code = main([*words.split(), *more])
        output, error = capsys.readouterr()
        return code, output, error

    return run


@pytest.fixture
def refused(minigpt: Command, workplace: Path, capsys: Capture):  # type: ignore[no-untyped-def]
    """Assert that a command fails with one line that says certain things, and that nothing on disk changed."""

    def attempt(code: int, command: str, *more: str, says: tuple[str, ...] = ()) -> str:
        before = tree_hash(workplace)
        assert minigpt(command, *more) == code
        output, error = capsys.readouterr()
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert error.endswith("\n")
        assert "Traceback" not in output + error
        for part in says:
            assert part in error
        assert tree_hash(workplace) == before
        return error

    return attempt


@pytest.fixture
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, to which nothing happens, spare flushes, samples and pages: they would take most of the time."""
    spare_time(monkeypatch)


@pytest.fixture(scope="session")
def fork_server() -> Iterator[Callable[[dict[str, Any]], Any]]:
    """The process that forks children; see fork_server.py."""
    with serving() as ask:
        yield ask


@pytest.fixture
def start(fork_server: Callable[[dict[str, Any]], Any], workplace: Path) -> Iterator[Start]:
    """Start a command in a separate process; accidents are functions of fork_server.py and their arguments."""
    children: list[Child] = []

    def begin(command: str, **accidents: list[Any]) -> Child:
        children.append(begin_child(fork_server, workplace, command, **accidents))
        return children[-1]

    yield begin
    for child in children:
        if Path(f"/proc/{child.pid}").exists():
            child.signal(signal.SIGKILL)


@pytest.fixture(scope="module")
def fake_gpt2_ranks() -> list[bytes]:
    """As many tokens as GPT-2 has, with the single bytes in another order, as GPT-2 has them."""
    pairs = [left + right for left in SINGLE_BYTES for right in SINGLE_BYTES]
    return [*reversed(SINGLE_BYTES), *pairs[: gpt2.GPT2_RANKS - 256]]


def write_small_text(place: Path) -> None:
    """Put the text that small runs train on there."""
    (place / "text.txt").write_text("".join(grammar(3).text(0, 20_000)), encoding="utf-8")


def tree_hash(folder: Path) -> str:
    """One hash over the names and contents of all files, to see that nothing has changed."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes() if path.is_file() and not path.is_symlink() else b"-")
    return digest.hexdigest()
