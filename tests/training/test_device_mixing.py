"""Training, evaluation, probe and sampling on a GPU that has no values: no operation mixes devices there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import GPU, fake_gpu
from small_models import CONFIG, IDS, small_model
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError

from minigpt.activations import list_activations
from minigpt.model import GPT
from minigpt.neurons.expendable import expendable
from minigpt.neurons.health import model_health
from minigpt.neurons.knockout import mean_hidden, read_up_to, zero
from minigpt.neurons.probe import LayerStatistics, NeuronProbe
from minigpt.neurons.surgery import choose, parse_choice, watch_ranges
from minigpt.sampling.generate import generate
from minigpt.sampling.token_choice import TokenChoice
from minigpt.text.batches import evaluation_batches, near
from minigpt.training.config import RunConfig
from minigpt.training.evaluation import evaluate
from minigpt.training.not_finite import first_bad
from minigpt.training.optimizers import Optimizer, build_optimizer, load_state_tensors, state_tensors
from minigpt.training.step import StepResult, Trainee, take_step

ON_GPU = replace(CONFIG, device="cuda", dtype="bfloat16", attention="fused", grad_clip=1.0)
BYTE_LENGTHS = np.ones(23, dtype=np.int64)


@pytest.fixture(autouse=True)
def gpu() -> Iterator[None]:
    if sys.platform != "linux":
        pytest.skip("torch's table of devices is looked up as Linux names it")
    with fake_gpu():
        yield


def on_gpu(**changes: Any) -> GPT:
    return small_model(**({"attention": "fused"} | changes)).to(GPU)


def one_step(model: GPT, config: RunConfig = ON_GPU, ids: Any = None) -> tuple[Optimizer, StepResult]:
    optimizer = build_optimizer(model, config)
    trainee = Trainee(model, model, optimizer, near(IDS, GPU) if ids is None else ids, config)
    return optimizer, take_step(trainee, step=3, watch_neurons=True)


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(evaluation_batches(IDS, 16, 8, limit=128))


@pytest.mark.parametrize("name", [entry.name for entry in list_activations()])
def test_a_step_of_each_activation(name: str):
    """Weights, gradients and moments stay on the GPU, in bfloat16 and with each activation's own tensors."""
    model = on_gpu(activation=name)
    optimizer, result = one_step(model)
    assert {parameter.grad.device for parameter in model.parameters() if parameter.grad is not None} == {GPU}
    assert {value.device for value in state_tensors(model, optimizer).values()} == {GPU}
    assert result.gradients is not None
    assert {layer.fired.device.type for layer in result.gradients if layer} == {"cpu"}


@pytest.mark.parametrize(
    ("of_config", "of_model"),
    [
        ({"dtype": "float32"}, {}),
        ({"grad_accumulation": 2, "batch_size": 4}, {}),
        ({"dropout": 0.1}, {"dropout": 0.1}),
        ({"l1": 1e-4}, {}),
        ({"token_noise": 0.1}, {}),
        ({}, {"norm": "rmsnorm", "position": "rope", "bias": False}),
        ({}, {"norm": "batchnorm"}),
        ({}, {"attention": "mean"}),
        ({}, {"attention": "written"}),
        ({}, {"tie_embeddings": False, "d_ff": "0=24,1=32"}),
        *(({"optimizer": name}, {}) for name in ("adam", "lion", "muon", "sgd", "momentum", "nesterov")),
    ],
    ids=str,
)
def test_a_step_of_each_kind(of_config: dict[str, Any], of_model: dict[str, Any]):
    """No option of a training reaches for the CPU."""
    one_step(on_gpu(**of_model), replace(ON_GPU, **of_config))


def test_products_are_in_bfloat16():
    """A step that autocast does not reach would say nothing of the dtypes that a GPU meets."""
    model, seen = on_gpu(), set()
    model.blocks[0].mlp.w_in.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    one_step(model)
    assert seen == {torch.bfloat16}


def test_a_step_on_a_text_too_long_for_the_gpu():
    """Tokens that stay in memory are read there, and windows follow the model."""
    one_step(on_gpu(), ids=IDS)


def test_resumed_moments_follow_the_weights():
    """A checkpoint is read on the CPU; what an optimizer remembers must not stay there."""
    model = on_gpu()
    optimizer, _ = one_step(model)
    stored = {name: tensor.cpu() for name, tensor in state_tensors(model, optimizer).items()}
    load_state_tensors(model, optimizer, stored)
    assert {value.device for value in state_tensors(model, optimizer).values()} == {GPU}


@pytest.mark.parametrize("activation", ["relu", "swiglu", "prelu", "softmax"])
def test_an_evaluation(activation: str):
    """Loss and counts are added up on the GPU; what is published of neurons is on the CPU."""
    found = evaluate(on_gpu(activation=activation), IDS, BYTE_LENGTHS, split="val", dtype="bfloat16", limit=200)
    assert {value.device.type for layer in found.statistics for value in vectors(layer)} == {"cpu"}


@pytest.mark.parametrize("name", [entry.name for entry in list_activations()])
def test_a_deep_probe_of_each_activation(name: str):
    """Slopes, sequences and largest pre-activations are counted where the hidden values are."""
    model = on_gpu(activation=name)
    statistics = probed(model)
    assert {value.device.type for layer in statistics for value in vectors(layer)} == {"cpu"}
    assert len(model_health(model, statistics)) == 2


def probed(model: GPT) -> list[LayerStatistics]:
    with NeuronProbe(model, deep=True) as probe, torch.no_grad():
        for inputs, _ in batches():
            model(inputs.to(GPU))
    return probe.statistics()


def vectors(layer: LayerStatistics) -> list[torch.Tensor]:
    deep = [] if layer.deep is None else [layer.deep.max_z, layer.deep.fired_sequences, layer.deep.first_sequence]
    return [layer.fired, layer.opened, layer.sum_h, layer.sum_abs_h, layer.sum_square_h, *deep]


@pytest.mark.parametrize(
    "changes", [{}, {"position": "rope"}, {"attention": "mean"}, {"attention": "written"}], ids=str
)
@pytest.mark.parametrize(
    ("cached", "dtype"), [(True, torch.float32), (True, torch.bfloat16), (False, torch.float32)], ids=str
)
def test_sampling(changes: dict[str, Any], cached: bool, dtype: torch.dtype):
    """Prompt, uniform numbers, cache and choice meet on the GPU, past the context too."""
    choice = TokenChoice(temperature=0.8, top_k=5, top_p=0.9)
    texts = generate(
        on_gpu(block_size=4, **changes),
        torch.tensor([1, 2, 3]),
        choice,
        max_new_tokens=3,
        num_samples=2,
        cached=cached,
        dtype=dtype,
    )
    assert {chosen.device for chosen in texts} == {GPU}


def test_neurons_are_removed():
    """What replaces neurons takes masks and means from the CPU to the model."""
    model = on_gpu()
    statistics, means = probed(model), mean_hidden(model, batches())
    masks = choose(parse_choice("dormant:0.1"), model, statistics, seed=0, step=1)
    zero(model, batches(), masks)
    text = read_up_to(model, 1, batches())
    expendable(model, text, means, [layer.sum_abs_h for layer in statistics], layer=1)
    with watch_ranges(model), torch.no_grad():
        model(batches()[0][0].to(GPU))
    assert first_bad(model, batches()[0][0].to(GPU)) == ""


@pytest.mark.parametrize("place", ["step", "evaluation", "sampling", "probe"])
def test_a_tensor_left_on_the_cpu_is_found(place: str):
    """The checks above must be able to fail: a gain that stayed behind stops each of them."""
    model = on_gpu()
    model.blocks[1].ln_2._parameters["weight"] = torch.nn.Parameter(torch.ones(16, device="cpu"))
    work = {
        "step": lambda: one_step(model),
        "evaluation": lambda: evaluate(model, IDS, BYTE_LENGTHS, split="val", dtype="bfloat16", limit=200),
        "sampling": lambda: list(generate(model, torch.tensor([1, 2]), TokenChoice(), max_new_tokens=2)),
        "probe": lambda: probed(model),
    }
    with pytest.raises(FakeTensorDeviceMismatchError, match="cuda:0"):
        work[place]()


def test_a_gradient_on_another_device_is_found():
    """Backward passes are looked at too: a gradient that a hook moves to the CPU is refused."""
    model = on_gpu()
    model.blocks[0].mlp.register_forward_hook(lambda module, inputs, output: _Strayed.apply(output))
    with pytest.raises(AssertionError, match="a gradient on cpu"):
        one_step(model)


class _Strayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.cpu()
