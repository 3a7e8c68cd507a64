"""The count of operations: what a built model's products cost, whatever its shape, and less where there is less."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from minigpt.model import GPT, GPTConfig

SHAPE: dict[str, Any] = {"vocab_size": 31, "block_size": 8, "n_layer": 3, "n_head": 2, "n_embd": 12}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"d_ff": 24},
        {"d_ff": "0=5,1-2=48", "activation": "0=swiglu,1-2=relu"},
        {"activation": "geglu", "bias": False},
        {"attention": "mean", "position": "learned"},
        {"attention": "written", "tie_embeddings": False, "position": "rope"},
        {"n_layer": 1, "block_size": 64, "norm": "none"},
    ],
    ids=str,
)
def test_the_count_is_that_of_the_weights_of_a_built_model(settings: dict[str, Any]) -> None:
    """Six operations for each weight of a product, and those of queries with keys and of weights with values."""
    model = GPT(GPTConfig(**{**SHAPE, **settings}))
    config = model.config
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    per_pair = 6 if config.attention == "mean" else 12
    pairs = per_pair * config.n_layer * config.n_embd * config.block_size
    assert model.flops_per_token() == config.flops_per_token == 6 * weights + pairs


def test_a_narrower_model_costs_less() -> None:
    """Half as many neurons save half of the MLPs' products, and nothing else."""
    whole, half = (GPTConfig(**SHAPE, d_ff=width).flops_per_token for width in (48, 24))
    assert whole - half == 6 * 3 * 2 * 12 * 24
