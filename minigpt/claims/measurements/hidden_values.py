"""What the hidden values of an MLP carry: their negative part, and what of its input can be rebuilt from them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minigpt.claims.measurements.batches_and_losses import Figures, batches, mean_loss, precision
from minigpt.model import MLP
from minigpt.neurons.hooks import Hook, hooked
from minigpt.neurons.probe import plain_blocks
from minigpt.text.store import TokenStore
from minigpt.training.inference import OpenedRun

CLAMPING_TOKENS = 65_536
REBUILDING_TOKENS = 8_192
RIDGE = 1e-3  # of the mean eigenvalue
LEAST_RIDGE = 1e-12


# --------------------------------------------------------------------------------------------------- the negative part


def clamping(run: OpenedRun, store: TokenStore) -> Figures:
    """Loss on validation text as it is, and with all negative hidden values set to 0; how often they are negative."""
    read = batches(run.model, store.tokens("val"), CLAMPING_TOKENS)
    negative: list[float] = []

    def clamp(module: nn.Module, inputs: tuple[Tensor, ...], hidden: Tensor) -> Tensor:
        negative.append(float((hidden < 0).float().mean()))
        return hidden.clamp(min=0)

    before = mean_loss(run, read)
    with hooked((block.mlp.act, clamp) for block in plain_blocks(run.model)):
        after = mean_loss(run, read)
    return {"loss": before, "clamped_loss": after, "rise": after - before, "negative": sum(negative) / len(negative)}


# ------------------------------------------------------------------------------------------- what is left of the input


@torch.no_grad()
def rebuilding(run: OpenedRun, store: TokenStore) -> Figures:
    """R² of a ridge regression that rebuilds the normalised input of each MLP from its hidden values, on other text."""
    model = run.model
    ids = store.tokens("train")
    fitted = [inputs for inputs, _ in batches(model, ids[: len(ids) // 2], REBUILDING_TOKENS)]
    tested = [inputs for inputs, _ in batches(model, ids[len(ids) // 2 :], REBUILDING_TOKENS)]
    figures: Figures = {}
    for layer, block in enumerate(plain_blocks(model)):
        rebuilt = ridge_r2(_read(run, block.mlp, fitted), _read(run, block.mlp, tested))
        figures[f"r2_layer_{layer}"] = rebuilt
    known = [value for value in figures.values() if value is not None]
    return {"r2": sum(known) / len(known), **figures}


def ridge_r2(fitted: tuple[Tensor, Tensor], tested: tuple[Tensor, Tensor]) -> float:
    """Share of the variance of x (N,C) that a linear map of h (N,F) explains on other rows; both parts (h, x)."""
    (h, x), (other_h, other_x) = fitted, tested
    h_mean, x_mean = h.mean(0), x.mean(0)
    centred = h - h_mean
    gram = centred.T @ centred
    penalty = max(RIDGE * float(gram.diagonal().mean()), LEAST_RIDGE)  # where all neurons are dead the first is 0
    weights = torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=gram.dtype), centred.T @ (x - x_mean))
    residual = other_x - x_mean - (other_h - h_mean) @ weights
    return 1 - float(residual.square().sum() / (other_x - other_x.mean(0)).square().sum())


def _read(run: OpenedRun, mlp: MLP, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Hidden values (N,F) of an MLP and what it read (N,C), in float64."""
    hidden: list[Tensor] = []
    read: list[Tensor] = []
    hooks: list[tuple[nn.Module, Hook]] = [
        (mlp.act, lambda module, given, h: hidden.append(h.double().flatten(0, 1).cpu())),
        (mlp, lambda module, given, output: read.append(given[0].double().flatten(0, 1).cpu())),
    ]
    with hooked(hooks), precision(run):
        for ids in inputs:
            run.model(ids.to(run.model.device))
    return torch.cat(hidden), torch.cat(read)
