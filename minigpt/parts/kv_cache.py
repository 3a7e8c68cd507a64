"""What a model keeps of the tokens that it has read, so that the next ones need not be computed with them again."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from minigpt.parts.architecture import Architecture


class Attention(Protocol):
    """What a cache asks of the attention of a layer.

    `attend` mixes values v by queries q and keys k; `mask`, rows of `causal_bias`, is needed if keys precede queries.
    """

    causal_bias: Tensor

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor: ...


class Cache(Protocol):
    """What the model's forward pass asks of a cache; `length` is the position of the first new token."""

    @property
    def length(self) -> int | Tensor: ...

    def positions(self, ids: Tensor) -> slice | Tensor:
        """Where the new tokens are in the context."""

    def attend(self, attention: Attention, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k and v (B,H,T,D) of the new tokens and mix those of all tokens for the queries q: (B,H,T,D)."""

    def advance(self, ids: Tensor) -> None:
        """All layers have stored these tokens."""


class KVCache:
    """Keys and values of the tokens seen so far, preallocated for one context.

    Shapes: `keys`, `values` (L, B, H, block_size, D); the first `length` positions are filled.
    """

    def __init__(self, shape: Architecture, batch: int, device: torch.device, dtype: torch.dtype) -> None:
        head_width = shape.n_embd // shape.n_head
        size = (shape.n_layer, batch, shape.n_head, shape.block_size, head_width)
        self.keys = torch.zeros(size, device=device, dtype=dtype)
        self.values = torch.zeros(size, device=device, dtype=dtype)
        self.length = 0

    def positions(self, ids: Tensor) -> slice:
        return slice(self.length, self.length + ids.size(1))

    def attend(self, attention: Attention, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        end = self.length + q.size(2)
        keys, values = self.keys[layer, :, :, :end], self.values[layer, :, :, :end]
        keys[:, :, self.length :] = k
        values[:, :, self.length :] = v
        mask = attention.causal_bias[self.length : end, :end] if self.length else None
        return attention.attend(q, keys, values, mask)

    def advance(self, ids: Tensor) -> None:
        self.length += ids.size(1)
