"""Parts that are not GPT-2's and that only particular questions need: BatchNorm, and attention that averages."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from minigpt.parts.architecture import Architecture
from minigpt.parts.dropout import dropout
from minigpt.parts.kv_cache import Cache


class BatchNorm(nn.BatchNorm1d):
    """Each feature normalised over batch and time: by the batch's statistics in training, else by running ones.

    NOTE: in training the statistics contain the tokens still to be predicted, so the future leaks into every logit.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167.
    """

    def __init__(self, shape: Architecture) -> None:
        super().__init__(shape.n_embd)
        if not shape.bias:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view_as(x)  # (B,T,C) -> (B·T,C) -> (B,T,C)


class CausalMean(nn.Module):
    """Instead of attention: each token takes the mean value of itself and all before it, whatever they are.

    Without queries, keys and softmax it is linear in its input. Heads make no difference to it.
    """

    causal_bias: Tensor

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.n_head = shape.n_head
        self.dropout = shape.dropout
        self.w_v = nn.Linear(shape.n_embd, shape.n_embd, bias=shape.bias)
        self.w_out = nn.Linear(shape.n_embd, shape.n_embd, bias=shape.bias)
        future = torch.full((shape.block_size, shape.block_size), -math.inf).triu(1)
        self.register_buffer("causal_bias", future, persistent=False)

    def forward(self, x: Tensor, cache: Cache | None = None, layer: int = 0) -> Tensor:
        v = self.w_v(x).view(x.size(0), -1, self.n_head, x.size(-1) // self.n_head).transpose(1, 2)  # (B,H,T,D)
        y = self.attend(v, v, v) if cache is None else cache.attend(self, layer, v, v, v)  # (B,H,T,D)
        y = self.w_out(y.transpose(1, 2).reshape(x.shape))  # (B,T,C)
        return dropout(y, self.dropout, self.training)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """The means of v (B,H,T,D) over what each query may see, in float32 at least; q is only counted, k not used."""
        mask = self.causal_bias[: q.size(2), : q.size(2)] if mask is None else mask
        past = (mask == 0).float()  # (T,first+T)
        values = v.to(torch.promote_types(v.dtype, torch.float32))
        y = past.to(values.dtype) @ values / past.sum(dim=1, keepdim=True)
        return y.to(v.dtype)
