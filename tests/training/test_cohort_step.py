"""Models that are trained as one learn what each would have learnt alone, to within rounding."""

from __future__ import annotations

import copy
import signal
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from minigpt.model import GPT
from minigpt.training.cohort_step import Cohort, SomeDivergedError
from minigpt.training.config import RunConfig
from minigpt.training.interrupts import StoppedWhileCompiling
from minigpt.training.optimizers import build_optimizer, state_tensors
from minigpt.training.run import model_config
from minigpt.training.runtime import resolve
from minigpt.training.step import Trainee, take_step

STEPS = 50
IDS = (np.arange(600) ** 2 // 3 % 20).astype(np.uint16)
BASE = resolve(
    RunConfig(
        n_layer=2, n_head=2, n_embd=16, block_size=16, batch_size=4, steps=STEPS, lr=1e-2, threads=1,
        device="cpu", dtype="float32", compile="off", grad_clip=0.5, warmup_steps=5,
    )
)  # fmt: skip
# Each differs from the others in every way that is allowed.
MEMBERS = (
    {"seed": 1, "init": "matched"},
    {"seed": 2, "lr": 3e-3, "min_lr": 0.0, "beta1": 0.8, "beta2": 0.95, "weight_decay": 0.0, "grad_clip": 0.0},
    {"seed": 3, "warmup_steps": 20, "schedule": "linear", "weight_decay": 1.0, "grad_clip": 0.1, "init_bias": -1.0},
)


def trainee(config: RunConfig) -> Trainee:
    model = GPT(model_config(config, vocab_size=20), config.seed)
    return Trainee(model, model, build_optimizer(model, config), IDS, config)


def trainees(**settings: object) -> list[Trainee]:
    return [trainee(replace(BASE, **{**settings, **member})) for member in MEMBERS]


def weights(trained: Trainee) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trained.model.parameters()])


def losses_alone(trained: Trainee, steps: int) -> list[float]:
    return [take_step(trained, step).loss for step in range(steps)]


def losses_together(together: Sequence[Trainee], steps: int) -> list[list[float]]:
    cohort = Cohort(together)
    rows = [[result.loss for result in cohort.take_step([step] * len(together))] for step in range(steps)]
    return [list(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("activation", ["relu", "gelu", "swiglu"])
def test_losses_are_those_of_models_alone(activation: str) -> None:
    """The promise: 50 steps in float32, with clipping at work, and every loss within 1e-5."""
    alone = [losses_alone(each, STEPS) for each in trainees(activation=activation)]
    together = losses_together(trainees(activation=activation), STEPS)
    assert alone[0][-1] < alone[0][0] - 0.1
    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert len({tuple(losses) for losses in together}) == len(MEMBERS)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam"}, {"optimizer": "muon"}, {"optimizer": "sgd"}, {"decay_all": True}, {"token_noise": 0.2},
        {"grad_accumulation": 2}, {"activation": "prelu", "norm": "rmsnorm", "position": "rope"},
        {"tie_embeddings": False, "bias": False}, {"attention": "mean"},
    ],
    ids=str,
)  # fmt: skip
def test_other_settings_agree_too(settings: dict) -> None:
    """Weights, moments and what is told of a step agree whatever the optimizer and the parts of the model."""
    if settings.get("bias") is False:
        settings = {**settings, "init_bias": 0.0}
    members = [replace(BASE, **{**member, **settings}) for member in MEMBERS]
    alone, together = [trainee(config) for config in members], [trainee(config) for config in members]
    cohort = Cohort(together)
    for step in range(5):
        expected = [take_step(each, step, watch_neurons=True) for each in alone]
        for one, other in zip(expected, cohort.take_step([step] * 3, watch_neurons=True), strict=True):
            assert (one.loss, one.grad_norm, one.lr) == pytest.approx((other.loss, other.grad_norm, other.lr), rel=1e-4)
            assert one.gradients is not None
            assert other.gradients is not None
            for mine, theirs in zip(one.gradients, other.gradients, strict=True):
                assert mine is not None
                assert theirs is not None
                assert torch.equal(mine.fired, theirs.fired)
                assert torch.equal(mine.pulled, theirs.pulled)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(weights(one), weights(other), atol=2e-4, rtol=1e-3)
        mine, theirs = state_tensors(one.model, one.optimizer), state_tensors(other.model, other.optimizer)
        assert mine.keys() == theirs.keys()
        for name in mine:
            torch.testing.assert_close(mine[name], theirs[name], atol=2e-4, rtol=1e-2)


def test_members_may_be_at_different_steps() -> None:
    """A cohort that is resumed from checkpoints of different steps goes on with each where it was."""
    expected = [losses_alone(each, 8) for each in trainees()]
    together = trainees()
    ahead = [losses_alone(each, count) for each, count in zip(together, (0, 2, 4), strict=True)]
    cohort, found = Cohort(together), [list(losses) for losses in ahead]
    for more in range(4):
        for losses, result in zip(found, cohort.take_step([more, 2 + more, 4 + more]), strict=True):
            losses.append(result.loss)
    for losses, mine in zip(found, expected, strict=True):
        assert losses == pytest.approx(mine[: len(losses)], abs=1e-5)


def test_what_is_not_finite_in_one_stays_there() -> None:
    """No model is updated when one diverges; without it, the others get the bits that they get beside a sound one."""
    together = trainees()
    with torch.no_grad():
        together[1].model.blocks[0].mlp.w_in.weight[0, 0] = torch.nan
    before = [weights(each).clone() for each in together]
    with pytest.raises(SomeDivergedError) as caught:
        Cohort(together).take_step([0, 0, 0])
    assert list(caught.value.reasons) == [1]
    assert "blocks.0.mlp.w_in.weight" in caught.value.reasons[1]
    for each, was in zip(together, before, strict=True):
        assert torch.equal(weights(each).nan_to_num(7.0), was.nan_to_num(7.0))
    survivors = [together[0], together[2]]
    assert losses_together(survivors, 3) == losses_together([trainees()[0], trainees()[2]], 3)


def test_a_stop_while_the_update_is_compiled_leaves_all_as_it_was() -> None:
    """Weights, moments and the counts of updates: what is committed then goes on as if the step had never begun."""
    together = trainees()
    cohort = Cohort(together)
    cohort.take_step([0, 0, 0])
    before = [copy.deepcopy(state_tensors(each.model, each.optimizer)) for each in together]

    def stop(*_: object) -> None:
        raise StoppedWhileCompiling(signal.SIGTERM)

    cohort._adam = stop
    with pytest.raises(StoppedWhileCompiling):
        cohort.take_step([1, 1, 1])
    for each, was in zip(together, before, strict=True):
        now = state_tensors(each.model, each.optimizer)
        assert all(torch.equal(now[name], was[name]) for name in was)


def test_models_remain_their_own() -> None:
    """Each model's parameters are where its cohort keeps them: what the step changes, an evaluation sees."""
    together = trainees()
    cohort = Cohort(together)
    begun = [weights(each).clone() for each in together]
    cohort.take_step([0, 0, 0])
    for each, was in zip(together, begun, strict=True):
        assert not torch.equal(weights(each), was)
        assert each.model.lm_head.weight is each.model.wte.weight
