"""C17 to C27: arms differ in what they say, effects by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from claim_examples import (
    ALPHABET,
    arm_model,
    configuration,
    differing,
    evidence,
)

from minigpt.claims.rows import overfitting, practice, selection
from minigpt.parts.variants import BatchNorm
from minigpt.training.optimizers import build_optimizer

CLAIMS = {claim.id: claim for claim in (*practice.CLAIMS, *overfitting.CLAIMS, *selection.CLAIMS)}


# --------------------------------------------------------------------------------------------------------------- arms

OVERTRAINED = ("plain", "dropout 0.1", "dropout 0.2", "dropout 0.4")


@pytest.mark.parametrize(
    ("claim", "arms", "flags"),
    [
        ("C17", tuple(practice.RATES), {"lr", "min_lr"}),
        ("C18", tuple(practice.SGD_RATES), {"lr", "min_lr"}),
        ("C18", ("SGD x25", "momentum x20"), {"optimizer", "lr", "min_lr"}),
        ("C19", ("Adam", "AdamW"), {"optimizer", "weight_decay"}),
        ("C19", tuple(practice.BETA2), {"beta2"}),
        ("C20", tuple(practice.BATCHES), {"batch_size", "steps", "warmup_steps"}),
        ("C21", OVERTRAINED, {"dropout"}),
        ("C21", ("plain", "BatchNorm"), {"norm"}),
        ("C22", ("plain", *overfitting.L2), {"weight_decay"}),
        ("C22", ("plain", *overfitting.L1), {"l1"}),
        ("C24", tuple(selection.NOISY), {"weight_decay", "beta2", "lr", "min_lr"}),
        ("C26", ("relu", "without LayerNorm"), {"norm"}),
        ("C27", ("1 layer", "plain", "16 layers"), {"n_layer", "n_embd"}),
        ("C27", ("1 layer, all the text", "4 layers, all the text"), {"n_layer", "n_embd"}),
    ],
)
def test_arms_differ_in_what_they_say_alone(claim: str, arms: tuple[str, ...], flags: set[str]) -> None:
    """Whatever else differed would be held for an effect of what they are named after."""
    assert differing(CLAIMS[claim], arms) == flags


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("C17", "rate x1"), ("C19", "AdamW")),
        (("C18", "momentum x20"), ("C19", "momentum x20")),
        (("C21", "plain"), ("C22", "plain")),
        (("C21", "plain"), ("C27", "plain")),
        (("C20", "relu"), ("C26", "relu")),
        (("C27", "4 layers, all the text"), ("C20", "relu")),
        (("C24", "β2 0.98"), ("C25", "β2 0.98")),
    ],
)
def test_what_claims_share_is_one_training(one: tuple[str, str], other: tuple[str, str]) -> None:
    """Computing time is limited; a setting written in two ways would be trained twice."""
    (claim, arm), (second_claim, second_arm) = one, other
    assert configuration(CLAIMS[claim], arm) == configuration(CLAIMS[second_claim], second_arm)


def test_optimizers_are_the_ones_named() -> None:
    arms = [("C18", "SGD x100"), ("C18", "momentum x10"), ("C19", "Adam"), ("C19", "AdamW")]
    assert [configuration(CLAIMS[claim], arm).optimizer for claim, arm in arms] == ["sgd", "momentum", "adam", "adamw"]
    slow = configuration(CLAIMS["C19"], "β2 0.999")
    assert (slow.optimizer, slow.beta1, slow.beta2) == ("adamw", 0.9, 0.999)
    decaying = configuration(CLAIMS["C22"], "weight decay 3")
    groups = build_optimizer(arm_model(CLAIMS["C22"], "weight decay 3"), decaying).groups
    assert groups[0].weight_decay == 3.0


def test_batches_of_any_size_read_as_many_tokens() -> None:
    """Up to whole steps."""
    configs = [configuration(CLAIMS["C20"], arm) for arm in practice.BATCHES]
    assert [config.batch_size for config in configs] == [4, 12, 48]
    windows = [config.batch_size * config.steps for config in configs]
    assert max(windows) - min(windows) <= 48


def test_dropout_and_norms_are_in_the_models() -> None:
    ids = torch.randint(len(ALPHABET), (2, 8), generator=torch.Generator().manual_seed(1))
    dropped, plain = (arm_model(CLAIMS["C21"], arm).train() for arm in ("dropout 0.4", "plain"))
    assert not torch.equal(dropped(ids), dropped(ids))
    assert torch.equal(plain(ids), plain(ids))
    norms = [module for module in arm_model(CLAIMS["C21"], "BatchNorm").modules() if isinstance(module, BatchNorm)]
    assert len(norms) == 9
    without = arm_model(CLAIMS["C26"], "without LayerNorm")
    assert not any(isinstance(module, torch.nn.LayerNorm) for module in without.modules())


def test_depths_have_as_many_parameters_in_their_layers() -> None:
    models = [arm_model(CLAIMS["C27"], arm) for arm in ("1 layer", "plain", "16 layers")]
    assert [len(model.blocks) for model in models] == [1, 4, 16]
    matrices = [sum(p.numel() for p in model.blocks.parameters() if p.dim() == 2) for model in models]
    assert max(matrices) == min(matrices)


# ------------------------------------------------------------------------------------------------------------ effects


def test_the_best_rate_is_chosen_on_other_seeds() -> None:
    """On its own seed the extreme rate would be chosen, and its effect be 0 by construction."""
    losses = {(rate, seed): 2.0 for rate in practice.RATES for seed in range(3)}
    losses |= {("rate x2.5", seed): 1.9 for seed in range(3)}
    losses |= {("rate x1/16", 0): 1.5, ("rate x1/16", 1): 3.0, ("rate x25", 0): math.inf}
    low, high = (condition.effect(evidence(losses, choosing=(1, 2)), 0) for condition in CLAIMS["C17"].conditions)
    assert low == pytest.approx(1.5 - 1.9)
    assert high == math.inf


def test_optimizers_are_compared_at_their_best_rates() -> None:
    losses = {(arm, seed): 3.0 for arm in (*practice.SGD_RATES, *practice.MOMENTUM_RATES) for seed in range(2)}
    losses |= {(arm, seed): loss for arm, loss in (("SGD x100", 2.5), ("momentum x10", 2.2)) for seed in range(2)}
    losses |= {(arm, seed): loss for arm, loss in (("Adam", 2.0), ("AdamW", 1.9)) for seed in range(2)}
    found = evidence(losses, choosing=(1,))
    assert [condition.effect(found, 0) for condition in CLAIMS["C18"].conditions] == pytest.approx([0.3])
    assert [condition.effect(found, 0) for condition in CLAIMS["C19"].conditions] == pytest.approx([0.2, 0.3])


def test_gaps_shrink_with_the_strength_chosen_elsewhere() -> None:
    """Strength 3 has the smaller gap, but the larger loss on the other seed: it is not the one to be judged."""
    arms = {"plain": (2.0, 0.8), "weight decay 1": (1.7, 0.5), "weight decay 3": (1.9, 0.1), "L1 0.1": (2.0, 0.8)}
    arms |= {"L1 1": (1.95, 0.7), "L1 10": (3.0, 0.0)}
    found = evidence(
        losses={(arm, seed): loss for arm, (loss, _) in arms.items() for seed in range(2)},
        figures={(arm, seed, "gap"): {"gap": gap} for arm, (_, gap) in arms.items() for seed in range(2)},
        choosing=(1,),
    )
    assert [condition.effect(found, 0) for condition in CLAIMS["C22"].conditions] == pytest.approx([0.3, 0.1])


def test_stopping_is_judged_at_the_best_step_of_other_seeds() -> None:
    curves = {
        ("twice as long", 0): [(0, 4.0), (20, 2.5), (100, 2.0), (150, 1.7), (200, 2.2)],
        ("twice as long", 1): [(0, 4.0), (20, 2.6), (100, 1.8), (150, 1.9), (200, 2.4)],
    }
    found = evidence(curves=curves, choosing=(1,))
    late, early = (condition.effect(found, 0) for condition in CLAIMS["C23"].conditions)
    assert late == pytest.approx(2.2 - 2.0)
    assert early == pytest.approx(2.5 - 2.0)


@pytest.mark.parametrize(("patience", "expected"), [(1, 1.0), (2, 0.5), (3, 0.0), (9, 0.0)])
def test_patience_costs_what_comes_after_it(patience: int, expected: float) -> None:
    """Losses rise once, then twice in a row, before their lowest."""
    losses = [3.0, 2.0, 2.1, 1.5, 1.6, 1.7, 1.0, 1.2]
    assert overfitting.regret(losses, patience) == pytest.approx(expected)


def test_regret_and_optimism_by_hand() -> None:
    """Two candidates, two chunks: the first wins the first chunk by luck, the second both on merit and on the rest."""
    on_chunk = np.array([[1.0, 2.0], [1.2, 1.8]])
    on_rest = np.array([[1.6, 1.6], [1.5, 1.5]])
    assert selection.regret_of_choice(on_chunk, on_rest) == pytest.approx((0.1 + 0.0) / 2)
    # Winners look better on their chunks than elsewhere by 0.6 and −0.3, the average candidates by 0.45 and −0.35.
    assert selection.optimism(on_chunk, on_rest, 2) == pytest.approx((0.15 + 0.05) / 2)
    assert selection.optimism(on_chunk, on_rest, 1) == pytest.approx(0.0)


def test_optimism_grows_with_candidates_as_extremes_do() -> None:
    """Equal candidates under noise: the winner of eight is as optimistic as the least of eight normal numbers."""
    random = np.random.default_rng(7)
    on_chunk = random.normal(2.0, 0.01, (8, 4000))
    on_rest = np.full_like(on_chunk, 2.0)
    expected = [0.5642, 1.0294, 1.4236]  # means of the largest of 2, 4, 8 standard normal numbers
    found = [selection.optimism(on_chunk, on_rest, number) / 0.01 for number in (2, 4, 8)]
    assert found == pytest.approx(expected, rel=0.03)


# ------------------------------------------------------------------------------------------------------- measurements
