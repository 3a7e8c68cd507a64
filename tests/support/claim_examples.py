"""What tests of claims need: made-up evidence, arms at a tiny scale, a model and a text as measurements get them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from minigpt.claims.claim import Claim
from minigpt.claims.evidence import Evidence
from minigpt.claims.scale import LedgerOptions, Scale
from minigpt.experiments.arms_to_cells import Planner
from minigpt.model import GPT, GPTConfig
from minigpt.neurons.probe import plain_blocks
from minigpt.text.tokenizers import CharTokenizer, Tokenizer
from minigpt.training.config import RunConfig
from minigpt.training.run import model_config

ALPHABET = "\n01=abcdefg"
TINY = Scale({"n_embd": 24, "steps": 40, "device": "cpu", "dtype": "float32"}, LedgerOptions())
Curve = list[tuple[int, float]]


def evidence(
    losses: Mapping[tuple[str, int], float] | None = None,
    curves: Mapping[tuple[str, int], Curve] | None = None,
    figures: Mapping[tuple[str, int, str], Mapping[str, float | None]] | None = None,
    choosing: tuple[int, ...] = (),
) -> Evidence:
    """Made-up results by (arm, seed); an infinite loss is a training that diverged."""
    ends = {key: curve[-1][1] for key, curve in (curves or {}).items()} | dict(losses or {})
    results = {
        key: {
            "status": "finished" if math.isfinite(loss) else "diverged",
            "val": {"loss": loss},
            "evaluations": [{"step": step, "loss": found} for step, found in (curves or {}).get(key, [(0, 4.0)])],
        }
        for key, loss in ends.items()
    }
    return Evidence(results, figures or {}, choosing)


def of_one_seed(
    losses: Mapping[str, float], figures: Mapping[tuple[str, str], Mapping[str, float | None]] | None = None
) -> Evidence:
    """Made-up results of seed 0, which chooses too: losses by arm, figures by (arm, measurement)."""
    measured = {(arm, 0, name): found for (arm, name), found in (figures or {}).items()}
    return evidence({(arm, 0): loss for arm, loss in losses.items()}, figures=measured, choosing=(0,))


def configuration(claim: Claim, arm: str) -> RunConfig:
    """How an arm is trained at a tiny scale, by the code that a ledger uses."""
    return Planner(TINY.base, TINY.options.cells_dir, threads=1).configuration(claim.arms[arm], seed=1)


def arm_model(claim: Claim, arm: str) -> GPT:
    """The fresh model of an arm at a tiny scale."""
    config = configuration(claim, arm)
    return GPT(model_config(config, len(ALPHABET)), config.seed)


def differing(claim: Claim, arms: Iterable[str]) -> set[str]:
    """The flags in which some of these arms differ."""
    values = [dataclasses.asdict(configuration(claim, arm)) for arm in arms]
    return {name for name in values[0] if len({str(value[name]) for value in values}) > 1}


def opened(model: Any, tokenizer: Tokenizer | None = None, /, **settings: Any) -> Any:
    """As much of an opened run as measurements read."""
    config = RunConfig(block_size=model.config.block_size, device="cpu", dtype="float32", **settings)
    return SimpleNamespace(config=config, model=model.eval(), tokenizer=tokenizer or CharTokenizer(ALPHABET))


def store(train: np.ndarray | None = None, val: np.ndarray | None = None) -> Any:
    """As much of prepared tokens as measurements read; random where none are given."""
    random = np.random.default_rng(3)
    parts = {"train": train, "val": val}
    ids = {name: random.integers(len(ALPHABET), size=3000) if part is None else part for name, part in parts.items()}
    return SimpleNamespace(tokens=lambda split: ids[split].astype(np.uint16))


def lively_model(spread: float = 10.0, **settings: Any) -> GPT:
    """A small model with weights so large that every token and every layer matters."""
    shape = {"vocab_size": len(ALPHABET), "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 12, **settings}
    model = GPT(GPTConfig(**shape), seed=5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(spread)
    return model.eval()


def with_planted_dead(planted: int) -> GPT:
    """A lively model of which this number of neurons of the first layer can never open."""
    model = lively_model()
    with torch.no_grad():
        mlp = plain_blocks(model)[0].mlp
        mlp.w_in.weight[:planted] = 0
        mlp.w_in.bias[:planted] = -1
    return model
