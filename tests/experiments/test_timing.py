"""What a cell is expected to take: in proportion to its operations, at the pace of another training."""

from __future__ import annotations

from dataclasses import replace

import pytest

from minigpt.experiments.timing import Pace, cell_seconds
from minigpt.training.config import RunConfig
from minigpt.training.run import model_config

SHAPE = {"n_layer": 2, "n_embd": 24, "block_size": 16, "attention": "fused"}
CONFIG = RunConfig(**SHAPE, batch_size=4, steps=100, eval_every=50, eval_tokens=640)
FLOPS = model_config(CONFIG, 30).flops_per_token
PACE = Pace(step=0.1, evaluated_token=0.001, tokens_per_step=64, flops_per_token=FLOPS)


def test_a_cell_like_the_measured_one_takes_its_steps_and_evaluations() -> None:
    """A hundred steps, two evaluations on the way, and the whole validation text at the end; a second to start."""
    assert cell_seconds(CONFIG, FLOPS, PACE, val_tokens=1000) == pytest.approx(1 + 100 * 0.1 + (2 * 640 + 1000) * 0.001)


def test_a_half_width_arm_is_priced_less() -> None:
    """By what its narrower MLPs save, and not as a full one."""
    narrow = replace(CONFIG, d_ff=48)
    flops = model_config(narrow, 30).flops_per_token
    whole, half = cell_seconds(CONFIG, FLOPS, PACE, 1000), cell_seconds(narrow, flops, PACE, 1000)
    saved = 6 * 2 * 2 * 24 * 48
    assert (whole - half) / (whole - 1) == pytest.approx(saved / FLOPS)


def test_larger_batches_and_no_evaluations_are_priced_too() -> None:
    doubled = replace(CONFIG, batch_size=8, eval_every=0)
    assert cell_seconds(doubled, FLOPS, PACE, 1000) == pytest.approx(1 + 100 * 0.2 + 1000 * 0.001)
