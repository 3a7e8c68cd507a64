"""The activation functions, one decorated function each: this is the file to touch for a new one.

Once decorated, its specs parse, layers can be built with it, and whoever lists the registry (command line, ablations,
property tests, reports) sees it. Keyword arguments with defaults are the spec's arguments (`leaky_relu:0.1`); those
named in `learnable` become parameters of each layer. For a gated entry the function is φ of the gate: h = φ(g) · u.
The formula is the entry's `summary`, the paper its `source`.

torch's own fused functions are used where they exist. At a kink the gradient is the one from the left, as in torch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from minigpt.activations.registry import activation

Number = float | Tensor  # a spec's argument, or the parameter that was initialised from it


def _steepest(argument: float) -> float:
    """sup |φ'| where the slope is 1 above zero and at most the argument below."""
    return max(1.0, abs(argument))


# Plain activations: h = φ(z)


@activation(summary="max(0, z)", source="Nair & Hinton 2010", exact_zeros=True, slope_bound=1.0, monotone=True)
def relu(z: Tensor) -> Tensor:
    return F.relu(z)


@activation(
    summary="max(0, z)²",
    source="So et al. 2021, arXiv:2109.08668",
    aliases=("relu_squared", "squared_relu"),
    exact_zeros=True,
    slope_bound=None,
    monotone=True,
)
def relu2(z: Tensor) -> Tensor:
    positive = F.relu(z)
    return positive * positive  # NOTE: autocast on CUDA would compute pow and square in float32


@activation(
    summary="min(max(0, z), 6)",
    source="Krizhevsky 2010 (CIFAR-10 deep belief networks)",
    exact_zeros=True,
    slope_bound=1.0,
    monotone=True,
)
def relu6(z: Tensor) -> Tensor:
    return F.relu6(z)


@activation(
    summary="z if z > 0 else slope · z",
    source="Maas et al. 2013",
    aliases=("leakyrelu", "lrelu"),
    slope_bound=_steepest,
    monotone=True,
    allowed=(0.0, 10.0),
)
def leaky_relu(z: Tensor, slope: float = 0.01) -> Tensor:
    return F.leaky_relu(z, slope)


@activation(
    summary="leaky_relu(z, slope)²",
    source="openai/parameter-golf, pull request 493, 2026",
    aliases=("leaky_relu_squared", "leakyrelu2"),
    slope_bound=None,
    monotone=False,
    allowed=(0.0, 10.0),
)
def leaky_relu2(z: Tensor, slope: float = 0.5) -> Tensor:
    leaky = F.leaky_relu(z, slope)
    return leaky * leaky


@activation(
    summary="z if z > 0 else slope · z, slope learned",
    source="He et al. 2015, arXiv:1502.01852",
    aliases=("parametric_relu",),
    slope_bound=_steepest,
    monotone=True,
    allowed=(0.0, 10.0),
    learnable=("slope",),
)
def prelu(z: Tensor, slope: Number = 0.25) -> Tensor:
    return torch.where(z > 0, z, slope * z)


@activation(
    summary="z if z > 0 else alpha · (exp(z) − 1)",
    source="Clevert et al. 2015, arXiv:1511.07289",
    slope_bound=_steepest,
    monotone=True,
    allowed=(0.0, 10.0),
)
def elu(z: Tensor, alpha: float = 1.0) -> Tensor:
    return F.elu(z, alpha)


@activation(
    summary="1.0507 · elu(z, alpha=1.6733)",
    source="Klambauer et al. 2017, arXiv:1706.02515",
    slope_bound=1.7581,
    monotone=True,
)
def selu(z: Tensor) -> Tensor:
    return F.selu(z)


@activation(
    summary="z if z > 0 else alpha · (exp(z / alpha) − 1)",
    source="Barron 2017, arXiv:1704.07483",
    slope_bound=1.0,
    monotone=True,
    allowed=(0.01, 100.0),
)
def celu(z: Tensor, alpha: float = 1.0) -> Tensor:
    return F.celu(z, alpha)


@activation(
    summary="z · Φ(z)",
    source="Hendrycks & Gimpel 2016, arXiv:1606.08415",
    aliases=("gelu_python",),
    slope_bound=1.12891,
    monotone=False,
)
def gelu(z: Tensor) -> Tensor:
    return F.gelu(z)


@activation(
    summary="z/2 · (1 + tanh(√(2/π) · (z + 0.044715 z³)))",
    source="Hendrycks & Gimpel 2016, arXiv:1606.08415",
    aliases=("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
    slope_bound=1.129,
    monotone=False,
)
def gelu_tanh(z: Tensor) -> Tensor:
    return F.gelu(z, approximate="tanh")


@activation(
    summary="z · σ(1.702 z)",
    source="Hendrycks & Gimpel 2016, arXiv:1606.08415",
    aliases=("quickgelu", "gelu_sigmoid"),
    slope_bound=1.09984,
    monotone=False,
)
def quick_gelu(z: Tensor) -> Tensor:
    return z * torch.sigmoid(1.702 * z)


@activation(
    summary="z · σ(z)",
    source="Elfwing et al. 2017, arXiv:1702.03118",
    aliases=("swish",),
    slope_bound=1.09984,
    monotone=False,
)
def silu(z: Tensor) -> Tensor:
    return F.silu(z)


@activation(
    summary="z · σ(beta · z), beta learned",
    source="Ramachandran et al. 2017, arXiv:1710.05941",
    aliases=("swish_beta",),
    slope_bound=1.09984,
    monotone=False,
    allowed=(0.01, 100.0),
    learnable=("beta",),
)
def silu_beta(z: Tensor, beta: Number = 1.0) -> Tensor:  # φ' depends on beta · z alone: hence one slope bound
    return z * torch.sigmoid(beta * z)


@activation(
    summary="z · min(max(0, z + 3), 6) / 6",
    source="Howard et al. 2019, arXiv:1905.02244",
    aliases=("hard_swish",),
    slope_bound=1.5,
    monotone=False,
)
def hardswish(z: Tensor) -> Tensor:
    return F.hardswish(z)


@activation(summary="z · tanh(softplus(z))", source="Misra 2019, arXiv:1908.08681", slope_bound=1.0885, monotone=False)
def mish(z: Tensor) -> Tensor:
    return F.mish(z)


@activation(summary="ln(1 + exp(z))", source="Dugas et al. 2000", slope_bound=1.0, monotone=True)
def softplus(z: Tensor) -> Tensor:
    return F.softplus(z)


@activation(summary="z / (1 + |z|)", source="Bergstra et al. 2009", slope_bound=1.0, monotone=True)
def softsign(z: Tensor) -> Tensor:
    return F.softsign(z)


@activation(
    summary="σ(z) = 1 / (1 + exp(−z))",
    source="Rumelhart et al. 1986",
    aliases=("logistic",),
    slope_bound=0.25,
    monotone=True,
)
def sigmoid(z: Tensor) -> Tensor:
    return torch.sigmoid(z)


@activation(summary="tanh(z)", source="LeCun et al. 1998 (Efficient BackProp)", slope_bound=1.0, monotone=True)
def tanh(z: Tensor) -> Tensor:
    return torch.tanh(z)


@activation(
    summary="exp(z_j) / Σ_k exp(z_k), over the layer's neurons",
    source="Bridle 1990",
    elementwise=False,
    slope_bound=None,
    monotone=False,
)
def softmax(z: Tensor) -> Tensor:
    return F.softmax(z, dim=-1)


@activation(
    summary="1 if z > 0 else 0",
    source="McCulloch & Pitts 1943",
    aliases=("heaviside", "threshold", "binary_step"),
    exact_zeros=True,
    slope_bound=0.0,
    monotone=True,
)
def step(z: Tensor) -> Tensor:
    # NOTE: a comparison alone would cut the graph, and w_in would have no gradient at all. sign would make 0 of NaN, so
    # that a layer that diverged would look dead.
    return F.relu(z).ceil().clamp(max=1.0)


@activation(
    summary="1 if z > 0 else 0, backward as the identity (no clipping)",
    source="Bengio et al. 2013, arXiv:1308.3432",
    aliases=("ste", "straight_through"),
    exact_zeros=True,
    slope_bound=1.0,
    monotone=True,
    surrogate_gradient=True,
)
def step_ste(z: Tensor) -> Tensor:
    return step(z.detach()) + (z - z.detach())  # NOTE: the bracket first; it is exactly 0, z + (step − z) would round


@activation(
    summary="z", source="Saxe et al. 2013, arXiv:1312.6120", aliases=("linear",), slope_bound=1.0, monotone=True
)
def identity(z: Tensor) -> Tensor:
    return z


# Gated activations: h = φ(gate) · value. NOTE: torch's own F.glu gates with the second half, we with the first.


@activation(
    summary="σ(g) · u",
    source="Dauphin et al. 2016, arXiv:1612.08083",
    aliases=("sigmoid_glu",),
    gated=True,
    slope_bound=0.25,
    monotone=True,
)
def glu(gate: Tensor) -> Tensor:
    return torch.sigmoid(gate)


@activation(
    summary="g · u",
    source="Shazeer 2020, arXiv:2002.05202",
    aliases=("linear_glu", "bilinear_glu"),
    gated=True,
    slope_bound=1.0,
    monotone=True,
)
def bilinear(gate: Tensor) -> Tensor:
    return gate


@activation(
    summary="max(0, g) · u",
    source="Shazeer 2020, arXiv:2002.05202",
    aliases=("relu_glu",),
    gated=True,
    exact_zeros=True,
    slope_bound=1.0,
    monotone=True,
)
def reglu(gate: Tensor) -> Tensor:
    return F.relu(gate)


@activation(
    summary="gelu(g) · u",
    source="Shazeer 2020, arXiv:2002.05202",
    aliases=("gelu_glu",),
    gated=True,
    slope_bound=1.12891,
    monotone=False,
)
def geglu(gate: Tensor) -> Tensor:
    return F.gelu(gate)


@activation(
    summary="gelu_tanh(g) · u",
    source="Gemma Team 2024, arXiv:2403.08295",
    aliases=("gelu_tanh_glu",),
    gated=True,
    slope_bound=1.129,
    monotone=False,
)
def geglu_tanh(gate: Tensor) -> Tensor:
    return F.gelu(gate, approximate="tanh")


@activation(
    summary="silu(g) · u",
    source="Shazeer 2020, arXiv:2002.05202",
    aliases=("silu_glu", "swish_glu"),
    gated=True,
    slope_bound=1.09984,
    monotone=False,
)
def swiglu(gate: Tensor) -> Tensor:
    return F.silu(gate)
