"""The life of neurons while training: what gradients prove, who dies, and that a stop changes nothing in the story."""

from __future__ import annotations

import json
import signal
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from conftest import TINY_RUN, Command
from run_files import comparable, final_hash, records, stop_at
from torch import Tensor
from torch.nn import functional as F

from minigpt.base.errors import CheckpointError
from minigpt.model import GPT, GPTConfig
from minigpt.neurons import life as life_module
from minigpt.neurons.life import NEVER, TRAPPED_WINDOW, LayerGradients, LifeTable, read_gradients, silent_counts
from minigpt.neurons.probe import LayerStatistics
from minigpt.training import checkpoints

DEADLY = f"{TINY_RUN} --steps 40 --eval-every 5 --checkpoint-every 8 --lr 0.1 --schedule constant --warmup-steps 0"


def tiny(activation: str = "relu", d_ff: int | str = 12) -> GPT:
    config = GPTConfig(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=8, d_ff=d_ff, activation=activation)
    return GPT(config, seed=5)


def gradients(fired: list[int], pulled: list[int] | None = None, neurons: int = 4) -> LayerGradients:
    def mask(chosen: list[int]) -> Tensor:
        return torch.tensor([neuron in chosen for neuron in range(neurons)])

    return LayerGradients(mask(fired), mask(fired if pulled is None else pulled))


def counted(fired: list[int]) -> LayerStatistics:
    zeros = torch.zeros(len(fired), dtype=torch.float64)
    return LayerStatistics(100, torch.tensor(fired), torch.tensor(fired), zeros, zeros, zeros)


# Gradients as witnesses


@pytest.mark.parametrize("activation", ["relu", "relu2", "reglu", "gelu", "step_ste", "glu"])
def test_a_zero_gradient_means_silence_on_the_whole_batch(activation: str) -> None:
    """Against h itself, watched over two micro-batches: some neurons fire in both, in one, in none."""
    model = tiny(activation)
    gate = model.blocks[0].mlp.w_in
    with torch.no_grad():
        gate.weight[3], gate.bias[3] = 0, -200.0  # never opens; smooth functions are exactly 0 there as well
        gate.weight[9], gate.bias[9] = 0, 200.0  # always open; of GLU only the value is moved then
        gate.weight[:, :] *= 40  # so that there are neurons which fire on few tokens
        gate.bias[4:8] = -4.0
    seen: list[list[Tensor]] = [[], []]
    for layer, block in enumerate(model.blocks):
        block.mlp.act.register_forward_hook(lambda module, inputs, h, layer=layer: seen[layer].append(h.detach()))
    for part in range(2):
        ids = torch.randint(11, (2, 8), generator=torch.Generator().manual_seed(part))
        F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
    for layer, evidence in enumerate(read_gradients(model)):
        assert evidence is not None
        hidden = torch.cat(seen[layer]).flatten(0, 1)
        assert torch.equal(evidence.fired, (hidden != 0).any(0))
        rows = model.blocks[layer].mlp.w_in.weight.grad.view(model.blocks[layer].mlp.act.branches, -1, 8)
        assert torch.equal(evidence.pulled, (rows != 0).any(2).any(0))
    evidence = read_gradients(model)
    assert evidence[0] is not None
    assert not evidence[0].fired[3]
    assert silent_counts(evidence)[0] == int((~evidence[0].fired).sum()) > 0


def test_a_layer_that_no_gradient_reached_says_nothing() -> None:
    """Silence then proves nothing: neither counts nor lives may take note of it."""
    model = tiny(d_ff=4)
    model(torch.zeros(1, 4, dtype=torch.long)).mul(0).sum().backward()
    assert read_gradients(model) == [None, None]
    assert silent_counts([None, gradients([1])]) == [None, 3]
    life = LifeTable(model)
    assert life.see_step(1, [None, gradients([0, 1])]) == []
    assert [int(layer.watched) for layer in life.layers] == [0, 1]
    assert life.layers[0].last_fired.tolist() == [NEVER] * 4
    assert life.layers[1].last_fired.tolist() == [1, 1, NEVER, NEVER]


# Deaths and revivals


def test_deaths_come_from_evaluations_and_revivals_from_either_witness() -> None:
    """A life of ten steps, told by hand: silence on a batch is no death, one sight of firing ends it."""
    life = LifeTable(tiny(d_ff=4))
    rest = gradients([0, 1, 2, 3])
    assert life.see_step(1, [gradients([0, 1]), rest]) == []  # 2 and 3 are silent, and that is all
    died = life.see_evaluation(1, [counted([5, 0, 0, 1]), counted([1, 1, 1, 1])])
    assert died == [
        {
            "kind": "event", "event": "neurons_died", "step": 1, "layer": 0,
            "neurons": [1, 2], "again": [], "last_fired": [1, None],
        }
    ]  # fmt: skip
    revived = life.see_step(2, [gradients([0, 2]), rest])
    assert [(event["event"], event["step"], event["neurons"]) for event in revived] == [("neurons_revived", 2, [2])]
    events = life.see_evaluation(3, [counted([5, 1, 0, 0]), counted([1, 1, 1, 1])])
    assert [(event["event"], event["neurons"], event["again"]) for event in events] == [
        ("neurons_died", [2, 3], [2]),
        ("neurons_revived", [1], []),
    ]
    assert life.layers[0].dead.tolist() == [False, False, True, True]
    life.begin_anew([torch.tensor([False, False, True, False]), torch.zeros(4, dtype=torch.bool)])
    assert life.layers[0].dead.tolist() == [False, False, False, True]
    again = life.see_evaluation(5, [counted([5, 1, 0, 0]), counted([1, 1, 1, 1])])
    assert [(event["neurons"], event["again"]) for event in again] == [([2], [2])]


def test_a_neuron_is_trapped_after_a_whole_window() -> None:
    """Unknown until the window is full; one gradient within it sets a neuron free."""
    life = LifeTable(tiny(d_ff=4))
    for step in range(1, TRAPPED_WINDOW + 1):
        assert life.trapped_counts() == [None, None]
        pulled = [0, 1] if step == 2 else [0]
        life.see_step(step, [gradients([0, 1, 2], pulled), None])
    assert life.trapped_counts() == [2, None]  # 2 and 3; 1 was moved at the second step
    life.see_step(TRAPPED_WINDOW + 1, [gradients([0], [0]), None])
    life.see_step(TRAPPED_WINDOW + 2, [gradients([0], [0]), None])
    assert life.trapped_counts() == [3, None]


def test_a_table_returns_from_its_tensors_and_fits_one_model_only() -> None:
    """What a checkpoint holds is the whole table; that of another width is refused."""
    model, life = tiny(d_ff=4), LifeTable(tiny(d_ff=4))
    life.see_step(1, [gradients([0, 1]), gradients([2])])
    life.see_evaluation(1, [counted([5, 0, 0, 1]), counted([1, 1, 1, 1])])
    other = LifeTable(model)
    other.load(life.tensors())
    assert all(torch.equal(value, life.tensors()[name]) for name, value in other.tensors().items())
    assert other.see_evaluation(2, [counted([0] * 4)] * 2) == life.see_evaluation(2, [counted([0] * 4)] * 2)
    for wrong in (LifeTable(tiny(d_ff="0=4,1=5")).tensors(), {}, {**life.tensors(), "0/dead": torch.zeros(4)}):
        with pytest.raises(CheckpointError, match="life table"):
            other.load(wrong)


# Whole trainings


def dead_by_events(run: Path) -> dict[tuple[int, int], set[int]]:
    """Who is dead in each layer after each evaluation, from the events alone."""
    dead: dict[int, set[int]] = defaultdict(set)
    log, found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()], {}
    for place, record in enumerate(log):
        if record["kind"] == "event":
            change = set(record["neurons"])
            assert dead[record["layer"]].isdisjoint(change) == (record["event"] == "neurons_died")
            dead[record["layer"]] ^= change
        ended = place + 1 == len(log) or log[place + 1]["kind"] != "event"
        if ended and record["step"] % 5 == 0 and log[place]["kind"] != "train":
            found |= {(record["step"], layer): set(dead[layer]) for layer in range(2)}
    return found


def test_events_add_up_to_every_dead_fraction(minigpt: Command, workplace: Path, haste: None) -> None:
    """Births of death less revivals are, after each evaluation, the neurons that it calls dead."""
    assert minigpt(f"train {DEADLY} --out run") == 0
    events = records(Path("run"), "event")
    assert {event["event"] for event in events} == {"neurons_died", "neurons_revived"}
    assert any(event["again"] for event in events)
    dead = dead_by_events(Path("run"))
    for record in records(Path("run"), "eval"):
        for layer in record["layers"]:
            counted_dead = layer["dead_fraction"] * layer["neurons"]
            assert len(dead[record["step"], layer["layer"]]) == pytest.approx(counted_dead)


@pytest.mark.parametrize("check_number", [20, 37, 50])
def test_a_stop_changes_nothing_in_the_story(
    minigpt: Command, workplace: Path, haste: None, monkeypatch: pytest.MonkeyPatch, check_number: int
) -> None:
    """Events, silent and trapped counts after a stop and a resume are those of the uninterrupted training."""
    assert minigpt(f"train {DEADLY} --out whole") == 0
    with monkeypatch.context() as patch:
        stop_at(patch, check_number, signal.SIGTERM)
        assert minigpt(f"train {DEADLY} --out cut") == 143
    assert minigpt("train --resume cut") == 0
    assert comparable(Path("cut")) == comparable(Path("whole"))
    trapped = [record["trapped"] for record in records(Path("whole"), "train")]
    assert trapped[TRAPPED_WINDOW - 2] == [None, None]
    assert max(trapped[-1]) > 0
    tensors = [
        checkpoints.read(checkpoints.directory_of(Path(run), 40)).data["life.safetensors"] for run in ("whole", "cut")
    ]
    assert tensors[0] == tensors[1]


def test_the_gradient_test_changes_no_bit(
    minigpt: Command, workplace: Path, haste: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it on every step, and with it replaced by one that knows nothing, the parameters end the same."""
    assert minigpt(f"train {DEADLY} --dropout 0.1 --out on") == 0
    monkeypatch.setattr("minigpt.training.step.read_gradients", lambda model: [None] * len(model.blocks))
    assert minigpt(f"train {DEADLY} --dropout 0.1 --out off") == 0
    assert final_hash(Path("on")) == final_hash(Path("off"))
    assert records(Path("off"), "train")[-1]["silent"] == [None, None]
    assert life_module.TRAPPED_WINDOW < 40
