"""The activation registry: every property is checked for every entry, so a new activation is tested by being added."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from minigpt.activations import (
    Activation,
    ActivationEntry,
    build_activation,
    list_activations,
    parse_activation,
)

ENTRIES = list_activations()
ELEMENTWISE = [entry for entry in ENTRIES if entry.elementwise]
DIFFERENTIABLE = [entry for entry in ELEMENTWISE if not entry.surrogate_gradient]
SMOOTH_POINTS = (-100.0, -30.0, -7.7, -6.3, -2.7, -1.3, -1.0, -0.3, 0.2, 1.0, 1.7, 2.6, 7.9, 30.0, 100.0)


def each(entries: list[ActivationEntry] = ENTRIES) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("entry", entries, ids=lambda entry: entry.name)


def grid(low: float = -12.0, high: float = 12.0) -> Tensor:
    """Return a float64 grid of spacing 1/512 that holds the whole numbers, where the kinks are."""
    return torch.arange(low * 512, high * 512 + 1, dtype=torch.float64) / 512


def slope(phi: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Return the gradient that autograd gives at each point of z."""
    z = z.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(phi(z).sum(), z)
    return gradient


# The registry


@each()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_no_number_stays_none(entry: ActivationEntry, dtype: torch.dtype):
    """A layer that diverged must not read as dead: NaN goes in, NaN comes out, alone and among numbers."""
    phi = build_activation(entry.name)
    for width in (1, 64):
        z = torch.full((3, entry.branches * width), 0.5, dtype=dtype)
        z[1, 0] = math.nan
        h = phi(z)
        assert h[1, 0].isnan()
        assert h[0].isfinite().all()
        assert h[2].isfinite().all()


def test_holds_the_names_that_the_design_promises():
    """A renamed or dropped activation breaks configurations that people have written down."""
    plain = (
        "relu relu2 relu6 leaky_relu leaky_relu2 prelu elu selu celu gelu gelu_tanh quick_gelu silu silu_beta "
        "hardswish mish softplus softsign sigmoid tanh softmax step step_ste identity"
    )
    gated = "glu bilinear reglu geglu swiglu"
    assert set(plain.split()) <= {entry.name for entry in ENTRIES if not entry.gated}
    assert set(gated.split()) <= {entry.name for entry in ENTRIES if entry.gated}
    assert {entry.name for entry in ENTRIES if entry.learnable} >= {"prelu", "silu_beta"}


@each()
def test_every_entry_is_documented(entry: ActivationEntry):
    """Reports print the formula and the paper; a source without a year cannot be looked up."""
    assert entry.summary
    assert any(word.strip("(),").isdigit() and len(word.strip("(),")) == 4 for word in entry.source.split())
    assert set(entry.learnable) <= dict(entry.arguments).keys()


@each()
def test_aliases_and_spellings_mean_the_same(entry: ActivationEntry):
    """An alias, a capital or a dash must not silently choose another function."""
    for name in (entry.name, *entry.aliases):
        for spelling in (name, name.upper(), name.replace("_", "-"), f" {name} "):
            assert parse_activation(spelling, 1) == (entry.name,)


def test_names_shared_with_hf_agree_with_its_functions():
    """A checkpoint exported to HF names its activation; the same name must be the same function there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.activations import ACT2CLS, ACT2FN
    ours = {name for entry in ENTRIES for name in (entry.name, *entry.aliases)}
    shared = ours & set(ACT2CLS)
    assert shared >= {
        *("gelu", "gelu_new", "gelu_pytorch_tanh", "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2"),
        *("relu6", "sigmoid", "silu", "swish", "tanh"),
    }
    z = grid(-9, 9)
    for name in shared:
        theirs = ACT2FN[name]
        expected = theirs.double()(z) if isinstance(theirs, nn.Module) else theirs(z)
        torch.testing.assert_close(build_activation(name).phi(z), expected, rtol=1e-12, atol=1e-12, msg=name)


# The module


@each()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_keeps_shape_dtype_and_device(entry: ActivationEntry, dtype: torch.dtype):
    """h is (B, T, F) in the dtype of z, on its device, even under autocast, which returns some functions in float32."""
    act = build_activation(entry.name)
    assert act.branches == (2 if entry.gated else 1)
    x = torch.randn(2, 3, act.branches * 8, dtype=dtype)
    assert act.preactivation(x).shape == (2, 3, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        h = act(x)
    assert (h.shape, h.dtype) == ((2, 3, 8), dtype)
    on_meta = build_activation(entry.name).to("meta")(x.to("meta"))
    assert (on_meta.shape, on_meta.dtype, on_meta.device.type) == ((2, 3, 8), dtype, "meta")


def test_a_function_that_answers_in_float32_is_brought_back():
    """CUDA's autocast runs softmax and softplus in float32; h must not double the memory of the next matrix product."""
    entry = replace(build_activation("softmax").entry, function=lambda z: z.float().softmax(dim=-1))
    assert Activation(entry, {})(torch.zeros(1, 1, 4, dtype=torch.bfloat16)).dtype is torch.bfloat16


@each()
def test_first_half_is_the_gate(entry: ActivationEntry):
    """Swapped halves would make every neuron statistic of a gated layer speak of the wrong vector."""
    act = build_activation(entry.name)
    x = torch.randn(2, 3, act.branches * 4)
    torch.testing.assert_close(act.preactivation(x), x[..., :4], rtol=0, atol=0)
    expected = act.phi(x[..., :4]) * (x[..., 4:] if entry.gated else 1)
    torch.testing.assert_close(act(x), expected, rtol=0, atol=0)


@each()
def test_each_layer_has_its_own_module_and_parameters(entry: ActivationEntry):
    """Shared modules merge hook counts and tie learnable slopes of different layers."""
    first, second = build_activation(entry.name), build_activation(entry.name)
    assert first is not second
    assert [name for name, _ in first.named_parameters()] == list(entry.learnable)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert one is not other
        assert one.ndim == 0
    twin = copy.deepcopy(first)
    twin.load_state_dict(second.state_dict())
    assert twin.spec == first.spec
    assert repr(first) == f"Activation({entry.name})"


def test_arguments_reach_the_function():
    """An argument that is parsed and then dropped would make two arms of an ablation identical."""
    z = torch.tensor([-2.0])
    assert build_activation("leaky_relu:0.1").phi(z).item() == pytest.approx(-0.2)
    assert build_activation("prelu:0.5").phi(z).item() == -1.0
    assert build_activation("elu:2").phi(z).item() == pytest.approx(2 * math.expm1(-2))
    assert build_activation("silu_beta:3").phi(z).item() == pytest.approx(-2 / (1 + math.exp(6)))
    assert build_activation("leaky_relu2:0.25").phi(z).item() == 0.25
    assert build_activation("elu:2").slope_bound() == 2.0
    learned = build_activation("prelu")
    nn.init.constant_(learned.get_parameter("slope"), -3.0)
    assert learned.slope_bound() == 3.0


def test_all_activations_compile_without_a_graph_break():
    """A graph break in the MLP halves the gain of torch.compile without any message."""
    acts = nn.ModuleList(build_activation(entry.name) for entry in ENTRIES)
    x = torch.randn(2, 3, 16)

    def run_all(x: Tensor) -> list[Tensor]:
        return [act(x) for act in acts]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own imports
        compiled = torch.compile(run_all, backend="eager", fullgraph=True)(x)
    for h, expected in zip(compiled, run_all(x), strict=True):
        torch.testing.assert_close(h, expected)


# Gradients


@each(DIFFERENTIABLE)
def test_gradient_is_the_derivative_away_from_kinks(entry: ActivationEntry):
    """Autograd against float64 central differences at -1, at 1, between the kinks and in the tails."""
    act = build_activation(entry.name).double()
    z = torch.tensor(SMOOTH_POINTS, dtype=torch.float64)
    h = 1e-5 * z.abs().clamp(min=1)
    difference = (act.phi(z + h) - act.phi(z - h)) / (2 * h)
    torch.testing.assert_close(slope(act.phi, z), difference.detach(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(slope(act.float().phi, z.float()).double(), difference.detach(), rtol=1e-4, atol=1e-5)


@each(DIFFERENTIABLE)
def test_gradient_at_zero_is_the_derivative_from_the_left(entry: ActivationEntry):
    """torch's convention at a kink (ReLU: 0); with the other one a neuron at exactly 0 would count as open."""
    act = build_activation(entry.name).double()
    zero = torch.zeros(1, dtype=torch.float64)
    from_left = (act.phi(zero) - act.phi(zero - 1e-7)) / 1e-7
    torch.testing.assert_close(slope(act.phi, zero), from_left.detach(), rtol=1e-5, atol=1e-6)


@each([entry for entry in ENTRIES if not entry.surrogate_gradient])
def test_gradients_of_the_whole_module(entry: ActivationEntry):
    """Both branches, coupled neurons and learnable parameters, against float64 finite differences."""
    act = build_activation(entry.name).double()
    x = torch.randn(2, 3, act.branches * 4, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    names = [name for name, _ in act.named_parameters()]

    def h(x: Tensor, *learned: Tensor) -> Tensor:
        parameters = dict(zip(names, learned, strict=True))
        return torch.func.functional_call(act, parameters, (x,))

    assert torch.autograd.gradcheck(h, (x.requires_grad_(), *act.parameters()))


@each()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_values_and_gradients_stay_finite(entry: ActivationEntry, dtype: torch.dtype):
    """No overflow and no 0 · inf for pre-activations of a diverging run, nor at 0 and -0."""
    act = build_activation(entry.name)
    z = torch.tensor([-1e4, -89.0, -20.0, -1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0, 20.0, 89.0, 1e4], dtype=dtype)
    z.requires_grad_()
    h = act.phi(z)
    h.sum().backward()
    assert h.isfinite().all()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    assert all(parameter.grad is not None and parameter.grad.isfinite() for parameter in act.parameters())


@each()
def test_w_in_always_gets_a_gradient_tensor(entry: ActivationEntry):
    """`step` teaches w_in nothing, but as zeros: None would make optimizers and gradient statistics skip it."""
    act = build_activation(entry.name)
    w_in = nn.Linear(4, act.branches * 8)
    act(w_in(torch.randn(16, 4))).square().sum().backward()
    assert w_in.weight.grad is not None
    gate_gradient = w_in.weight.grad[:8]
    assert bool((gate_gradient == 0).all()) is entry.zero_gradient


def test_straight_through_is_a_step_forward_and_the_identity_backward():
    """The sum of step and identity must not round: at 1e4 in bfloat16 a careless form returns 0 or 64, not 1."""
    ste, step = build_activation("step_ste"), build_activation("step")
    z = torch.tensor([-1e4, -1.0, -0.0, 0.0, 1e-30, 0.3, 1e4])
    for dtype in (torch.float32, torch.bfloat16):
        torch.testing.assert_close(ste.phi(z.to(dtype)), step.phi(z.to(dtype)), rtol=0, atol=0)
        torch.testing.assert_close(step.phi(z.to(dtype)), (z > 0).to(dtype), rtol=0, atol=0)
    assert slope(ste.phi, z).tolist() == [1.0] * 7


# The flags


@each(ELEMENTWISE)
def test_slope_bound_holds_and_is_attained(entry: ActivationEntry):
    """Saturation is measured against this bound: too low counts too few neurons, too high too many."""
    act = build_activation(entry.name).double()
    steepest = slope(act.phi, torch.cat((grid(), torch.tensor([-1e4, 1e4])))).abs().max().item()
    if entry.slope_bound is None:
        assert steepest > 100
    else:
        assert act.slope_bound() == entry.slope_bound
        assert 0.99 * entry.slope_bound <= steepest <= entry.slope_bound * (1 + 1e-6)


@each(ELEMENTWISE)
def test_monotone_flag_tells_the_truth(entry: ActivationEntry):
    """Only a monotone φ lets a bound on z be carried over to h."""
    h = build_activation(entry.name).double().phi(grid())
    assert bool((h.diff() >= -1e-15).all()) is entry.monotone


@each(ELEMENTWISE)
def test_exact_zeros_flag_tells_the_truth(entry: ActivationEntry):
    """The dead-neuron certificate trusts it: h must be exactly 0 wherever z <= 0, in every precision."""
    act = build_activation(entry.name)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        z = torch.tensor([-1e4, -7.0, -1.0, -1e-3, -1e-30, -0.0, 0.0], dtype=dtype)
        x = torch.cat((z, torch.full_like(z, 3.0))) if entry.gated else z
        assert bool((act(x) == 0).all()) is entry.exact_zeros
    assert (act.phi(torch.tensor([-1.0])).item() == 0) is entry.exact_zeros


def test_softmax_couples_the_neurons():
    """The one activation that is not elementwise: raising one z lowers every other h."""
    z = torch.zeros(1, 1, 4)
    raised = z.clone()
    raised[..., 0] = 1.0
    difference = build_activation("softmax").phi(raised) - build_activation("softmax").phi(z)
    assert (difference[..., 1:] < 0).all()
