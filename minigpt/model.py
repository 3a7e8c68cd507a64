"""The model: a decoder-only transformer, GPT-2's by default, whose MLP takes any activation of the registry.

Shape letters, used everywhere: B batch, T time, C `n_embd`, F `d_ff`, H heads, D = C / H, V vocabulary, L layers.

Nothing here knows of training, text or the instrument; the instrument hooks `block.mlp.act` from outside. Decoding
runs this same forward pass, with tokens (B,) of one position instead of (B,T), and a cache.

Sources: GPT-2 (Radford et al. 2019); gated MLPs (Shazeer 2020, arXiv:2002.05202); RMSNorm (Zhang & Sennrich 2019,
arXiv:1910.07467); rotary positions (Su et al. 2021, arXiv:2104.09864), in the half-split layout of Llama.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt.activations import build_activation, matched_width, parse_activation, parse_widths, resolve_spec
from minigpt.base.errors import UsageError
from minigpt.base.flops import flops_per_token
from minigpt.parts.architecture import MEAN, Architecture, check_architecture
from minigpt.parts.dropout import dropout
from minigpt.parts.initialisation import initialise
from minigpt.parts.kv_cache import Cache
from minigpt.parts.variants import BatchNorm, CausalMean

ROPE_BASE = 10_000.0
RMSNORM_EPS = 1e-6


@dataclass(frozen=True)
class GPTConfig(Architecture):
    """An architecture and the number of tokens that it knows."""

    vocab_size: int = field(kw_only=True)

    def __post_init__(self) -> None:
        check_architecture(self)

    @property
    def layer_activations(self) -> tuple[str, ...]:
        """The activation spec of each layer, canonical."""
        return parse_activation(self.activation, self.n_layer)

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """The number of neurons of each layer."""
        asked = parse_widths(self.d_ff, self.n_layer)
        layers = zip(asked, self.layer_activations, strict=True)
        return tuple(width or matched_width(spec, self.n_embd, self.bias) for width, spec in layers)

    @property
    def flops_per_token(self) -> int:
        """Forward and backward operations per token."""
        branches = [resolve_spec(spec)[0].branches for spec in self.layer_activations]
        widths, with_softmax = self.layer_widths, self.attention != MEAN
        return flops_per_token(self.n_embd, self.block_size, self.vocab_size, widths, branches, with_softmax)


def build_norm(config: GPTConfig) -> nn.Module:
    """The normalisation in front of attention, MLP and head."""
    if config.norm == "layernorm":
        return nn.LayerNorm(config.n_embd, bias=config.bias)
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.n_embd, eps=RMSNORM_EPS)
    if config.norm == "batchnorm":
        return BatchNorm(config)
    return nn.Identity()


def rotate(x: Tensor, first: int | Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i+D/2}) of x (B,H,T,D) by its position's angle; positions begin at `first`.

    Source: Su et al. 2021, eq. 34, with the two members of a pair D/2 apart.
    """
    half = x.size(-1) // 2
    frequency = ROPE_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    position = first + torch.arange(x.size(-2), device=x.device, dtype=torch.float32)
    angle = position[:, None] * frequency  # (T,D/2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a token sees itself and the tokens before it."""

    causal_bias: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.rotary = config.position == "rope"
        self.written = config.attention == "written"
        self.w_qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.w_out = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        future = torch.full((config.block_size, config.block_size), -math.inf).triu(1)
        self.register_buffer("causal_bias", future, persistent=False)

    def forward(self, x: Tensor, cache: Cache | None = None, layer: int = 0) -> Tensor:
        qkv = self.w_qkv(x).view(x.size(0), -1, 3, self.n_head, x.size(-1) // self.n_head)  # (B,T,3,H,D)
        heads = qkv.permute(2, 0, 3, 1, 4)  # (3,B,H,T,D)
        q, k, v = heads.contiguous() if x.dim() == 3 else heads  # of one token they need no copy
        if self.rotary:
            first = 0 if cache is None else cache.length
            q, k = rotate(q, first), rotate(k, first)
        y = self.attend(q, k, v) if cache is None else cache.attend(self, layer, q, k, v)  # (B,H,T,D)
        y = self.w_out(y.transpose(1, 2).reshape(x.shape))  # (B,T,C)
        return dropout(y, self.dropout, self.training)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix v by softmax(q·k / √D + mask): (B,H,T,D); by default queries and keys are those of the same tokens."""
        if self.written:
            return self._attend_written(q, k, v, mask)
        rate = self.dropout if self.training else 0.0
        mask = None if mask is None else mask.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate, is_causal=mask is None)

    def _attend_written(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The same function in three products: the fused kernel's backward is slow at short contexts on a CPU."""
        batch, heads, time, width = q.shape
        scores = torch.baddbmm(
            (self.causal_bias[:time, :time] if mask is None else mask).to(q.dtype),
            q.reshape(batch * heads, time, width),
            k.reshape(batch * heads, -1, width).transpose(1, 2),
            alpha=1 / math.sqrt(width),
        )  # (B·H,T,first+T)
        # The dtype is given because autocast would make it float32, and copy it there and back.
        weights = dropout(F.softmax(scores, dim=-1, dtype=scores.dtype), self.dropout, self.training)
        return torch.bmm(weights, v.reshape(batch * heads, -1, width)).view(batch, heads, time, width)


class MLP(nn.Module):
    """w_out(act(w_in(x))); the activation, plain or gated, is the only part that differs between arms."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.act = build_activation(config.layer_activations[layer])
        self.d_ff = config.layer_widths[layer]
        self.w_in = nn.Linear(config.n_embd, self.act.branches * self.d_ff, bias=config.bias)
        self.w_out = nn.Linear(self.d_ff, config.n_embd, bias=config.bias)
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(self.w_in(x))  # (B,T,branches·F) -> (B,T,F)
        return dropout(self.w_out(hidden), self.dropout, self.training)  # (B,T,C)


class Block(nn.Module):
    """Attention, then MLP, each behind a normalisation and beside a residual path that can be switched off."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.residual = config.residual
        self.ln_1 = build_norm(config)
        self.attn = CausalMean(config) if config.attention == MEAN else CausalSelfAttention(config)
        self.ln_2 = build_norm(config)
        self.mlp = MLP(config, layer)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        attended = self.attn(self.ln_1(x), cache, self.layer)
        x = x + attended if self.residual else attended
        transformed: Tensor = self.mlp(self.ln_2(x))
        return x + transformed if self.residual else transformed


class GPT(nn.Module):
    """Token ids (B,T) to next-token logits (B,T,V); initial weights are a pure function of configuration and seed."""

    blocks: Sequence[Block]  # a ModuleList, whose type would not say of what

    def __init__(self, config: GPTConfig, seed: int = 1337) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd) if config.position == "learned" else None
        self.blocks = cast("Sequence[Block]", nn.ModuleList(Block(config, layer) for layer in range(config.n_layer)))
        self.ln_f = build_norm(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.wte.weight
        initialise(self, config, seed)

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Return logits (B,T,V) for ids (B,T); with a cache, ids are the tokens after those already in it.

        Raises:
            UsageError: the tokens do not fit into the context.
        """
        logits = self.logits(self.embed(ids, cache), cache)
        if cache is not None:
            cache.advance(ids)
        return logits

    def embed(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Return what the first block reads: ids (B,T) -> (B,T,C)."""
        places = slice(0, ids.size(1)) if cache is None else cache.positions(ids)
        if isinstance(places, slice) and places.stop > self.config.block_size:
            context = f"the context (block_size) is {self.config.block_size}"
            raise UsageError(f"{places.stop} tokens do not fit; {context}")
        x: Tensor = self.wte(ids)  # (B,T,C)
        if self.wpe is not None:
            x = x + self.wpe.weight[places]
        return dropout(x, self.config.dropout, self.training)

    def logits(self, x: Tensor, cache: Cache | None = None, first_block: int = 0) -> Tensor:
        """Return the logits (B,T,V) for what block `first_block` reads (B,T,C)."""
        for layer in range(first_block, len(self.blocks)):
            x = self.blocks[layer](x, cache)
        logits: Tensor = self.lm_head(self.ln_f(x))
        return logits

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.wte.weight.device

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside this block dropout is off and BatchNorm uses its running statistics; then the mode is as before."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    def stored_tensors(self) -> dict[str, Tensor]:
        """All that has to be kept of the model, by name: parameters, tied ones once, and BatchNorm's statistics."""
        kept = self.state_dict().keys()
        running = {name: buffer for name, buffer in self.named_buffers() if name in kept}
        return {**dict(self.named_parameters()), **running}

    def parameter_count(self) -> int:
        """Number of trainable values, tied ones once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self) -> int:
        """Forward and backward operations per token."""
        return self.config.flops_per_token
