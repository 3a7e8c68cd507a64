"""`minigpt surgery`: what it writes is a run as any other, what it says of the logits is true, mistakes cost a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import TINY_RUN, Capture, Command, tree_hash
from run_files import comparable, final_hash, records

from minigpt.model import GPT
from minigpt.training import checkpoints, operate_on_run
from minigpt.training.inference import OpenedRun, open_run, open_text

DEADLY = f"{TINY_RUN} --steps 20 --eval-every 5 --checkpoint-every 10 --lr 0.1 --schedule constant --warmup-steps 0"


@pytest.fixture
def deadly(minigpt: Command, workplace: Path, haste: None, capsys: Capture) -> Path:
    """A run of twenty steps with many dead neurons, its checkpoints at ten and twenty."""
    assert minigpt(f"train {DEADLY} --out run") == 0
    capsys.readouterr()
    return workplace / "run"


@torch.no_grad()
def logits(run: OpenedRun, split: str) -> torch.Tensor:
    ids = torch.from_numpy(open_text(run).tokens(split)[:800].astype(np.int64))
    return run.model(ids.view(-1, 16))


def outcome_of(minigpt: Command, capsys: Capture, command: str) -> dict[str, Any]:
    capsys.readouterr()
    assert minigpt(f"surgery {command} --json") == 0
    return json.loads(capsys.readouterr().out)


# Pruning


@pytest.mark.parametrize(
    "flags", ["", "--activation reglu --dtype bfloat16", "--bias false --optimizer lion --lr 1e-2"]
)
def test_a_pruned_run_predicts_the_same(minigpt: Command, workplace: Path, haste: None, capsys: Capture, flags: str):
    """On text of both parts, to rounding; its layers differ in width, its files verify, the original is untouched."""
    assert minigpt(f"train {DEADLY} {flags} --out run") == 0
    capsys.readouterr()
    before = tree_hash(Path("run"))
    outcome = outcome_of(minigpt, capsys, "run --prune dead --out pruned")
    assert tree_hash(Path("run")) == before
    original, narrow = open_run(Path("run")), open_run(Path("pruned"))
    for split in ("train", "val"):
        expected = logits(original, split)
        assert (logits(narrow, split) - expected).abs().max() <= 1e-5 * expected.abs().max()
    widths = [block.mlp.d_ff for block in narrow.model.blocks]
    assert widths == [layer["neurons"] for layer in outcome["layers"]]
    assert sum(len(layer["pruned"]) for layer in outcome["layers"]) > 0
    for layer in outcome["layers"]:
        assert layer["neurons_before"] - len(layer["pruned"]) == layer["neurons"]
    assert outcome["parameters"] == narrow.model.parameter_count()
    assert outcome["parameters_before"] == original.model.parameter_count()
    assert outcome["loss"] == pytest.approx(outcome["loss_before"], rel=1e-6)
    assert minigpt("verify pruned") == 0
    assert minigpt("evaluate pruned") == 0
    assert minigpt("sample pruned --max-new-tokens 5") == 0


def test_only_what_is_proven_dead_is_cut_on_request(
    minigpt: Command, deadly: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the neurons silent on the text, --prune certified takes the proven ones: here, by decree, those even."""
    even = torch.arange(64) % 2 == 0
    monkeypatch.setattr(operate_on_run, "certified_dead", lambda block, dtype: even if block.layer else None)
    silent = outcome_of(minigpt, capsys, "run --prune dead --out pruned")
    proven = outcome_of(minigpt, capsys, "run --prune certified --out certified")
    first, second = (layer["pruned"] for layer in proven["layers"])
    assert first == []
    assert second == [neuron for neuron in silent["layers"][1]["pruned"] if neuron % 2 == 0]
    assert second != []


def test_a_pruned_run_resumes_as_any_other(minigpt: Command, deadly: Path, workplace: Path, capsys: Capture) -> None:
    """From the middle to the end, to the same bits if it is stopped; its log is the original's and more."""
    outcome = outcome_of(minigpt, capsys, "run --checkpoint 10 --prune dead --out pruned")
    known = [r for r in comparable(deadly) if r["step"] <= 10 and (r["kind"], r["step"]) != ("eval", 10)]
    *copied, surgery = comparable(Path("pruned"))
    assert copied == known
    assert (surgery["event"], surgery["step"], surgery["source"]) == ("surgery", 10, "run")
    assert surgery["layers"] == outcome["layers"]
    assert minigpt("train --resume pruned") == 0
    assert minigpt("verify pruned") == 0
    evaluations = records(Path("pruned"), "eval")
    assert [record["step"] for record in evaluations] == [0, 5, 10, 15, 20]
    for record in evaluations[2:]:
        assert [layer["neurons"] for layer in record["layers"]] == [layer["neurons"] for layer in outcome["layers"]]
    assert evaluations[2]["loss"] == pytest.approx(records(deadly, "eval")[2]["loss"], rel=1e-6)
    assert evaluations[2]["dead_fraction"] == 0
    again = outcome_of(minigpt, capsys, "run --checkpoint 10 --prune dead --out again")
    assert again["layers"] == outcome["layers"]
    assert minigpt("train --resume again --checkpoint-every 3") == 0
    (Path("again") / "summary.json").unlink()
    (checkpoints.directory_of(Path("again"), 20) / "manifest.json").unlink()
    assert minigpt("train --resume again") == 0
    assert final_hash(Path("again")) == final_hash(Path("pruned"))
    assert comparable(Path("again")) == comparable(Path("pruned"))
    assert minigpt("surgery pruned --recycle dead --prune dead --out twice") == 0
    assert minigpt("verify twice") == 0


def test_neurons_that_only_held_text_excites_are_kept(minigpt: Command, deadly: Path, capsys: Capture) -> None:
    """Probed on one window they look dead; the held part is a test of that, and its verdict counts."""
    little = outcome_of(minigpt, capsys, "run --prune dead --tokens 16 --split val --out little")
    much = outcome_of(minigpt, capsys, "run --prune dead --tokens 0 --out much")
    surprised = sum(layer["fired_on_held"] for layer in little["layers"])
    assert surprised > sum(layer["fired_on_held"] for layer in much["layers"])
    assert little["tokens"] == 16
    for few, all_of_them in zip(much["layers"], little["layers"], strict=True):
        assert set(few["pruned"]) <= set(all_of_them["pruned"])
    original = logits(open_run(Path("run")), "train")
    narrow = logits(open_run(Path("little")), "train")
    assert (narrow - original).abs().max() <= 1e-5 * original.abs().max()


def test_a_cut_that_changes_the_logits_writes_nothing(
    refused, deadly: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong in cutting is seen on the held tokens before anything is written."""
    original = operate_on_run.prune

    def clumsy(model: GPT, cuts: list) -> GPT:
        pruned = original(model, cuts)
        with torch.no_grad():
            pruned.blocks[0].mlp.w_out.weight[0, 0] += 0.5
        return pruned

    monkeypatch.setattr(operate_on_run, "prune", clumsy)
    refused(4, "surgery run --prune dead --out pruned", says=("changes the logits", "nothing was written"))


# Recycling


def test_a_recycled_run_starts_where_it_was_and_goes_on(minigpt: Command, deadly: Path, capsys: Capture) -> None:
    """Dead neurons get new weights and empty moments; the logits are the same, later the neurons fire."""
    outcome = outcome_of(minigpt, capsys, "run --checkpoint 10 --recycle dead --out fresh")
    assert outcome["parameters"] == outcome["parameters_before"]
    assert outcome["logit_change"] == 0
    recycled = [layer["recycled"] for layer in outcome["layers"]]
    assert sum(map(len, recycled)) > 0
    event = records(Path("fresh"), "event")[-1]
    assert (event["event"], event["neurons"]) == ("neurons_recycled", recycled)
    assert event["counts"] == [len(layer) for layer in recycled]
    before, after = (checkpoints.read(checkpoints.directory_of(Path(run), 10)) for run in ("run", "fresh"))
    moments = safetensors.torch.load(after.data["optimizer.safetensors"])
    weights = [safetensors.torch.load(checkpoint.data["model.safetensors"]) for checkpoint in (before, after)]
    life = safetensors.torch.load(after.data["life.safetensors"])
    for layer, neurons in enumerate(recycled):
        prefix = f"blocks.{layer}.mlp"
        assert not weights[1][f"{prefix}.w_out.weight"][:, neurons].any()
        for moment in ("exp_avg", "exp_avg_sq"):
            assert not moments[f"{prefix}.w_in.weight/{moment}"][neurons].any()
            assert not moments[f"{prefix}.w_out.weight/{moment}"][:, neurons].any()
        others = [neuron for neuron in range(64) if neuron not in neurons]
        changed = weights[0][f"{prefix}.w_in.weight"] != weights[1][f"{prefix}.w_in.weight"]
        assert changed[neurons].all()
        assert not changed[others].any()
        assert not life[f"{layer}/dead"][neurons].any()
    assert minigpt("train --resume fresh") == 0
    assert minigpt("verify fresh") == 0


def test_the_seed_draws_the_new_weights(minigpt: Command, deadly: Path, capsys: Capture) -> None:
    """The run's own unless another is given; equal seeds give equal runs."""
    for name, flags in (("a", ""), ("b", "--seed 1337"), ("c", "--seed 5")):
        outcome_of(minigpt, capsys, f"run --recycle random:7 {flags} --out {name}")
    hashes = [checkpoints.parameter_hash(open_run(Path(name)).model) for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_pruned_first_and_then_recycled(minigpt: Command, deadly: Path, capsys: Capture) -> None:
    """Given both, what is dead is cut out, and the choice is made among the rest."""
    outcome = outcome_of(minigpt, capsys, "run --prune dead --recycle random:3 --out both")
    assert all(len(layer["recycled"]) == 3 and max(layer["recycled"]) < layer["neurons"] for layer in outcome["layers"])
    none_left = outcome_of(minigpt, capsys, "run --prune dead --recycle dead --out none")
    assert all(layer["recycled"] == [] for layer in none_left["layers"])


def test_what_it_prints(minigpt: Command, deadly: Path, capsys: Capture) -> None:
    """A row for each layer, the evidence, the saving, the loss, and the next commands."""
    assert minigpt("surgery run --prune dead --out pruned") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["layer", "0", "1"]
    text = "\n".join(lines)
    for part in ("evidence: ", "parameters: ", "loss ", "wrote pruned/", "train.py --resume pruned"):
        assert part in text


# Mistakes


def test_mistakes_are_named_and_nothing_is_written(refused, minigpt: Command, deadly: Path, workplace: Path) -> None:
    """Exit code and one line; neither the original nor a new directory changes."""
    (workplace / "taken").mkdir()
    (workplace / "taken" / "notes.txt").write_text("mine")
    for code, flags, says in (
        (2, "run --out new", ("nothing to operate on", "--prune dead")),
        (2, "run --recycle ded --out new", ("unknown neurons 'ded'", "did you mean 'dead'?")),
        (2, "run --recycle dormant:x --out new", ("dormant needs a threshold", "'x'")),
        (2, "run --recycle random:65 --out new", ("random:65", "layer 0 has 64")),
        (2, "run --prune all --out new", ("--prune", "'all'", "dead")),
        (2, "run --prune dead", ("--out",)),
        (2, "run --prune dead --out new --split test", ("--split", "'test'")),
        (2, "run --prune dead --out new --tokens -1", ("tokens", "-1")),
        (2, "run --prune dead --out new --seed -1", ("seed", "-1")),
        (2, "run --prune dead --out new --checkpoint newest", ("unknown checkpoint 'newest'",)),
        (2, "run --prune dead --out run", ("run is not empty",)),
        (2, "run --prune dead --out taken", ("taken is not empty",)),
        (5, "run --prune dead --out taken/notes.txt", ("is a file",)),
        (4, "run --prune dead --out new --checkpoint 7", ("no checkpoint of step 7", "10, 20")),
        (4, "nowhere --prune dead --out new", ("no run at nowhere",)),
    ):
        refused(code, f"surgery {flags}", says=says)


def test_a_run_without_a_checkpoint_is_refused(refused, deadly: Path) -> None:
    """There is nothing to operate on yet."""
    for step in (0, 10, 20):
        path = checkpoints.directory_of(deadly, step) / "manifest.json"
        path.unlink(missing_ok=True)
    refused(4, "surgery run --prune dead --out new", says=("no checkpoint yet",))


def test_another_text_is_refused(minigpt: Command, deadly: Path, workplace: Path, capsys: Capture) -> None:
    """Neurons that are dead on another text prove nothing of this run."""
    (workplace / "text.txt").write_text((workplace / "text.txt").read_text()[::-1])
    assert minigpt("surgery run --prune dead --out new") == 4
    assert "not the one of run" in capsys.readouterr().err
    assert not (workplace / "new").exists()
