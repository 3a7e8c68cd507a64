"""C12 to C15: gradients over depth against another derivation, breakdowns counted, linearity with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from claim_examples import arm_model, configuration, differing, evidence, lively_model, opened, store
from torch.nn import functional as F

from minigpt.claims.claim import MOST_QUOTED_WORDS, Claim
from minigpt.claims.measurement import MEASUREMENTS
from minigpt.claims.measurements import accuracy, linearity
from minigpt.claims.measurements import gradients as measured
from minigpt.claims.rows import gradients as rows
from minigpt.model import GPT, GPTConfig
from minigpt.parts.variants import CausalMean
from minigpt.text.batches import gather, window_starts
from minigpt.training.schedules import learning_rate


@pytest.mark.parametrize("claim", rows.CLAIMS, ids=[claim.id for claim in rows.CLAIMS])
def test_whatever_a_row_names_exists(claim: Claim) -> None:
    """A misspelt arm or measurement would be noticed only after hours of training."""
    assert set(claim.measurements) <= set(claim.arms)
    assert {name for names in claim.measurements.values() for name in names} <= set(MEASUREMENTS)
    assert all(MEASUREMENTS[name].version for names in claim.measurements.values() for name in names)
    assert len(claim.quote.split()) <= MOST_QUOTED_WORDS
    assert (measured.ACTIVATIONS, measured.DEPTHS) == (rows.EVERY, rows.DEPTHS)


# ---------------------------------------------------------------------------------------------------------- gradients


@pytest.fixture(scope="module")
def depth_figures() -> dict[str, float | None]:
    return measured.depth_gradients(opened(lively_model(spread=1.0), seed=1), store())


def test_gradient_ratios_follow_another_derivation(depth_figures: dict[str, float | None]) -> None:
    """The same model, its gradient by torch.func instead of backward."""
    shape = {"vocab_size": 11, "block_size": 16, "n_head": 2, "n_embd": 12, "residual": False, "norm": "none"}
    model = GPT(GPTConfig(activation="sigmoid", n_layer=4, **shape), seed=1).double()  # type: ignore[arg-type]
    ids = store().tokens("train")
    inputs, targets = gather(ids, window_starts(1, 0, measured.WINDOWS, len(ids), 16, "claims/depth"), 16)

    def loss(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = torch.func.functional_call(model, parameters, (inputs,))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    found = torch.func.grad(loss)(dict(model.named_parameters()))
    first, last = (found[f"blocks.{layer}.mlp.w_in.weight"].norm().item() for layer in (0, 3))
    assert depth_figures["sigmoid/without/4"] == pytest.approx(math.log10(first / last))
    assert depth_figures["sigmoid/without/4/first"] == pytest.approx(math.log10(first))


def test_slopes_are_of_the_ratios(depth_figures: dict[str, float | None]) -> None:
    """Where a norm is 0, as it is after 24 layers of sigmoid, the other depths tell the slope."""
    assert depth_figures["sigmoid/without/24"] is None
    for name, depths in (("sigmoid/without", rows.DEPTHS[:-1]), ("relu/with", rows.DEPTHS)):
        ratios = [depth_figures[f"{name}/{depth}"] for depth in depths]
        centred = np.array(depths) - np.mean(depths)
        assert depth_figures[name] == pytest.approx(float(centred @ np.array(ratios) / (centred @ centred)))


def test_sigmoid_vanishes_only_without_residual_paths(depth_figures: dict[str, float | None]) -> None:
    """What is long known; the instrument must be able to see a gradient vanish, beyond float32's range too."""
    with_paths, without, first = (
        depth_figures[f"sigmoid/{key}"] or 0.0 for key in ("with", "without", "without/16/first")
    )
    assert without < -1 < -rows.LEAST_VANISHING < with_paths
    assert first < math.log10(torch.finfo(torch.float32).tiny)


def test_a_falling_gradient_counts_for_the_claim() -> None:
    figures = {f"{spec}/with": -0.1 if spec == "tanh" else 0.1 for spec in rows.EVERY}
    found = evidence(figures={("relu", 0, "depth_gradients"): figures})
    effects = {condition.name: condition.effect(found, 0) for condition in rows.C12.conditions}
    assert effects == {"sigmoid: fall of the gradient": -0.1, "tanh: fall of the gradient": 0.1}
    assert len(rows.C13.conditions) == len(rows.EVERY)


# --------------------------------------------------------------------------------------------------------- breakdowns


def test_the_highest_survived_rate_is_counted() -> None:
    """ReLU ends above its start at the highest rate, GLU diverges from the second on, GELU breaks at all."""
    ends = {"relu": [2.0, 2.0, 3.9, 4.1], "glu": [2.0, math.inf, math.inf, math.inf], "gelu": [5.0] * 4}
    losses = {
        (rows.at_rate(spec, rate), 0): loss
        for spec, values in ends.items()
        for rate, loss in zip(rows.RATES, values, strict=True)
    }
    found = evidence(losses)
    highest = [rows.highest_survived(found, spec, 0) for spec in ends]
    assert highest == pytest.approx([2.0, 1.0, 0.5])
    glu = next(condition for condition in rows.C14.conditions if condition.name.startswith("glu"))
    assert glu.effect(found, 0) == pytest.approx(1.0)


def test_breakdown_arms_differ_in_activation_and_rate_alone() -> None:
    assert differing(rows.C14, rows.C14.arms) == {"activation", "lr", "min_lr"}
    config = configuration(rows.C14, "glu x100")
    assert config.grad_clip == 0
    assert learning_rate(config, 0) == learning_rate(config, config.steps - 1) == pytest.approx(0.4)


# ---------------------------------------------------------------------------------------------------------- linearity


@pytest.mark.parametrize(
    ("settings", "linear"),
    [
        ({"activation": "identity", "norm": "none", "attention": "mean"}, True),
        ({"activation": "identity", "norm": "none"}, False),
        ({"activation": "identity", "attention": "mean"}, False),
        ({"activation": "relu", "norm": "none", "attention": "mean"}, False),
    ],
    ids=["nothing nonlinear", "softmax", "LayerNorm", "relu"],
)
def test_only_a_model_without_any_nonlinearity_is_linear(settings: dict[str, str], linear: bool) -> None:
    """Each nonlinearity alone must be seen; biases make the linear model affine, which is linear enough."""
    model = lively_model(**settings)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.1)
    error = linearity.linearity(opened(model), store())["error"]
    assert error is not None
    assert error < 1e-12 if linear else error > 1e-3


def test_the_error_is_that_of_the_formula() -> None:
    """Against the model written out: blocks, norm and head on embeddings."""
    model = lively_model().double()
    a, b = torch.randn(2, 3, 16, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def f(x: torch.Tensor) -> torch.Tensor:
        for block in model.blocks:
            x = block(x)
        logits: torch.Tensor = model.lm_head(model.ln_f(x))
        return logits

    zero = torch.zeros_like(a)
    with torch.no_grad():
        missing = (f(a + b) + f(zero) - f(a) - f(b)).norm() / (f(a) + f(b) - 2 * f(zero)).norm()
    assert linearity.superposition_error(model, a, b) == pytest.approx(float(missing))


def test_the_linear_arm_has_nothing_nonlinear_left() -> None:
    model = arm_model(rows.C15, rows.ALL_LINEAR)
    kinds = {type(module).__name__ for module in model.modules()}
    assert not kinds & {"LayerNorm", "RMSNorm", "BatchNorm", "CausalSelfAttention"}
    assert {module.act.spec for block in model.blocks for module in block.modules() if hasattr(module, "act")} == {
        "identity"
    }
    assert isinstance(model.blocks[0].attn, CausalMean)
    assert differing(rows.C15, ("parity relu", "parity identity")) == {"activation"}
    assert configuration(rows.C15, "parity relu").corpus == "task:parity"


# ----------------------------------------------------------------------------------------------------------- accuracy


class Oracle(torch.nn.Module):
    """Says 1 after whatever it reads, as sure as can be."""

    def __init__(self) -> None:
        super().__init__()
        self.config = GPTConfig(vocab_size=11, block_size=16)
        self.device = torch.device("cpu")

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.one_hot(torch.full_like(ids, 2), 11).float()


def test_answers_are_found_and_counted() -> None:
    """The model always says 1, so it is right where a line ends with it. Windows of 16 cut lines of five."""
    random = np.random.default_rng(2)
    lines = ["".join(random.choice(list("01"), 2)) + "=" + str(random.integers(2)) for _ in range(101)]
    run = opened(Oracle())  # type: ignore[arg-type]
    # Line n has its answer at 5n + 3 and the break before it at 5n − 1, both of which one window must hold.
    seen = [n for n in range(1, 101) if 5 * n - 1 >= (5 * n + 2) // 16 * 16]
    figures = accuracy.accuracy(run, store(val=run.tokenizer.encode("\n".join(lines) + "\n")))
    assert figures["answers"] == len(seen) > 70
    assert figures["accuracy"] == pytest.approx(np.mean([lines[n].endswith("1") for n in seen]))
    assert accuracy.accuracy(run, store(val=np.ones(40)))["accuracy"] is None
