"""Several processes that train one model: the same training as in one, decided alike, ended together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from child_processes import PROJECT, Child, Start, await_that, needs_fork, newest_step, told
from conftest import TINY_RUN, Capture, Command
from hypothesis import given
from hypothesis import strategies as st
from run_files import records, summary
from torch import Tensor

from minigpt.base import owners, randomness, storage
from minigpt.base.errors import RankError, UsageError
from minigpt.model import GPT, GPTConfig
from minigpt.neurons.probe import LayerStatistics
from minigpt.training import evaluation, ranks
from minigpt.training.config import RunConfig
from minigpt.training.ranks import Ranks

pytestmark = pytest.mark.usefixtures("haste")

LONG = f"train {TINY_RUN} --steps 100000 --eval-every 0 --checkpoint-every 50 --log-every 50"
COUNTED = ("dead_fraction", "never_positive_fraction", "density", "rare_fraction", "always_fraction")
PATIENCE = 10.0

Launch = Callable[..., list[Child]]


@pytest.fixture
def launch(start: Start) -> Launch:
    """Start the processes of one job, as torchrun would; an accident may befall one of them."""

    def begin(command: str, size: int, **accidents: dict[int, list[Any]]) -> list[Child]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        return [
            start(command, take_part=[rank, size, port], **{n: a[rank] for n, a in accidents.items() if rank in a})
            for rank in range(size)
        ]

    return begin


def ended(children: Sequence[Child]) -> set[int]:
    """The exit codes of all processes of a job."""
    return {child.wait() for child in children}


def errors(place: Path) -> list[str]:
    """What all the processes of a job complained of."""
    lines = [line for path in sorted(place.glob("rank-*.err")) for line in path.read_text().splitlines()]
    return [line for line in lines if line.startswith(("error: ", "stopped", "warning: "))]


def assert_same_training(one: Path, several: Path, steps: int) -> None:
    """Same losses and norms within rounding; the same neurons silent, and at step 0 exactly the same counts."""
    for kind in ("train", "eval"):
        found = [record for record in records(several, kind) if record["step"] <= steps]
        for a, b in zip(records(one, kind), found, strict=True):
            assert (a["step"], a["tokens"]) == (b["step"], b["tokens"])
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
            if kind == "train":
                assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4)
                assert a["silent"] == b["silent"]
    first, other = records(one, "eval")[0], records(several, "eval")[0]
    assert other["bits_per_byte"] == pytest.approx(first["bits_per_byte"], rel=1e-12)
    for a, b in zip(first["layers"], other["layers"], strict=True):
        assert {name: a[name] for name in COUNTED} == {name: b[name] for name in COUNTED}


# ---------------------------------------------------------------------------------------------- parts of a whole


@given(windows=st.integers(1, 60), size=st.integers(1, 7), at_most=st.integers(1, 20))
def test_every_window_goes_to_one_rank(windows: int, size: int, at_most: int) -> None:
    """In order, in parts that differ by one at most, in batches that are not too large, as many on every rank."""
    whole = torch.arange(windows)
    parts = [Ranks(rank, size).share(whole, at_most) for rank in range(size)]
    assert torch.equal(torch.cat([batch for part in parts for batch in part]), whole)
    sizes = [sum(map(len, part)) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert len(set(map(len, parts))) == 1
    assert max(len(batch) for part in parts for batch in part) <= at_most


@given(batches=st.integers(0, 30), size=st.integers(1, 7))
def test_every_batch_goes_to_one_rank(batches: int, size: int) -> None:
    """And all ranks pause equally often, or one would wait for another for ever."""
    dealt, pauses = [], set()
    for rank in range(size):
        pause = Mock()
        dealt += Ranks(rank, size).deal(range(batches), pause)
        pauses.add(pause.call_count)
    assert sorted(dealt) == list(range(batches))
    assert pauses == {-(-batches // size)}


class Unsummed(Ranks):
    """A rank whose sums are only its own."""

    def sums(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors)


@pytest.mark.parametrize("size", [2, 3, 50])
def test_counts_of_all_ranks_are_those_of_one(size: int) -> None:
    """Neuron by neuron, exactly; also where there are fewer batches than ranks."""
    model = GPT(GPTConfig(vocab_size=23, block_size=16, n_layer=2, n_head=2, n_embd=16), seed=1)
    ids = np.random.default_rng(0).integers(23, size=20_000).astype(np.uint16)

    def counted(ranks: Ranks) -> list[LayerStatistics]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluation, "model_health", lambda model, statistics: [])
            patch.setattr(evaluation, "CPU_BATCH_TOKENS", 512)
            try:
                found = evaluation.evaluate(model, ids, np.ones(23), split="val", dtype="float32", ranks=ranks)
            except ZeroDivisionError:  # a rank without a batch, whose sums are its own
                return []
        return found.statistics

    whole = counted(Ranks())
    parts = [part for rank in range(size) if (part := counted(Unsummed(rank, size)))]
    assert len(parts) == min(size, 41)
    for layer, expected in enumerate(whole):
        merged = reduce(LayerStatistics.merge, [part[layer] for part in parts])
        assert merged.tokens == expected.tokens == len(ids) - 1
        assert torch.equal(merged.fired, expected.fired)
        assert torch.equal(merged.opened, expected.opened)
        torch.testing.assert_close(merged.sum_square_h, expected.sum_square_h, rtol=1e-12, atol=0)


# ---------------------------------------------------------------------------------------------- one training


@needs_fork
@pytest.mark.parametrize(
    ("size", "flags"),
    [
        (2, "--batch-size 2 --grad-accumulation 3 --l1 0.01 --recycle random:3 --recycle-every 5 --patience 9"),
        (3, "--batch-size 5"),
    ],
)
def test_several_processes_train_as_one(
    launch: Launch, minigpt: Command, workplace: Path, capsys: Capture, size: int, flags: str
) -> None:
    """Whether or not the windows can be divided; rank 0 alone shows it, and the run verifies."""
    command = f"train {TINY_RUN} {flags}"
    assert minigpt(f"{command} --out one") == 0
    assert ended(launch(f"{command} --out several", size)) == {0}
    assert_same_training(workplace / "one", workplace / "several", steps=12)
    assert records(workplace / "one", "event") == records(workplace / "several", "event")
    assert f"{size} processes" in (workplace / "rank-0.out").read_text()
    assert [(workplace / f"rank-{rank}.out").read_text() for rank in range(1, size)] == [""] * (size - 1)
    assert errors(workplace) == []
    assert minigpt("verify several") == 0


@needs_fork
def test_rank_0_prepares_the_text(launch: Launch, workplace: Path) -> None:
    """The others, who would leave a file `preparing`, find it done."""
    children = launch(f"train {TINY_RUN} --steps 1 --out run", 3, slow_preparation={1: [0.0], 2: [0.0]})
    assert ended(children) == {0}
    assert not (workplace / "preparing").exists()
    assert len(list((workplace / "data").iterdir())) == 1


def test_alone_nothing_is_initialised(tiny_run: Path) -> None:
    """A training in one process has no use for a process group."""
    assert not torch.distributed.is_initialized()
    assert Ranks().sums([torch.ones(2)])[0].tolist() == [1, 1]
    assert Ranks().largest(-3) == -3


def test_every_rank_drops_other_values(workplace: Path) -> None:
    """The first as one process would; equal masks would make windows of one step alike."""
    drawn = []
    for rank in (0, 1, 2):
        randomness.seed_dropout(1337, 5, rank)
        drawn.append(torch.rand(4).tolist())
    randomness.seed_dropout(1337, 5)
    assert torch.rand(4).tolist() == drawn[0]
    assert len({tuple(values) for values in drawn}) == 3


# ---------------------------------------------------------------------------------------------- ended together


@needs_fork
def test_a_signal_to_one_stops_all(launch: Launch, minigpt: Command, workplace: Path) -> None:
    """At one step, after its checkpoint; one line says so, and the run goes on in one process, not bit-exact."""
    children = launch(f"{LONG} --out run", 2, announce={0: ["phases"]})
    await_that(lambda: "saved 50" in told(workplace / "phases"), "a checkpoint")
    children[1].signal(signal.SIGTERM)
    assert ended(children) == {128 + signal.SIGTERM}
    step = summary(workplace / "run")["steps"]
    assert newest_step(workplace / "run") == step
    (stopped,) = errors(workplace)
    assert f"stopped at step {step} of 100000" in stopped
    assert minigpt("verify run") == 0


@needs_fork
@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_process_ends_the_job(
    launch: Launch, minigpt: Command, workplace: Path, capsys: Capture, victim: int
) -> None:
    """Within seconds, with a line that says how to go on; nothing is saved after, and any number may go on."""
    children = launch(f"{LONG} --steps 200 --out run", 3, announce={0: ["phases"]})
    await_that(lambda: "saved 50" in told(workplace / "phases"), "a checkpoint")
    children[victim].signal(signal.SIGKILL)
    begun = time.monotonic()
    assert ended(children) == {-signal.SIGKILL, 5}
    assert time.monotonic() - begun < PATIENCE
    assert errors(workplace)
    assert set(errors(workplace)) == {
        "error: another process of this job has gone; 3 began it; continue with --resume run"
    }
    committed = [int(line.split()[1]) for line in told(workplace / "phases") if line.startswith("committed")]
    assert newest_step(workplace / "run") == max(committed)
    assert minigpt("verify run") == 0
    if victim:
        assert minigpt("train --resume run") == 0
        assert "processes was 3 and is 1" in capsys.readouterr().err
    else:
        assert ended(launch("train --resume run", 2)) == {0}
        assert "processes was 3 and is 2" in "\n".join(errors(workplace))
    assert summary(workplace / "run")["steps"] == 200
    assert [record["step"] for record in records(workplace / "run", "train")] == list(range(50, 201, 50))


@needs_fork
@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        ("--batch-size 2", 2, "more processes than windows in a step; got 3 and 2"),
        ("--corpus absent.txt", 3, "absent.txt"),
        ("--resume --overwrite", 2, "choose one"),
        ("--lr 1e30 --grad-clip 0 --warmup-steps 0", 6, "at step"),
    ],
)
def test_an_error_is_said_once(launch: Launch, workplace: Path, flags: str, code: int, says: str) -> None:
    """Whether one rank meets it or all: one line for the whole job, one exit code, and nobody waits."""
    assert ended(launch(f"train {TINY_RUN} --out run {flags}", 3)) == {code}
    (line,) = errors(workplace)
    assert line.startswith("error: ")
    assert says in line


@needs_fork
def test_weights_that_differ_are_noticed(launch: Launch, workplace: Path) -> None:
    """At the next checkpoint, which is not committed."""
    assert ended(launch(f"train {TINY_RUN} --out run", 2, stray={1: [5]})) == {5}
    (line,) = errors(workplace)
    assert "no longer have the same weights" in line
    assert newest_step(workplace / "run") == 4


def test_a_program_that_is_no_store_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens at the port of leftover variables and never answers: torch waited for ever, deaf to all signals."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(other.getsockname()[1]))
        monkeypatch.setattr(ranks, "MEETING_SECONDS", 0.3)
        with pytest.raises(RankError, match=r"2 processes at 127\..*unset RANK"):
            ranks._wait_for_all(Ranks(1, 2, 1, 2))


@pytest.mark.parametrize("found", ["2 2 0 2", "0 2 2 2", "0 0 0 1"])
def test_variables_that_contradict_each_other(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank beyond their number would be awaited by nobody."""
    for name, value in zip(ranks.VARIABLES, found.split(), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="a rank must be below the number of processes"):
        ranks._announced()


def test_more_processes_than_windows_is_refused_by_count() -> None:
    """As many as windows are allowed."""
    config = replace(RunConfig(), batch_size=2, grad_accumulation=2)
    Ranks(0, 4).check_work(config)
    with pytest.raises(UsageError, match="got 5 and 4"):
        Ranks(0, 5).check_work(config)


# ---------------------------------------------------------------------------------------------- torchrun


def test_torchrun_itself(minigpt: Command, workplace: Path) -> None:
    """The README's command trains as one process does; then rank 0 is killed, and one line says how to go on."""
    flags = f"{TINY_RUN} --schedule constant --warmup-steps 0 --eval-every 40 --checkpoint-every 40"
    assert minigpt(f"train {flags} --steps 40 --out one") == 0
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(PROJECT / "train.py"),
    ]
    job = subprocess.Popen(
        [*command, *flags.split(), "--steps", "100000", "--out", "two"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    await_that((workplace / "two/checkpoints/step-00000040/manifest.json").exists, "a checkpoint")
    os.kill(owners.parse((workplace / "two" / storage.HOLDER_NAME).read_text()).pid, signal.SIGKILL)
    begun = time.monotonic()
    output, error = job.communicate(timeout=30)
    assert time.monotonic() - begun < PATIENCE
    assert job.returncode == 1
    assert [line for line in error.splitlines() if line.startswith("error: ")] == [
        "error: another process of this job has gone; 2 began it; continue with --resume two"
    ]
    assert output.count("2 processes") == output.count("step 40/100000") == 1
    assert_same_training(workplace / "one", workplace / "two", steps=40)
    assert minigpt("verify two") == 0
