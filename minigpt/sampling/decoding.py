"""Decoding: one token at a time, at the cost of reading the weights once.

A step is the model's own forward pass over one position. It has fixed shapes and takes that position as a tensor: it
attends to the whole cache and masks what is not filled. So one graph serves every position, and it can be compiled
ahead of time, with the weights built in. The first tokens, and those that are read again when the window slides, are
read at once, in float32.
The choice of a token is part of its step; when compiling repays is not decided here.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt.model import GPT
from minigpt.parts.kv_cache import Attention, KVCache
from minigpt.parts.recorded import Recorded
from minigpt.parts.variants import CausalMean

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
Choice = Callable[[Tensor, Tensor], Tensor]

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
        self.fused_attention = fused_attention
        context = model.config.block_size
        future = torch.full((context, context), -math.inf, device=model.device).triu(1)
        self.register_buffer("future", future, persistent=False)

    def forward(self, ids: Tensor, position: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        mask = self.future[position]  # (1,block_size)
        logits: Tensor = self.model(ids, _FixedCache(position, mask, keys, values, self.fused_attention))
        return logits


@dataclass(frozen=True)
class _FixedCache:
    """A cache of full length for one token at a position (1,); shapes as of `TokenStep`, mask (1,block_size)."""

    length: Tensor
    mask: Tensor
    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    fused_attention: bool

    def positions(self, ids: Tensor) -> Tensor:
        return self.length

    def attend(self, attention: Attention, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(2, self.length, k)
        values.index_copy_(2, self.length, v)
        if isinstance(attention, CausalMean):
            return attention.attend(q, keys, values, self.mask)
        return (_attend_fused if self.fused_attention else _attend_written)(q, keys, values, self.mask)

    def advance(self, ids: Tensor) -> None:
        """Nothing to do: the next token comes with its position."""


def _attend_fused(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask.to(q.dtype))


def _attend_written(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """The same in sums of products, which the compiler joins into one loop; it could not look into the fused kernel."""
    scores = (q.float() * keys.float()).sum(-1) / math.sqrt(q.size(-1)) + mask  # (B,H,block_size)
    weights = F.softmax(scores, dim=-1)
    return (weights[..., None] * values.float()).sum(2, keepdim=True).to(q.dtype)


class NextToken(nn.Module):
    """A step and the choice from its logits: returns tokens (B,) for the arguments of a step and uniforms (B,1)."""

    def __init__(self, step: TokenStep, choose: Choice) -> None:
        super().__init__()
        self.step, self.choose = step, choose

    def forward(
        self, ids: Tensor, position: Tensor, uniforms: Tensor, keys: list[Tensor], values: list[Tensor]
    ) -> Tensor:
        return self.choose(self.step(ids, position, keys, values), uniforms)


class Decoder:
    """A model with a cache of keys and values for `batch` samples of equal length, and a way to choose tokens.

    `choose` takes logits (B,V) and uniform numbers (B,1). Reading and advancing ask for a model in evaluation mode;
    building leaves its mode as it was. Compiling takes some twenty seconds on a CPU and is worth
    it for long texts only.
    """

    def __init__(
        self,
        model: GPT,
        batch: int,
        choose: Choice,
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> None:
        self._model = model
        self._choose = choose
        self._batch = batch
        self._cache = KVCache(model.config, batch, model.device, dtype)
        self._positions = torch.arange(model.config.block_size, device=model.device)[:, None].unbind()
        on_gpu = model.device.type == "cuda"
        keys, values = list(self._cache.keys), list(self._cache.values)
        build = (_record if on_gpu else _compile) if compiled else _plain
        with model.evaluating():
            step = NextToken(TokenStep(model, dtype, fused_attention=on_gpu or not compiled), choose).eval()
            self._next = build(step, batch, keys, values)

    def serves(self, model: GPT, batch: int, choose: Choice) -> bool:
        """Whether this was built for these."""
        return self._model is model and self._batch == batch and self._choose == choose

    @torch.no_grad()
    def read(self, window: Tensor, uniforms: Tensor) -> Tensor:
        """Forget everything, read window (B,T) and choose what follows it (B,)."""
        if window.size(1) == 1:
            self._cache.length = 0
            return self.advance(window[:, 0], uniforms)
        prefix = KVCache(self._model.config, window.size(0), window.device, self._model.wte.weight.dtype)
        logits: Tensor = self._model(window, prefix)[:, -1].float()
        self._cache.keys.copy_(prefix.keys)
        self._cache.values.copy_(prefix.values)
        self._cache.length = prefix.length
        return self._choose(logits, uniforms)

    @torch.no_grad()
    def advance(self, ids: Tensor, uniforms: Tensor) -> Tensor:
        """Read one more token of every sample, ids (B,), and choose what follows it (B,)."""
        position = self._positions[self._cache.length]
        self._cache.length += 1
        # NOTE: a compiled step reads memory without looking at strides.
        return self._next(ids.contiguous(), position, uniforms.contiguous())


class _Rounded(nn.Module):
    """A part of a model with weights in another dtype, between parts in float32."""

    def __init__(self, part: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.part, self.dtype = part, dtype

    def forward(self, x: Tensor, *arguments: object) -> Tensor:
        y: Tensor = self.part(x.to(self.dtype) if x.is_floating_point() else x, *arguments)
        return y.float()


def _cast(model: GPT, dtype: torch.dtype) -> GPT:
    """The model itself, or a copy with products and embeddings in another dtype; norms read the residual stream."""
    if dtype == model.wte.weight.dtype:
        return model
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.to(dtype)
    if model.wpe is not None:
        model.wpe.float()
    for parent in (model, *model.blocks):
        for name, part in parent.named_children():
            if name in ("wte", "attn", "mlp", "lm_head"):
                parent.add_module(name, _Rounded(part, dtype))
    return model


def _plain(step: NextToken, batch: int, keys: list[Tensor], values: list[Tensor]) -> Step:
    return partial(step, keys=keys, values=values)


@torch.no_grad()
def _record(step: NextToken, batch: int, keys: list[Tensor], values: list[Tensor]) -> Step:
    """Record a step's kernels on a GPU.

    What the first calls write into the cache lies at position 0, which every text writes first.
    """
    recorded: Recorded[Tensor] = Recorded(partial(step, keys=keys, values=values), *_example(batch, keys[0].device))

    def replay(ids: Tensor, position: Tensor, uniforms: Tensor) -> Tensor:
        return recorded(ids, position, uniforms).clone()

    return replay


@torch.no_grad()
def _compile(step: NextToken, batch: int, keys: list[Tensor], values: list[Tensor]) -> Step:
    """Translate a step to machine code, for this cache and number of samples.

    Ahead of time, because calling what `torch.compile` returns takes 20 µs, a quarter of a small model's token.
    """
    example = _example(batch, keys[0].device)
    # torch warns of itself, and writes tables of what it tried to stderr.
    silence = contextlib.redirect_stderr(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), silence:
        warnings.simplefilter("ignore")
        program = torch.export.export(step, (*example, keys, values))
        path = torch._inductor.aoti_compile_and_package(
            program, package_path=str(Path(folder) / "step.pt2"), inductor_configs=_INDUCTOR
        )
        run = torch._inductor.aoti_load_package(path).loader.run
    cache = (*keys, *values)

    def translated(ids: Tensor, position: Tensor, uniforms: Tensor) -> Tensor:
        chosen: Tensor = run([ids, position, uniforms, *cache])[0]
        return chosen

    return translated


def _example(batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (B,), position (1,) and uniforms (B,1) to build a step with."""
    ids, position = (torch.zeros(size, dtype=torch.int64, device=device) for size in (batch, 1))
    return ids, position, torch.zeros((batch, 1), dtype=torch.float64, device=device)
