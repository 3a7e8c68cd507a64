"""Decoding: one token at a time, at the cost of reading the weights once.

A step has fixed shapes and takes its position as a tensor: it attends to the whole cache and masks what is not filled.
So one graph serves every position, and it can be compiled ahead of time, with the weights built in. The first tokens,
and those that are read anew when the window slides, go through the model itself, in float32.
Choosing tokens, and when compiling repays, is not decided here.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt.model import GPT, Block, CausalMean, CausalSelfAttention, KVCache, rotate

Step = Callable[[Tensor, Tensor, list[Tensor], list[Tensor]], Tensor]

# What makes inductor's code fast at one row: weights as constants, laid out for its own C++ products.
# NOTE: "CPP" alone would fail where it has no product for a shape.
_INDUCTOR = {"freezing": True, "max_autotune": True, "max_autotune_gemm_backends": "CPP,ATEN"}


class TokenStep(nn.Module):
    """The model for one new token of every sample, in weights of one dtype; the residual stream stays float32.

    Shapes: ids (B,), position (1,), keys and values L of (B,H,block_size,D), which the step fills in at `position`;
    returns logits (B,V), float32.
    """

    future: Tensor

    def __init__(self, model: GPT, dtype: torch.dtype, fused_attention: bool) -> None:
        super().__init__()
        self.model = _cast(model, dtype)
        self.dtype = dtype
        self.attend = _attend_fused if fused_attention else _attend_written
        context = model.config.block_size
        future = torch.full((context, context), -math.inf, device=model.device).triu(1)
        self.register_buffer("future", future, persistent=False)

    def forward(self, ids: Tensor, position: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        x = self.model.wte(ids).float()  # (B,C)
        if self.model.wpe is not None:
            x = x + self.model.wpe(position).float()
        mask = self.future[position]  # (1,block_size)
        for block, k, v in zip(self.model.blocks, keys, values, strict=True):
            assert isinstance(block, Block)
            mixed = self._mean if isinstance(block.attn, CausalMean) else self._attention
            attended = mixed(block.attn, block.ln_1(x).to(self.dtype), position, mask, k, v)
            x = x + attended if block.residual else attended.float()
            transformed = block.mlp(block.ln_2(x).to(self.dtype))
            x = x + transformed if block.residual else transformed.float()
        logits: Tensor = self.model.lm_head(self.model.ln_f(x).to(self.dtype))
        return logits.float()

    def _mean(self, attn: nn.Module, x: Tensor, position: Tensor, mask: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        assert isinstance(attn, CausalMean)
        batch, width = x.shape
        values.index_copy_(2, position, attn.w_v(x).view(batch, attn.n_head, 1, -1))
        past = (mask == 0).float()  # (1,block_size)
        y = (past @ values.float()) / past.sum()  # (B,H,1,D)
        written: Tensor = attn.w_out(y.reshape(batch, width).to(self.dtype))
        return written

    def _attention(
        self, attn: nn.Module, x: Tensor, position: Tensor, mask: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        assert isinstance(attn, CausalSelfAttention)
        batch, width = x.shape
        qkv = attn.w_qkv(x).view(batch, 3, attn.n_head, 1, -1)  # (B,3,H,1,D)
        q, k, v = qkv.unbind(1)  # each (B,H,1,D)
        if attn.rotary:
            q, k = rotate(q, position), rotate(k, position)
        keys.index_copy_(2, position, k)
        values.index_copy_(2, position, v)
        y = self.attend(q, keys, values, mask)  # (B,H,1,D)
        written: Tensor = attn.w_out(y.reshape(batch, width).to(self.dtype))
        return written


def _attend_fused(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask.to(q.dtype))


def _attend_written(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """The same in sums of products, which the compiler joins into one loop; it could not look into the fused kernel."""
    scores = (q.float() * keys.float()).sum(-1) / math.sqrt(q.size(-1)) + mask  # (B,H,block_size)
    weights = F.softmax(scores, dim=-1)
    return (weights[..., None] * values.float()).sum(2, keepdim=True)


class Decoder:
    """A model with a cache of keys and values for `batch` samples of equal length.

    Compiling takes a minute or more on a CPU and is worth it for long texts only.
    """

    def __init__(self, model: GPT, batch: int, dtype: torch.dtype = torch.float32, compiled: bool = False) -> None:
        self._model = model
        self._cache = KVCache(model.config, batch, model.device, dtype)
        self._keys, self._values = list(self._cache.keys), list(self._cache.values)
        self._positions = torch.arange(model.config.block_size, device=model.device)[:, None].unbind()
        step = TokenStep(model, dtype, fused_attention=not compiled).eval()
        ids = torch.zeros(batch, dtype=torch.int64, device=model.device)
        self._step: Step = _compile(step, (ids, self._positions[0], self._keys, self._values)) if compiled else step

    @torch.no_grad()
    def read(self, window: Tensor) -> Tensor:
        """Forget everything, read window (B,T) and return the logits (B,V) of what follows it."""
        if window.size(1) == 1:
            self._cache.length = 0
            return self.advance(window[:, 0])
        prefix = KVCache(self._model.config, window.size(0), window.device, self._model.wte.weight.dtype)
        logits: Tensor = self._model(window, prefix)[:, -1].float()
        self._cache.keys.copy_(prefix.keys)
        self._cache.values.copy_(prefix.values)
        self._cache.length = prefix.length
        return logits

    @torch.no_grad()
    def advance(self, ids: Tensor) -> Tensor:
        """Read one more token of every sample, ids (B,), and return the logits (B,V) of what follows it."""
        position = self._positions[self._cache.length]
        self._cache.length += 1
        return self._step(ids, position, self._keys, self._values)


def _cast(model: GPT, dtype: torch.dtype) -> GPT:
    """The model itself, or a copy with products and embeddings in another dtype; norms read the residual stream."""
    if dtype == model.wte.weight.dtype:
        return model
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.to(dtype)
    return model


@torch.no_grad()
def _compile(step: TokenStep, example: tuple[Tensor, Tensor, list[Tensor], list[Tensor]]) -> Step:
    """Translate a step to machine code for the shapes of `example`.

    Ahead of time, because calling what `torch.compile` returns takes 20 µs, a quarter of a small model's token.
    """
    # torch warns of itself, and writes tables of what it tried to stderr.
    silence = contextlib.redirect_stderr(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), silence:
        warnings.simplefilter("ignore")
        program = torch.export.export(step, example)
        path = torch._inductor.aoti_compile_and_package(
            program, package_path=str(Path(folder) / "step.pt2"), inductor_configs=_INDUCTOR
        )
        loaded = torch._inductor.aoti_load_package(path)
    run = loaded.loader.run

    def translated(ids: Tensor, position: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        logits: Tensor = run([ids, position, *keys, *values])[0]
        return logits

    return translated
