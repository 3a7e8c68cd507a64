"""One description of the architecture: a model and a run obey the same rules, and a run's hash keeps its order."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from minigpt.base.errors import UsageError
from minigpt.model import GPTConfig
from minigpt.parts.architecture import Architecture
from minigpt.training.config import RunConfig, TextConfig, check

FORBIDDEN: list[tuple[dict[str, Any], str]] = [
    ({"n_embd": 30, "n_head": 4}, "n-embd 30 is not divisible by n-head 4; choose a multiple"),
    ({"position": "rope", "n_embd": 12, "n_head": 4}, "even head width; got n-embd / n-head = 3; choose others"),
    ({"position": "rope", "attention": "mean"}, "attention mean has none; use --position learned"),
    ({"init_bias": -1.0, "bias": False}, "init-bias -1 needs biases; bias is off"),
    ({"norm": "layer"}, "unknown norm 'layer'.* allowed: layernorm, rmsnorm, batchnorm, none"),
    ({"position": "sines"}, "unknown position 'sines'.* allowed: learned, rope"),
    ({"init": "xavier"}, "unknown init 'xavier'.* allowed: gpt2, matched"),
    ({"attention": "flash"}, "unknown attention 'flash'.* allowed: .*fused, written, mean"),
    ({"n_layer": 0}, "n-layer is too small; got 0; at least 1"),
    ({"dropout": 1.0}, "dropout is too large; got 1; below 1"),
]


@pytest.mark.parametrize(("changes", "message"), FORBIDDEN, ids=[" ".join(changes) for changes, _ in FORBIDDEN])
def test_a_model_and_a_run_refuse_the_same(changes: dict[str, Any], message: str) -> None:
    """Whoever builds a model in Python reads the same advice as who trains one from the command line."""
    with pytest.raises(UsageError, match=message):
        GPTConfig(vocab_size=5, **changes)
    with pytest.raises(UsageError, match=message):
        check(RunConfig(**changes))


def test_the_fields_of_a_run_keep_their_order() -> None:
    """The hash of a configuration is over its fields in order: text, architecture, then what is the run's alone."""
    names = [item.name for item in fields(RunConfig)]
    shared = [item.name for kind in (TextConfig, Architecture) for item in fields(kind)]
    assert names[: len(shared)] == shared
    assert (names[0], names[len(shared)], names[-1]) == ("preset", "init_from", "deterministic")
