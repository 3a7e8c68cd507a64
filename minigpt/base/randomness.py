"""Randomness as a pure function of (seed, purpose, step).

Nothing here keeps state between calls. Initialisation, batch order, dropout and sampling each ask for a generator of
their own, so evaluating, probing or logging cannot change a training, a resumed run needs no stored generator state,
and two arms of an ablation that share a seed see the same batches.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def key(seed: int, purpose: str, step: int = 0) -> int:
    """Return a 63-bit number that depends on nothing but its arguments.

    NOTE: Python's own `hash` is salted per process, and torch's CPU generator reads only the low 32 bits of a seed,
    so neighbouring keys must differ everywhere: hence a cryptographic hash.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """Return a fresh CPU generator for one purpose at one step."""
    import torch

    return torch.Generator().manual_seed(key(seed, purpose, step))


def seed_dropout(seed: int, step: int, rank: int = 0) -> None:
    """Seed torch's global generators, which dropout reads, for one step; of several ranks each drops other values."""
    import torch

    torch.manual_seed(key(seed, f"dropout/{rank}" if rank else "dropout", step))
