"""Neurons killed at the start (`--init-killed`): as many as asked for, dead at the end, whatever trains the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import TINY_RUN, Command
from run_files import records

from minigpt.training.inference import open_run

KILLED = f"train {TINY_RUN} --steps 20 --lr 0.02 --eval-every 10 --weight-decay 1 --init-killed 0.5"


@pytest.fixture(autouse=True)
def fast(haste: None) -> None:
    """No waiting for disks."""


def killed_rows(run: Path) -> list[torch.Tensor]:
    """Which rows of each layer's incoming weights are all 0, with a bias below 0, at the end."""
    mlps = [block.mlp for block in open_run(run).model.blocks]
    return [(mlp.w_in.weight == 0).all(dim=1) & (mlp.w_in.bias < 0) for mlp in mlps]


@pytest.mark.parametrize(
    "flags",
    ["", "--decay-all", "--optimizer muon", "--optimizer lion --lr 1e-3", "--optimizer momentum", "--activation reglu"],
)
def test_the_killed_are_dead_at_the_end(minigpt: Command, workplace: Path, flags: str) -> None:
    """Neither updates nor decay move them, and validation text never opens them."""
    assert minigpt(f"{KILLED} {flags} --out run") == 0
    (event,) = [event for event in records(Path("run"), "event") if event["event"] == "neurons_killed"]
    branches = 2 if "reglu" in flags else 1
    assert [int(rows.sum()) for rows in killed_rows(Path("run"))] == [branches * n for n in event["counts"]]
    layers = records(Path("run"), "eval")[-1]["layers"]
    assert all(layer["dead_fraction"] >= 0.49 for layer in layers)
    assert [round(0.5 * layer["neurons"]) for layer in layers] == event["counts"]


def test_memory_of_better_days_does_not_revive_them(minigpt: Command, workplace: Path) -> None:
    """Killed in mid-training, with the parent's moments taken over: the same neurons are dead at the end."""
    assert minigpt(f"train {TINY_RUN} --steps 20 --lr 0.02 --eval-every 10 --out parent") == 0
    assert not any(rows.any() for rows in killed_rows(Path("parent")))
    assert minigpt(f"{KILLED} --init-from parent --init-moments --out child") == 0
    assert all(int(rows.sum()) == round(0.5 * len(rows)) for rows in killed_rows(Path("child")))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--activation gelu", "cannot be killed"),
        ("--bias false", "bias is off"),
        ("--decay-all --optimizer adam", "past 0"),
    ],
)
def test_what_would_not_stay_dead_is_refused(refused: Command, workplace: Path, flags: str, words: str) -> None:
    refused(2, f"{KILLED} {flags} --out run", says=(words,))
