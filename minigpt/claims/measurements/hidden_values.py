"""What the hidden values of an MLP carry: their negative part, and what of its input can be rebuilt from them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minigpt.claims.measurements.batches_and_losses import Figures, batches, mean_loss, precision
from minigpt.model import MLP
from minigpt.neurons.hooks import Hook, hooked
from minigpt.neurons.knockout import Batch
from minigpt.neurons.probe import plain_blocks
from minigpt.text.store import TokenStore
from minigpt.training.inference import OpenedRun

CLAMPING_TOKENS = 65_536
REBUILDING_TOKENS = 8_192
RIDGE = 1e-3  # of the mean eigenvalue
LEAST_RIDGE = 1e-12


# --------------------------------------------------------------------------------------------------- the negative part


def clamping(run: OpenedRun, store: TokenStore) -> Figures:
    """Loss on validation text as it is, and with all negative hidden values set to 0.

    Clamping also moves each neuron's mean, which a bias could make good. `mean_kept` is what remains once each neuron
    has its mean on training text again; `negative` is the share of negative values there.
    """
    read = batches(run.model, store.tokens("val"), CLAMPING_TOKENS)
    shifts, negative = _clamping_shifts(run, batches(run.model, store.tokens("train"), CLAMPING_TOKENS))
    before = mean_loss(run, read)
    after = _clamped_loss(run, read, [torch.zeros_like(shift) for shift in shifts])
    restored = _clamped_loss(run, read, shifts)
    return {
        "loss": before,
        "clamped_loss": after,
        "rise": after - before,
        "restored_loss": restored,
        "mean_kept": restored - before,
        "negative": negative,
    }


@torch.no_grad()
def _clamping_shifts(run: OpenedRun, read: list[Batch]) -> tuple[list[Tensor], float]:
    """The negative part of the mean of each neuron (F,) of each layer; and the share of negative values."""
    sums: dict[nn.Module, Tensor] = {}
    negative: list[float] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], hidden: Tensor) -> None:
        negative.append(float((hidden < 0).float().mean()))
        sums[module] = sums.get(module, 0.0) + hidden.double().clamp(max=0).flatten(0, 1).sum(0)

    blocks = plain_blocks(run.model)
    with hooked((block.mlp.act, count) for block in blocks), precision(run):
        for inputs, _ in read:
            run.model(inputs.to(run.model.device))
    tokens = sum(inputs.numel() for inputs, _ in read)
    return [sums[block.mlp.act] / tokens for block in blocks], sum(negative) / len(negative)


def _clamped_loss(run: OpenedRun, read: list[Batch], shifts: list[Tensor]) -> float:
    """Loss with negative hidden values at 0, and each neuron (F,) shifted."""

    def clamping(shift: Tensor) -> Hook:
        return lambda module, inputs, hidden: hidden.clamp(min=0) + shift.to(hidden.dtype)

    hooks = [(block.mlp.act, clamping(shift)) for block, shift in zip(plain_blocks(run.model), shifts, strict=True)]
    with hooked(hooks):
        return mean_loss(run, read)


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
