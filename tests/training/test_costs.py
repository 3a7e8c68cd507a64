"""Costs by hand, and that each of them makes the right token likelier."""

from __future__ import annotations

import math

import pytest
import torch

from minigpt.training.config import COSTS
from minigpt.training.costs import mean_cost


def test_costs_by_hand() -> None:
    """Two tokens of four that are equally likely."""
    logits, targets = torch.zeros(2, 4), torch.tensor([1, 3])
    found = {name: float(mean_cost(name, logits, targets)) for name in COSTS}
    assert found["cross-entropy"] == pytest.approx(math.log(4))
    assert found["squared-error"] == pytest.approx(0.75**2 + 3 * 0.25**2)
    assert found["binary"] == pytest.approx(4 * math.log(2))


@pytest.mark.parametrize("name", COSTS)
def test_every_cost_makes_the_right_token_likelier(name: str) -> None:
    """One step down the gradient raises the target's logit above the others'."""
    logits = torch.zeros(3, 5, requires_grad=True)
    targets = torch.tensor([0, 2, 4])
    mean_cost(name, logits, targets).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert (-logits.grad).argmax(1).tolist() == targets.tolist()
