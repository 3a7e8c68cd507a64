"""A start from another run's weights: what is taken over, what is operated on, told once, and never repeated."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import TINY_RUN, Capture, Command
from run_files import comparable, final_hash, records, stop_at, summary

from minigpt.base import storage
from minigpt.experiments.cells import Cell, cell_id, read_result, train_cell
from minigpt.training import checkpoints, inheritance, run_directory
from minigpt.training.inference import open_run
from minigpt.training.inheritance import parent_identity

DEADLY = f"{TINY_RUN} --steps 20 --lr 0.1 --schedule constant --warmup-steps 0 --eval-every 10"
CHILD = f"train {TINY_RUN} --steps 4 --init-from parent"  # so few that the checkpoint of step 0 is kept


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch, haste: None) -> None:
    """Judge on a few windows: what is tested here does not depend on how many."""
    monkeypatch.setattr(inheritance, "JUDGED_TOKENS", 4096)


@pytest.fixture
def parent(minigpt: Command, workplace: Path) -> Path:
    """A run of twenty steps with many dead neurons."""
    assert minigpt(f"train {DEADLY} --out parent") == 0
    return Path("parent")


def weights_of(run: Path, step: int = 0, file: str = checkpoints.MODEL_FILE) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(checkpoints.directory_of(run, step) / file)


def started_with(run: Path, name: str) -> list[dict]:
    return [event for event in records(run, "event") if event["event"] == name]


# What is taken over


def test_the_first_weights_are_the_parents_last(minigpt: Command, parent: Path) -> None:
    """Another activation, rate, seed and dropout, the same tensors; of a checkpoint that is damaged, the one before."""
    flags = "--activation gelu --dropout 0.1 --seed 7 --lr 1e-3"
    assert minigpt(f"{CHILD} {flags} --out child") == 0
    before, after = weights_of(parent, 20), weights_of(Path("child"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert weights_of(Path("child"), file=checkpoints.OPTIMIZER_FILE) == {}
    assert started_with(Path("child"), "inherited")[0]["source_step"] == 20
    (checkpoints.directory_of(parent, 20) / checkpoints.MODEL_FILE).write_bytes(b"")
    assert minigpt(f"{CHILD} {flags} --out earlier") == 0
    assert started_with(Path("earlier"), "inherited")[0]["source_step"] == 16


def test_moments_on_request(minigpt: Command, parent: Path) -> None:
    """With them, and all else equal, the first update is another one."""
    assert minigpt(f"{CHILD} --init-moments --out with") == 0
    assert minigpt(f"{CHILD} --out without") == 0
    before, after = (
        weights_of(run, step, checkpoints.OPTIMIZER_FILE) for run, step in ((parent, 20), (Path("with"), 0))
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert final_hash(Path("with")) != final_hash(Path("without"))


def test_weights_and_moments_alone_continue_a_training(minigpt: Command, workplace: Path) -> None:
    """At a constant rate, momentum has no other memory: a child takes the step that its parent would have taken."""
    flags = f"train {TINY_RUN} --optimizer momentum --schedule constant --warmup-steps 0 --eval-every 0 --batch-size 64"
    assert minigpt(f"{flags} --steps 1 --out parent") == 0
    assert minigpt(f"{flags} --steps 1 --init-from parent --init-moments --out child") == 0
    start, one, two = weights_of(Path("parent"), 0), weights_of(Path("parent"), 1), weights_of(Path("child"), 1)
    moments = weights_of(Path("child"), 1, checkpoints.OPTIMIZER_FILE)
    for name in start:
        step = two[name] - one[name]
        assert torch.allclose(step, -1e-2 * moments[f"{name}/momentum_buffer"], atol=2e-5), name


# Surgery at the start


def dead_after_start(run: Path) -> list[set[int]]:
    """Which neurons are silent on the validation text at step 0."""
    dead: list[set[int]] = [set(), set()]
    for event in records(run, "event"):
        if event["event"] == "neurons_died" and event["step"] == 0:
            dead[event["layer"]] |= set(event["neurons"])
    return dead


def test_arms_of_one_fork_differ_in_what_they_claim(minigpt: Command, parent: Path) -> None:
    """None, the dead, as many living: same parent, same batches; only the named neurons have new weights."""
    for out, surgery in (("none", "none"), ("dead", "dead"), ("living", "random:dead")):
        assert minigpt(f"{CHILD} --init-surgery {surgery} --out {out}") == 0
    dead = dead_after_start(Path("none"))
    assert sum(map(len, dead)) > 10
    assert started_with(Path("none"), "neurons_recycled") == []
    original = weights_of(parent, 20)
    recycled = {}
    for out in ("dead", "living"):
        (event,) = started_with(Path(out), "neurons_recycled")
        assert event["step"] == 0
        recycled[out] = [set(layer) for layer in event["neurons"]]
        changed = weights_of(Path(out))
        for layer, chosen in enumerate(recycled[out]):
            name = f"blocks.{layer}.mlp.w_in.weight"
            rows = (changed[name] != original[name]).any(dim=1)
            assert set(rows.nonzero().flatten().tolist()) == chosen
            assert not changed[f"blocks.{layer}.mlp.w_out.weight"][:, sorted(chosen)].any()
    for layer in (0, 1):
        assert len(recycled["dead"][layer] ^ dead[layer]) <= 3  # judged on training text, seen on validation text
        assert len(recycled["living"][layer]) == len(recycled["dead"][layer])
        assert recycled["living"][layer].isdisjoint(recycled["dead"][layer])
    losses = {out: records(Path(out), "eval")[0]["loss"] for out in ("none", "dead", "living")}
    assert losses["dead"] == pytest.approx(losses["none"], abs=0.002)
    assert abs(losses["living"] - losses["none"]) > 0.005


@pytest.mark.parametrize("check_number", [2, 3, 6, 11])
def test_a_stop_anywhere_ends_in_the_same_bits(
    minigpt: Command, parent: Path, monkeypatch: pytest.MonkeyPatch, check_number: int
) -> None:
    """Before the first checkpoint all begins again; after it nothing is inherited or operated on twice."""
    flags = f"{CHILD} --init-surgery dead --init-moments --dropout 0.1"
    assert minigpt(f"{flags} --out whole") == 0
    with monkeypatch.context() as patch:
        stop_at(patch, check_number, signal.SIGTERM)
        assert minigpt(f"{flags} --out cut") == 143
    again = f"{flags} --out cut --resume" if check_number == 2 else "train --resume cut"
    assert minigpt(again) == 0
    assert minigpt("verify cut") == 0
    assert final_hash(Path("cut")) == final_hash(Path("whole"))
    assert comparable(Path("cut")) == comparable(Path("whole"))
    assert summary(Path("cut"))["identity"] == summary(Path("whole"))["identity"]


def test_once_begun_a_run_needs_its_parent_no_more(minigpt: Command, parent: Path, capsys: Capture) -> None:
    """It resumes, verifies and is operated on without; and goes on naming the weights it began with."""
    identity = parent_identity(run_config("child", minigpt))
    shutil.rmtree(parent)
    shutil.rmtree(checkpoints.directory_of(Path("child"), 4))
    (Path("child") / run_directory.SUMMARY).unlink()
    assert minigpt("train --resume child") == 0
    assert summary(Path("child"))["identity"]["parent"] == identity["parent"]
    assert minigpt("surgery child --recycle random:3 --out operated") == 0
    assert open_run(Path("operated")).checkpoint.identity["parent"] == identity["parent"]


def run_config(out: str, minigpt: Command):  # type: ignore[no-untyped-def]
    assert minigpt(f"{CHILD} --out {out}") == 0
    return run_directory.read_config(Path(out))


# Identity


def test_identity_is_of_the_parents_weights_not_of_its_place(minigpt: Command, parent: Path) -> None:
    """A parent moved is the same parent; one trained on is another; its moments count where they are taken over."""
    config = run_config("child", minigpt)
    weights = checkpoints.directory_of(parent, 20) / checkpoints.MODEL_FILE
    identity = parent_identity(config)
    assert identity == {"parent": storage.sha256_file(weights)}
    assert summary(Path("child"))["identity"]["parent"] == identity["parent"]
    shutil.copytree(parent, "moved")
    moved = replace(config, init_from="moved")
    assert parent_identity(moved) == identity
    assert run_directory.config_hash(moved) == run_directory.config_hash(config)
    with_moments = parent_identity(replace(config, init_moments=True))
    assert with_moments["parent"].startswith(identity["parent"] + "/")
    shutil.rmtree(checkpoints.directory_of(Path("moved"), 20))
    assert parent_identity(moved) != identity
    assert parent_identity(replace(config, init_from=None)) == {}


def test_a_parent_makes_another_cell_and_no_parent_leaves_names_as_they_were() -> None:
    """The names of cells that begin at random are hashes of three parts, as ever."""
    identity = {"config": "a", "data": "b", "code": "c"}
    assert cell_id(identity) == storage.sha256_bytes(b"a/b/c")[:16]
    assert cell_id(identity | {"parent": "d"}) == storage.sha256_bytes(b"a/b/c/d")[:16]
    assert cell_id(identity | {"tokenizer": "d"}) == cell_id(identity)


def test_a_cell_with_a_parent_is_trained_once(minigpt: Command, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its directory is recognised as done, and a second time nothing is trained."""
    config = run_config("model", minigpt)
    identity = summary(Path("model"))["identity"]
    cell = Cell("arm", "main", config, identity, Path("cells"))
    train_cell(cell)
    assert read_result(cell.directory) is not None
    assert final_hash(cell.directory) == final_hash(Path("model"))
    monkeypatch.setattr("minigpt.training.loop.train", lambda *_, **__: pytest.fail("trained again"))
    train_cell(cell)


# Mistakes


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        ("--init-from parent --n-embd 32", 2, ("n-embd 32 (there 16)",)),
        ("--init-from parent --activation swiglu", 2, ("d-ff (42, 42) (there (64, 64))",)),
        ("--init-from parent --activation swiglu --d-ff 64", 4, ("does not fit its configuration", "w_in.weight")),
        ("--init-from parent --norm none --attention mean", 2, ("norm none (there layernorm)", "attention mean")),
        ("--init-from parent --tokenizer byte", 2, ("vocabulary is another one", "--tokenizer byte")),
        ("--init-from parent --init-moments --optimizer lion", 2, ("same optimizer", "lion, there adamw")),
        ("--init-from nowhere", 4, ("no run at nowhere",)),
        ("--init-from parent --init-surgery random:65", 2, ("random:65", "layer 0 has 64")),
        ("--init-from parent --init-surgery ded", 2, ("unknown neurons 'ded'",)),
        ("--init-surgery dead", 2, ("init-surgery dead needs a run to start from",)),
        ("--init-moments", 2, ("init-moments needs a run to start from",)),
    ],
)
def test_a_start_that_does_not_fit_is_refused(
    refused, parent: Path, capsys: Capture, flags: str, code: int, says
) -> None:
    """Before anything is written."""
    open_run(parent)
    capsys.readouterr()
    if "byte" in flags:  # its tokens, prepared, would be a change on disk
        from minigpt.cli import main

        assert main(f"train {TINY_RUN} --tokenizer byte --steps 1 --out other".split()) == 0
        capsys.readouterr()
    refused(code, f"train {TINY_RUN} {flags} --out run", says=says)


def test_a_run_cannot_replace_its_own_parent(refused, minigpt: Command, parent: Path, capsys: Capture) -> None:
    """What it starts from would be deleted for it."""
    capsys.readouterr()
    refused(2, f"{CHILD} --out parent --overwrite", says=("a run cannot start from itself",))
