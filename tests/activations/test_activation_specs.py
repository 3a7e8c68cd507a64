"""Specs, fair widths and gains of activations: what is parsed is what was meant, and arms start out equal."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from minigpt.activations import (
    ActivationEntry,
    build_activation,
    canonical_activation,
    canonical_widths,
    init_gain,
    list_activations,
    matched_width,
    parse_activation,
    parse_widths,
)
from minigpt.base.errors import UsageError

ENTRIES = list_activations()
HOSTILE = (
    "os.system",
    "torch.nn.ReLU",
    "__class__",
    "__import__('antigravity')",
    "minigpt.cli",
    "antigravity",
    "F.relu",
    "relu.__call__",
    "leaky_relu:__import__('this')",
    "0-1=os.system,2-3=this",
    "../relu",
    "relu\n",
    "relu\0",
    "",
)


def mlp_parameters(spec: str, n_embd: int, bias: bool) -> int:
    """Count an MLP's parameters by building its two matrices."""
    width = matched_width(spec, n_embd, bias)
    w_in = nn.Linear(n_embd, build_activation(spec).branches * width, bias=bias, device="meta")
    w_out = nn.Linear(width, n_embd, bias=bias, device="meta")
    return sum(parameter.numel() for matrix in (w_in, w_out) for parameter in matrix.parameters())


# Widths and gains


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.gated], ids=lambda entry: entry.name)
def test_gated_arms_have_the_parameters_of_plain_ones(entry: ActivationEntry, bias: bool):
    """Unmatched parameters are the usual flaw of activation comparisons."""
    for n_embd in (8, 16, 32, 64, 96, 128, 192, 256, 384, 768):
        plain, gated = mlp_parameters("relu", n_embd, bias), mlp_parameters(entry.name, n_embd, bias)
        one_neuron = 3 * n_embd + 2 * bias
        assert abs(gated - plain) <= max(plain / 100, one_neuron / 2)
        if n_embd >= 16:
            assert abs(gated - plain) <= plain / 100


@pytest.mark.parametrize(("n_embd", "width"), [(96, 256), (192, 512), (384, 1024), (768, 2048)])
@pytest.mark.parametrize("bias", [False, True])
def test_known_widths(n_embd: int, width: int, bias: bool):
    """8C/3 where C is a multiple of 24; four times C for plain activations."""
    assert matched_width("swiglu", n_embd, bias) == width
    assert matched_width("relu", n_embd, bias) == 4 * n_embd


def test_tiny_widths_are_positive():
    assert [matched_width("reglu", n_embd, False) for n_embd in (1, 2, 3)] == [3, 5, 8]


EXACT_GAINS = {
    "identity": 1.0,
    "bilinear": 1.0,
    "relu": (1 / 2 - 1 / (2 * math.pi)) ** -0.5,
    "leaky_relu:0.1": (1.01 / 2 - 0.81 / (2 * math.pi)) ** -0.5,
    "relu2": 1.25**-0.5,  # E z⁴/2 − (1/2)²
    "reglu": 2**0.5,
    "step": 2.0,
    "step_ste": 2.0,
    "selu": 1.0,  # its constants are chosen for that
}


@pytest.mark.parametrize("spec", EXACT_GAINS)
def test_gains_known_in_closed_form(spec: str):
    assert init_gain(spec, 64) == pytest.approx(EXACT_GAINS[spec], rel=1e-7)


@pytest.fixture(scope="module")
def normal() -> Tensor:
    return torch.randn(2, 2**14, 64, generator=torch.Generator().manual_seed(11))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_gain_matches_monte_carlo(entry: ActivationEntry, normal: Tensor):
    """A million independent draws through the layer's own module."""
    act = build_activation(entry.name)
    z = torch.cat((normal[0], normal[1]), dim=-1) if entry.gated else normal[0]
    with torch.no_grad():
        deviation = act(z).double().std().item()
    assert init_gain(entry.name, 64) * deviation == pytest.approx(1.0, rel=0.01)


def test_a_constant_output_has_no_gain():
    """The softmax of a single neuron is always 1: no scale gives it unit variance."""
    with pytest.raises(UsageError, match="cannot be variance-matched"):
        init_gain("softmax", 1)


def test_gain_leaves_the_global_generator_alone():
    """Randomness is a function of (seed, purpose, step); a gain computed in between must not shift dropout."""
    before = torch.get_rng_state()
    init_gain("softmax", 48)
    assert torch.equal(before, torch.get_rng_state())


# Specs


@st.composite
def layer_specs(draw: st.DrawFn) -> str:
    entry = draw(st.sampled_from(ENTRIES))
    name = draw(st.sampled_from((entry.name, *entry.aliases)))
    low, high = entry.allowed
    texts = [repr(draw(st.floats(low, high))) for _ in range(draw(st.integers(0, len(entry.arguments))))]
    return ":".join([name, *texts])


@st.composite
def model_specs(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Return a per-layer spec in any order, and the spec of each layer."""
    runs = draw(st.lists(st.tuples(st.integers(1, 3), layer_specs()), min_size=1, max_size=4))
    parts, layers = [], []
    for length, spec in runs:
        first, last = len(layers), len(layers) + length - 1
        parts.append(f"{first}={spec}" if first == last else f"{first}-{last}={spec}")
        layers += [spec] * length
    return ",".join(draw(st.permutations(parts))), layers


@settings(max_examples=100, deadline=None)
@given(model_specs())
def test_canonical_form_is_unique_and_keeps_the_meaning(model_spec: tuple[str, list[str]]):
    """Run names and config hashes rest on it: parsing it again changes nothing."""
    spec, layers = model_spec
    parsed = parse_activation(spec, len(layers))
    assert parsed == tuple(parse_activation(layer, 1)[0] for layer in layers)
    canonical = canonical_activation(spec, len(layers))
    assert parse_activation(canonical, len(layers)) == parsed
    assert canonical_activation(canonical, len(layers)) == canonical
    assert ("=" in canonical) is (len(set(parsed)) > 1)
    assert build_activation(parsed[0]).spec == parsed[0]


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 10))
def test_canonical_numbers_keep_every_digit(slope: float):
    """A run repeated from its stored configuration must have the same slope to the last bit."""
    _, _, written = canonical_activation(f"leaky_relu:{slope:.17g}", 2).partition(":")
    assert float(written or 0.01) == slope


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40) | st.text("relu:=,-_0129.eE+naif ", max_size=40), st.integers(1, 5))
def test_garbage_is_refused_with_one_line(spec: str, n_layer: int):
    """Whatever a user types ends in a canonical spec or a UsageError of one line, never in another exception."""
    try:
        layers = parse_activation(spec, n_layer)
    except UsageError as error:
        refusal = str(error)
    else:
        assert len(layers) == n_layer
        return
    assert len(refusal.splitlines()) == 1


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("swish", "silu"),
        ("Leaky-ReLU:0.10", "leaky_relu:0.1"),
        ("leaky_relu:1e-2", "leaky_relu"),
        ("elu:2.0", "elu:2"),
        ("leaky_relu:-0.0", "leaky_relu:0"),
        ("0-1=relu,2-3=swiglu", "0-1=relu,2-3=swiglu"),
        ("3=gelu_new, 0-2 = linear", "0-2=identity,3=gelu_tanh"),
        ("0-1=swish,2-3=silu", "silu"),
    ],
)
def test_canonical_examples(spec: str, canonical: str):
    assert canonical_activation(spec, 4) == canonical


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("swigul", r"unknown activation 'swigul'; did you mean 'swiglu'\? known: relu, relu2, .*swiglu$"),
        ("relu:1", "got 'relu:1'; relu takes no argument"),
        ("leaky_relu:0.1:0.2", r"leaky_relu takes at most 1 argument \(slope=0.01\)"),
        ("leaky_relu:", "not a number that leaky_relu can use; got ''"),
        ("leaky_relu:steep", "got 'steep'; leaky_relu takes"),
        ("leaky_relu:nan", "got 'nan'"),
        ("leaky_relu:inf", "got 'inf'"),
        ("celu:0", "from 0.01 to 100"),
        ("0-1=relu", "no activation for layer 2-3"),
        ("0=relu,2=relu", "no activation for layer 1, 3"),
        ("0-2=relu,2-3=gelu", "layer 2 has two activations"),
        ("0-4=relu", "got '0-4'; layers are 0 to 3"),
        ("0-999999999=relu", "layers are 0 to 3"),
        ("3-0=relu", "the lower one first"),
        ("x=relu", "not a range of layers; got 'x'"),
        ("0-3=relu,", "not a range of layers; got ''"),
        ("0-3=swigul", "did you mean 'swiglu'"),
    ],
)
def test_refusals_say_what_is_allowed(spec: str, message: str):
    with pytest.raises(UsageError, match=message):
        parse_activation(spec, 4)


class ImportWatch:
    """Records imports, opened files and processes while awake (an audit hook cannot be removed)."""

    def __init__(self) -> None:
        self.awake = False
        self.seen: list[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.awake and event.startswith(("import", "open", "exec", "compile", "os.", "subprocess", "socket")):
            self.seen.append(f"{event} {arguments}")


@pytest.mark.parametrize("build", [build_activation, lambda spec: parse_activation(spec, 4)], ids=["build", "parse"])
def test_hostile_names_import_nothing(build: Callable[[str], object]):
    """Names resolve in one closed dictionary: `os.system` is an unknown name, not a door."""
    watch = ImportWatch()
    accepted = []
    watch.awake = True
    for spec in HOSTILE:
        try:
            build(spec)
            accepted.append(spec)
        except UsageError:
            continue
    watch.awake = False
    assert watch.seen == []
    assert accepted == ["relu\n"]  # blanks around a name are nobody's attack


# Widths by layer


@pytest.mark.parametrize(
    ("spec", "widths", "canonical"),
    [
        (0, (0, 0, 0, 0), 0),
        (512, (512, 512, 512, 512), 512),
        ("0=510,1-3=512", (510, 512, 512, 512), "0=510,1-3=512"),
        ("3=7,0-2=5", (5, 5, 5, 7), "0-2=5,3=7"),
        ("0=9,1=9,2-3=9", (9, 9, 9, 9), 9),
        ("0-1=0,2-3=8", (0, 0, 8, 8), "0-1=0,2-3=8"),
    ],
)
def test_widths_by_layer(spec: int | str, widths: tuple[int, ...], canonical: int | str):
    """One number for all, or a list in the form that activations have; equal layers are written as one number."""
    assert parse_widths(spec, 4) == widths
    assert canonical_widths(spec, 4) == canonical
    assert parse_widths(canonical, 4) == widths


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("510", "not a width; got '510'"),
        ("0=510", "no width for layer 1-3"),
        ("0-2=5,2-3=6", "layer 2 has two widths"),
        ("0-3=-1", "not a width; got '-1'"),
        ("0-3=", "not a width; got ''"),
        ("0-3=1048576", "below 1,048,576"),
        ("0-4=5", "no such layers"),
    ],
)
def test_a_mistake_in_widths_is_named(spec: str, says: str):
    """What is not one width for each layer is refused."""
    with pytest.raises(UsageError, match=says):
        parse_widths(spec, 4)
