"""Neurons killed at the start (`--init-killed`): as many as asked for, dead at the end, whatever trains the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY_RUN, Command
from run_files import records

from minigpt.model import GPT, GPTConfig
from minigpt.neurons.surgery import choose_share, kill, without_neurons
from minigpt.training.cohort import Planned, train_cohort
from minigpt.training.config import RunConfig
from minigpt.training.inference import open_run
from minigpt.training.optimizers import build_optimizer
from minigpt.training.run_directory import located
from minigpt.training.runtime import resolve

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


def losses_of(model: GPT) -> list[float]:
    """Losses on the way of a short training with AdamW, on batches that are always the same."""
    generator = torch.Generator().manual_seed(3)
    optimizer = build_optimizer(model, RunConfig())
    found = []
    for _ in range(30):
        ids = (
            torch.randint(11, (4, 1), generator=generator) + torch.arange(9)
        ) % 11  # each token is the last one's next
        logits = model(ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        model.zero_grad()
        loss.backward()
        optimizer.step(1e-2)
        found.append(loss.item())
    return found


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_killed_at_birth_is_as_good_as_never_born(share: float) -> None:
    """What C44 takes for its scale: training goes as in a model from which the same neurons were cut out."""
    shape = GPTConfig(vocab_size=11, n_layer=2, n_head=2, n_embd=12, block_size=8, d_ff=24)
    killed, removed = GPT(shape, seed=5), choose_share(share, shape.layer_widths, seed=7)
    kill(killed, {}, removed)
    narrow = GPT(replace(shape, d_ff=24 - round(24 * share)), seed=6)
    left = without_neurons(killed.stored_tensors(), killed, removed)
    with torch.no_grad():
        for name, tensor in narrow.stored_tensors().items():
            tensor.copy_(left[name])
    before, after = losses_of(killed), losses_of(narrow)
    assert before == pytest.approx(after, abs=1e-4)
    assert before[-1] < before[0] - 0.5


def test_members_of_a_cohort_lose_their_own_neurons(workplace: Path) -> None:
    """Killed before the models are stacked, each by its seed, and dead at the end."""
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16, "batch_size": 4, "threads": 1}
    base = RunConfig(corpus="text.txt", steps=8, eval_every=4, device="cpu", compile="off", init_killed=0.5, **shape)
    members = [Planned(located(resolve(replace(base, seed=seed))), Path(f"run-{seed}")) for seed in (1, 2)]
    train_cohort(members)
    rows = [killed_rows(member.directory) for member in members]
    assert all(int(layer.sum()) == len(layer) // 2 for layers in rows for layer in layers)
    assert not torch.equal(rows[0][0], rows[1][0])


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
