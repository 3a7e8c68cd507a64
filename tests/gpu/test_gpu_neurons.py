"""The instrument on a GPU: the same counts, deaths and verdicts as on the CPU, of the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gpu_runs import DEVICE, RUN, on_gpu, trained_anew
from run_files import records
from small_models import IDS, lively_model, small_config, small_model

from minigpt.activations import list_activations
from minigpt.model import GPT
from minigpt.neurons.calibration import calibrate
from minigpt.neurons.counters import LayerCounter
from minigpt.neurons.knockout import mean_hidden, zero
from minigpt.neurons.layer_statistics import LayerStatistics
from minigpt.neurons.life import LifeTable, read_gradients, trapped_neurons
from minigpt.neurons.probe import NeuronProbe
from minigpt.neurons.surgery import choose, parse_choice, plan_cuts, prune, recycle, watch_ranges
from minigpt.text.batches import evaluation_batches

pytestmark = on_gpu
CPU = torch.device("cpu")


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(evaluation_batches(IDS, 16, 8, limit=1024))


def probed(model: GPT) -> list[LayerStatistics]:
    with NeuronProbe(model, deep=True) as probe, torch.no_grad():
        for inputs, _ in batches():
            model(inputs.to(model.device))
    return probe.statistics()


def test_the_instrument_passes_its_calibration_there() -> None:
    """Known answers: planted neurons, Gaussian firing rates, the certificate."""
    assert [check for check in calibrate(DEVICE) if not check.passed] == []


def test_equal_hidden_values_are_counted_equally() -> None:
    """Counts are exact integers and sums float64, so the device does not matter for the same z and h."""
    z = torch.randn(8, 16, 50, generator=torch.Generator().manual_seed(0))
    counted = []
    for device in (CPU, DEVICE):
        counter = LayerCounter(50, device)
        counter.count(z.to(device), z.relu().to(device))
        counted.append(counter.statistics())
    assert torch.equal(counted[0].fired, counted[1].fired)
    assert torch.equal(counted[0].opened, counted[1].opened)
    assert torch.allclose(counted[0].sum_square_h, counted[1].sum_square_h, rtol=1e-12)


@pytest.mark.parametrize("name", [entry.name for entry in list_activations()])
def test_the_probe_counts_what_it_counts_on_the_cpu(name: str) -> None:
    """The same weights in float32: but for hidden values at rounding, counts and sums agree, and what has slopes."""
    torch.backends.cuda.matmul.allow_tf32 = False
    cpu, gpu = probed(small_model(activation=name)), probed(small_model(activation=name).to(DEVICE))
    for a, b in zip(cpu, gpu, strict=True):
        assert a.tokens == b.tokens
        assert int((a.fired - b.fired).abs().max()) <= 2
        assert torch.equal(a.fired == 0, b.fired == 0)
        assert torch.allclose(a.sum_abs_h, b.sum_abs_h, rtol=1e-4, atol=1e-5)
        assert a.deep is not None
        assert b.deep is not None
        assert torch.allclose(a.deep.max_z, b.deep.max_z, rtol=1e-4, atol=1e-5)
        assert (a.deep.slopes is None) == (b.deep.slopes is None)


def test_lives_are_the_same_of_the_same_gradients() -> None:
    """A table that sees a model's gradients on the GPU tells the story that it tells on the CPU."""
    stories = []
    for device in (CPU, DEVICE):
        model = small_model().to(device)
        for parameter in model.parameters():
            draw = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            parameter.grad = (draw * (draw > 1)).to(device)
        model.blocks[0].mlp.w_out.weight.grad[:, :5] = 0
        table = LifeTable(model)
        stories.append((table.see_step(1, read_gradients(model)), table.tensors()))
    assert stories[0][0] == stories[1][0]
    assert all(torch.equal(value, stories[1][1][name]) for name, value in stories[0][1].items())


def test_neurons_are_changed_as_on_the_cpu() -> None:
    """Trapped, zeroed, recycled and cut neurons: masks come from the CPU, weights stay where they are."""
    torch.backends.cuda.matmul.allow_tf32 = False
    found = []
    for device in (CPU, DEVICE):
        model = lively_model(small_config(vocab_size=23, block_size=16)).to(device)
        model.blocks[0].mlp.w_in.bias.data[:4] = -100
        trapped = torch.cat(trapped_neurons(model, batches()))
        zeroed = zero(model, batches(), choose(parse_choice("dead"), model, probed(model), seed=0, step=1))
        means = torch.cat(mean_hidden(model, batches()))
        with watch_ranges(model) as ranges, torch.no_grad():
            for inputs, _ in batches():
                model(inputs.to(device))
        narrow = prune(model, plan_cuts(model, ranges))
        recycle(model, {}, choose(parse_choice("random:4"), model, None, seed=0, step=1), seed=0, step=1)
        assert narrow.device.type == device.type
        found.append((trapped, zeroed, means, narrow.parameter_count(), model.cpu().state_dict()))
    cpu, gpu = found
    assert torch.equal(cpu[0], gpu[0])
    assert gpu[1].largest_logit_change == 0.0
    assert gpu[1].loss_before == pytest.approx(cpu[1].loss_before, rel=1e-4)
    assert torch.allclose(cpu[2], gpu[2], rtol=1e-3, atol=1e-5)
    assert cpu[3] == gpu[3]
    assert all(torch.equal(value, gpu[4][name]) for name, value in cpu[4].items())


def test_a_run_is_examined_there_as_on_the_cpu(workplace: Path) -> None:
    """`evaluate` and `neurons` of one checkpoint: the dead are the same, whichever device reads it."""
    trained_anew(f"train {RUN} --dtype float32 --activation relu --out run", workplace)
    found = []
    for device in ("cpu", DEVICE):
        trained_anew(f"neurons run --device {device}", workplace)
        found.append(json.loads((workplace / "run/neurons.json").read_text()))
    cpu, gpu = found
    assert cpu["tokens"] == gpu["tokens"]
    for a, b in zip(cpu["layers"], gpu["layers"], strict=True):
        assert b["dead_fraction"] == pytest.approx(a["dead_fraction"], abs=0.01)
        assert b["density"] == pytest.approx(a["density"], rel=1e-2)
        assert b["certified_dead_fraction"] == a["certified_dead_fraction"]
    last = records(workplace / "run", "eval")[-1]
    assert last["loss"] < 4
