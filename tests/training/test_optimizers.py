"""Optimizers and schedules: equal to arithmetic by hand and to torch, restored bit for bit, functions of the step."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from minigpt.base.errors import CheckpointError
from minigpt.model import GPT, GPTConfig
from minigpt.training.config import OPTIMIZERS, SCHEDULES, RunConfig
from minigpt.training.optimizers import Optimizer, build_optimizer, load_state_tensors, state_tensors
from minigpt.training.schedules import learning_rate
from minigpt.training.update_rules import orthogonal

RATE = 1e-2
CONFIG = RunConfig(lr=RATE, min_lr=1e-3, warmup_steps=100, steps=1000, weight_decay=0.1, beta1=0.9, beta2=0.95)


def small_model(seed: int = 0) -> GPT:
    return GPT(GPTConfig(vocab_size=23, block_size=8, n_layer=2, n_head=2, n_embd=16, activation="prelu"), seed)


def give_gradients(model: GPT, step: int) -> None:
    """Gradients that depend on the step alone."""
    random = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=random)


def update(model: GPT, optimizer: Optimizer, step: int) -> None:
    give_gradients(model, step)
    optimizer.step(RATE)


def weights(model: GPT) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


# Update rules, by hand in float64


def adam_by_hand(weight: Tensor, gradients: list[Tensor], decay: float) -> Tensor:
    """Loshchilov & Hutter 2019, algorithm 2, with decoupled decay."""
    m = v = torch.zeros_like(weight)
    for t, g in enumerate(gradients, start=1):
        m = 0.9 * m + 0.1 * g
        v = 0.95 * v + 0.05 * g * g
        step = (m / (1 - 0.9**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8)
        weight = weight - 1e-2 * (decay * weight + step)
    return weight


def lion_by_hand(weight: Tensor, gradients: list[Tensor], decay: float) -> Tensor:
    """Chen et al. 2023, algorithm 2."""
    m = torch.zeros_like(weight)
    for g in gradients:
        weight = weight - 1e-2 * (torch.sign(0.9 * m + 0.1 * g) + decay * weight)
        m = 0.95 * m + 0.05 * g
    return weight


def sgd_by_hand(momentum: float, nesterov: bool):
    def rule(weight: Tensor, gradients: list[Tensor], decay: float) -> Tensor:
        """Sutskever et al. 2013 in torch's form, decay as part of the gradient."""
        buffer = torch.zeros_like(weight)
        for g in gradients:
            g = g + decay * weight
            buffer = momentum * buffer + g
            weight = weight - 1e-2 * (g + momentum * buffer if nesterov else buffer)
        return weight

    return rule


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("adamw", adam_by_hand),
        ("lion", lion_by_hand),
        ("sgd", sgd_by_hand(0.0, False)),
        ("momentum", sgd_by_hand(0.9, False)),
        ("nesterov", sgd_by_hand(0.9, True)),
    ],
)
def test_equals_its_formula_in_float64(name: str, by_hand):
    """Five updates of every parameter; matrices decay, biases, gains and an activation's slope do not."""
    model = small_model()
    start = weights(model)
    optimizer = build_optimizer(model, replace(CONFIG, optimizer=name))
    gradients: dict[str, list[Tensor]] = {name: [] for name in start}
    for step in range(5):
        update(model, optimizer, step)
        for parameter_name, parameter in model.named_parameters():
            gradients[parameter_name].append(parameter.grad.double())
    for parameter_name, value in weights(model).items():
        decay = 0.1 if value.dim() == 2 else 0.0
        expected = by_hand(start[parameter_name].double(), gradients[parameter_name], decay)
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6, msg=parameter_name)


def torchs_own(name: str, matrices: list[Tensor], vectors: list[Tensor]) -> list[torch.optim.Optimizer]:
    """torch's classes for the same rule; its Muon takes matrices only."""
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    if name == "muon":
        turning = torch.optim.Muon(matrices, RATE, 0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
        return [turning, torch.optim.AdamW(groups[1:], lr=RATE, betas=(0.9, 0.95))]
    if name in ("adamw", "adam"):
        kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
        return [kind(groups, lr=RATE, betas=(0.9, 0.95))]
    momentum = 0.0 if name == "sgd" else 0.9
    return [torch.optim.SGD(groups, lr=RATE, momentum=momentum, nesterov=name == "nesterov")]


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"lion"}))
def test_equals_torchs_own_class(name: str):
    """The kernels are torch's, the order of what is done around them is not. Of Muon, products differ by rounding."""
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon to compare with")
    model, other = small_model(), small_model()
    if name == "muon":  # torch leaves the choice of matrices to its caller
        other.wte.weight.requires_grad_(False)
        other.lm_head.weight.requires_grad_(False)
        other.wpe.weight.requires_grad_(False)
    moving = [parameter for parameter in other.parameters() if parameter.requires_grad]
    expected = torchs_own(name, [p for p in moving if p.dim() == 2], [p for p in moving if p.dim() < 2])
    optimizer = build_optimizer(model, replace(CONFIG, optimizer=name, dtype="bfloat16"))
    for step in range(5):
        update(model, optimizer, step)
        give_gradients(other, step)
        for one in expected:
            one.step()
    tolerance = {"rtol": 0, "atol": 2e-3 * RATE * 5} if name == "muon" else {"rtol": 1e-5, "atol": 1e-7}
    for parameter_name, value in other.named_parameters():
        if value.requires_grad:
            torch.testing.assert_close(weights(model)[parameter_name], value.detach(), **tolerance, msg=parameter_name)


@pytest.mark.parametrize("decay_all", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_touches_matrices_and_only_if_asked_vectors(name: str, decay_all: bool):
    """With gradients of zero only decay moves a weight."""
    model = small_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    start = weights(model)
    optimizer = build_optimizer(model, replace(CONFIG, optimizer=name, decay_all=decay_all))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(RATE)
    for parameter_name, value in weights(model).items():
        moved = not torch.equal(value, start[parameter_name])
        assert moved == (decay_all or value.dim() == 2), parameter_name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_has_one_optimizer(name: str):
    """None forgotten, none updated twice, also where two rules share a model."""
    model = small_model()
    optimizer = build_optimizer(model, replace(CONFIG, optimizer=name))
    owned = [parameter for group in optimizer.groups for parameter in group.parameters]
    assert len(owned) == len({id(parameter) for parameter in owned}) == len(list(model.parameters()))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_learns(name: str):
    """Thirty updates on one batch lower the loss with each rule, at a rate that suits it."""
    model = small_model()
    rate = {"sgd": 0.5, "momentum": 0.1, "nesterov": 0.1}.get(name, 5e-3)
    optimizer = build_optimizer(model, replace(CONFIG, optimizer=name))
    ids, targets = torch.randint(23, (2, 4, 8), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        model.zero_grad()
        loss.backward()
        optimizer.step(rate)
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_muon_turns_only_the_matrices_inside_the_blocks():
    """Embeddings and vectors stay with AdamW; a Muon step on a matrix has nearly equal singular values."""
    model = small_model()
    optimizer = build_optimizer(model, replace(CONFIG, optimizer="muon", weight_decay=0.0))
    inside = {id(parameter) for parameter in model.blocks.parameters() if parameter.dim() == 2}
    assert {id(parameter) for parameter in optimizer.groups[0].parameters} == inside
    before = model.blocks[0].mlp.w_in.weight.detach().clone()
    update(model, optimizer, 0)
    singular = torch.linalg.svdvals(model.blocks[0].mlp.w_in.weight.detach() - before)
    assert singular.max() < 2.5 * singular.min()


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (8, 24), (16, 48)])
def test_muon_turns_each_matrix_of_a_stack_as_alone(rows: int, columns: int):
    """Stacked for speed, and computed in float64: singular vectors stay, singular values come near 1."""
    matrices = torch.randn(5, rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turned = orthogonal(matrices, torch.float64)
    for matrix, result in zip(matrices, turned, strict=True):
        torch.testing.assert_close(orthogonal(matrix[None], torch.float64)[0], result)
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        inside = left.T @ result @ right.T  # diagonal if the singular vectors are the same
        assert (inside - torch.diag(inside.diagonal())).abs().max() < 1e-9
        assert 0.5 < inside.diagonal().min() <= inside.diagonal().max() < 1.3


def test_building_and_using_an_optimizer_does_not_import_torchs_compiler():
    """torch's classes do, which takes more than a second before the first step."""
    code = """
import sys, torch
from minigpt.model import GPT, GPTConfig
from minigpt.training.config import RunConfig
from minigpt.training.optimizers import build_optimizer
model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4, activation="relu"))
optimizer = build_optimizer(model, RunConfig())
model(torch.zeros(1, 4, dtype=torch.int64)).sum().backward()
optimizer.step(0.1)
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# State


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_restored_state_gives_the_same_next_updates(name: str):
    """A resumed run continues bit for bit: three updates, a restart, three more, against six in one go."""
    config = replace(CONFIG, optimizer=name)
    model = small_model()
    optimizer = build_optimizer(model, config)
    for step in range(3):
        update(model, optimizer, step)
    resumed = small_model(seed=9)
    resumed.load_state_dict(model.state_dict())
    resumed_optimizer = build_optimizer(resumed, config)
    stored = {key: tensor.clone() for key, tensor in state_tensors(model, optimizer).items()}
    load_state_tensors(resumed, resumed_optimizer, stored)
    restored = state_tensors(resumed, resumed_optimizer)
    assert restored.keys() == stored.keys()
    assert all(torch.equal(restored[key], stored[key]) and restored[key].dtype == stored[key].dtype for key in stored)
    for step in range(3, 6):
        update(model, optimizer, step)
        update(resumed, resumed_optimizer, step)
    expected = weights(model)
    assert all(torch.equal(value, expected[key]) for key, value in weights(resumed).items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_before_the_first_update_restores_too(name: str):
    """A checkpoint of step 0 holds no state."""
    model = small_model()
    optimizer = build_optimizer(model, replace(CONFIG, optimizer=name))
    assert state_tensors(model, optimizer) == {}
    load_state_tensors(model, optimizer, {})


def test_state_names_its_parameters():
    """Names, not numbers: a reader of a checkpoint must be able to tell what is what."""
    model = small_model()
    optimizer = build_optimizer(model, CONFIG)
    update(model, optimizer, 0)
    names = set(state_tensors(model, optimizer))
    assert names == {
        f"{name}/{key}" for name, _ in model.named_parameters() for key in ("exp_avg", "exp_avg_sq", "step")
    }


def test_refuses_state_that_does_not_fit():
    """State of another architecture would be broadcast or ignored in silence."""
    model = small_model()
    optimizer = build_optimizer(model, CONFIG)
    update(model, optimizer, 0)
    stored = state_tensors(model, optimizer)
    with pytest.raises(CheckpointError, match="unknown parameters; got other"):
        load_state_tensors(model, optimizer, stored | {"other.weight/exp_avg": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"wte\.weight/exp_avg has shape \(2, 3\); the parameter has \(23, 16\)"):
        load_state_tensors(model, optimizer, stored | {"wte.weight/exp_avg": torch.zeros(2, 3)})


# Schedules


def test_cosine_is_nanogpts():
    """Warm-up from lr/(warmup+1), then half a cosine from lr to min_lr, then min_lr."""

    def by_hand(step: int) -> float:
        if step < 100:
            return 1e-2 * (step + 1) / 101
        if step > 1000:
            return 1e-3
        ratio = (step - 100) / 900
        return 1e-3 + 0.5 * (1 + math.cos(math.pi * ratio)) * 9e-3

    for step in range(1200):
        assert learning_rate(CONFIG, step) == pytest.approx(by_hand(step), rel=1e-12), step


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", {100: 1e-2, 550: 5.5e-3, 1000: 1e-3, 5000: 1e-3}),
        ("linear", {100: 1e-2, 550: 5.5e-3, 325: 7.75e-3, 1000: 1e-3, 5000: 1e-3}),
        ("constant", {100: 1e-2, 550: 1e-2, 1000: 1e-2, 5000: 1e-2}),
        ("wsd", {100: 1e-2, 550: 1e-2, 820: 1e-2, 910: 5.5e-3, 1000: 1e-3, 5000: 1e-3}),
    ],
)
def test_schedules_at_known_points(schedule: str, expected: dict[int, float]):
    """The peak right after warm-up, the middle, the end, and beyond it."""
    config = replace(CONFIG, schedule=schedule)
    assert learning_rate(config, 0) == pytest.approx(1e-2 / 101)
    assert learning_rate(config, 99) == pytest.approx(1e-2 * 100 / 101)
    for step, rate in expected.items():
        assert learning_rate(config, step) == pytest.approx(rate, rel=1e-9), step


@given(st.sampled_from(SCHEDULES), st.integers(0, 300), st.integers(0, 400), st.integers(0, 500))
@settings(max_examples=100, deadline=None)
def test_schedules_stay_between_their_bounds(schedule: str, warmup: int, steps: int, step: int):
    """Any combination, warm-up longer than the run included: positive, at most the peak, the same when asked again."""
    config = replace(CONFIG, schedule=schedule, warmup_steps=warmup, steps=steps)
    rate = learning_rate(config, step)
    assert 0 < rate <= 1e-2 * (1 + 1e-12)
    assert step < warmup or rate >= 1e-3
    learning_rate(config, step + 1)
    assert learning_rate(config, step) == rate
