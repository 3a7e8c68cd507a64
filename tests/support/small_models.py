"""Small models, their configurations and inputs, that several test files use."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from minigpt.activations import list_activations
from minigpt.model import GPT, GPTConfig
from minigpt.training.config import RunConfig

ELEMENTWISE = [entry.name for entry in list_activations() if entry.elementwise]
IDS = np.random.default_rng(0).integers(23, size=2000).astype(np.uint16)
CONFIG = RunConfig(
    block_size=16, batch_size=8, lr=1e-2, min_lr=1e-3, warmup_steps=0, steps=100, dtype="float32", grad_clip=0.0
)


def small_config(**changes: object) -> GPTConfig:
    sizes: dict[str, object] = {"vocab_size": 31, "block_size": 12, "n_layer": 2, "n_head": 2, "n_embd": 16}
    return GPTConfig(**(sizes | changes))  # type: ignore[arg-type]


def small_model(**changes: object) -> GPT:
    """A model for `IDS` and `CONFIG`."""
    sizes: dict[str, object] = {"vocab_size": 23, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 16}
    return GPT(GPTConfig(**(sizes | changes)), seed=0)  # type: ignore[arg-type]


def lively_model(config: GPTConfig, seed: int = 0) -> GPT:
    """A model whose every parameter, biases and gains too, is far from its initial value."""
    model = GPT(config, seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=random))
    return model.eval()


def random_ids(config: GPTConfig, batch: int = 3, time: int | None = None, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (batch, time or config.block_size), generator=random)


def weights(model: GPT) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]
