"""The presets: starting values by name, which flags override. A run records the values, not where they came from."""

from __future__ import annotations

from typing import Any

_NANOGPT = {"bias": False, "min_lr": 1e-4, "lr": 1e-3, "warmup_steps": 100, "beta2": 0.99, "test_fraction": 0.0}
_NANOGPT_CPU = _NANOGPT | {
    "n_layer": 4,
    "n_head": 4,
    "n_embd": 128,
    "block_size": 64,
    "batch_size": 12,
    "steps": 2000,
    "dropout": 0.0,
}
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "nanogpt-cpu": _NANOGPT_CPU,
    # The same model to the same loss in fewer tokens (docs/performance.md).
    "nanogpt-cpu-fast": _NANOGPT_CPU
    | {"steps": 260, "batch_size": 24, "optimizer": "muon", "beta1": 0.85, "warmup_steps": 20, "init": "matched"}
    | {"lr": 2e-2, "min_lr": 0.0, "schedule": "linear"},
    "nanogpt-char": _NANOGPT
    | {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "batch_size": 64, "steps": 5000, "dropout": 0.2},
    "gpt2-small": {
        "corpus": "fineweb-edu",
        "tokenizer": "gpt2",
        "n_layer": 12,
        "n_head": 12,
        "n_embd": 768,
        "block_size": 1024,
        "bias": False,
        "batch_size": 12,
        "grad_accumulation": 40,
        "steps": 600_000,
        "lr": 6e-4,
        "min_lr": 6e-5,
        "warmup_steps": 2000,
        "beta2": 0.95,
        "eval_every": 1000,
        "eval_tokens": 1_048_576,
        "checkpoint_every": 1000,
    },
}
