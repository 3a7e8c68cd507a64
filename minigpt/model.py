"""The model: a decoder-only transformer, GPT-2's by default, whose MLP takes any activation of the registry.

Shape letters, used everywhere: B batch, T time, C `n_embd`, F `d_ff`, H heads, D = C / H, V vocabulary, L layers.

Nothing here knows of training, text or the instrument; the instrument hooks `block.mlp.act` from outside.

Sources: GPT-2 (Radford et al. 2019); gated MLPs (Shazeer 2020, arXiv:2002.05202); RMSNorm (Zhang & Sennrich 2019,
arXiv:1910.07467); rotary positions (Su et al. 2021, arXiv:2104.09864), in the half-split layout of Llama.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt.activations import build_activation, init_gain, matched_width, parse_activation, parse_widths, resolve_spec
from minigpt.base import randomness
from minigpt.base.errors import UsageError
from minigpt.base.flops import flops_per_token

GPT2_STD = 0.02
ROPE_BASE = 10_000.0
RMSNORM_EPS = 1e-6
NORMS = ("layernorm", "rmsnorm", "batchnorm", "none")
POSITIONS = ("learned", "rope")
INITS = ("gpt2", "matched")
# Two ways to compute softmax attention; `MEAN` is another function.
ATTENTIONS = ("fused", "written")
MEAN = "mean"


@dataclass(frozen=True)
class GPTConfig:
    """The architecture; `d_ff=0` gives every layer the width whose parameters match a plain MLP of width 4C.

    Where layers differ, `activation` and `d_ff` are lists such as `0=510,1-3=512`.
    """

    vocab_size: int
    block_size: int = 64
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    d_ff: int | str = 0
    activation: str = "relu"
    bias: bool = True
    norm: str = "layernorm"
    position: str = "learned"
    residual: bool = True
    tie_embeddings: bool = True
    dropout: float = 0.0
    init: str = "gpt2"
    init_bias: float = 0.0
    attention: str = "fused"

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head:
            raise UsageError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}; choose a multiple")
        if self.position == "rope" and self.n_embd // self.n_head % 2:
            width = self.n_embd // self.n_head
            raise UsageError(f"rotary positions need an even head width; got n_embd / n_head = {width}")
        if self.position == "rope" and self.attention == MEAN:
            raise UsageError("rotary positions turn queries and keys; attention mean has none; use position learned")
        if self.init_bias and not self.bias:
            raise UsageError(f"init_bias {self.init_bias:g} needs biases; bias is off; switch it on")
        attentions = (*ATTENTIONS, MEAN)
        for name, allowed in (("norm", NORMS), ("position", POSITIONS), ("init", INITS), ("attention", attentions)):
            if getattr(self, name) not in allowed:
                raise UsageError(f"unknown {name} {getattr(self, name)!r}; allowed: {', '.join(allowed)}")

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


class KVCache:
    """Keys and values of the tokens seen so far, preallocated for one context.

    Shapes: `keys`, `values` (L, B, H, block_size, D); the first `length` positions are filled.
    """

    def __init__(self, config: GPTConfig, batch: int, device: torch.device, dtype: torch.dtype) -> None:
        head_width = config.n_embd // config.n_head
        shape = (config.n_layer, batch, config.n_head, config.block_size, head_width)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k, v (B,H,T,D) of the new tokens and return those of all tokens (B,H,length+T,D)."""
        end = self.length + k.size(2)
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


def build_norm(config: GPTConfig) -> nn.Module:
    """The normalisation in front of attention, MLP and head."""
    if config.norm == "layernorm":
        return nn.LayerNorm(config.n_embd, bias=config.bias)
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.n_embd, eps=RMSNORM_EPS)
    if config.norm == "batchnorm":
        return BatchNorm(config)
    return nn.Identity()


class BatchNorm(nn.BatchNorm1d):
    """Each feature normalised over batch and time: by the batch's statistics in training, else by running ones.

    NOTE: in training the statistics contain the tokens still to be predicted, so the future leaks into every logit.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config.n_embd)
        if not config.bias:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view_as(x)  # (B,T,C) -> (B·T,C) -> (B,T,C)


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


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """Set a share of x to 0 and scale up the rest, while training.

    NOTE: a CPU draws random numbers one by one, which took a third of a step; so each of 64 bits decides four times.
    """
    if not training or rate == 0 or x.device.type != "cpu":
        return F.dropout(x, rate, training)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None).view(torch.int16)
    dropped = round(rate * (1 << 16))  # of the 2^16 values that a draw may have
    kept = (draws[: x.numel()] >= dropped - (1 << 15)).view_as(x)
    return x * kept.to(x.dtype).mul_((1 << 16) / ((1 << 16) - dropped))


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

    def forward(self, x: Tensor, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        batch, time, width = x.shape
        qkv = self.w_qkv(x).view(batch, time, 3, self.n_head, -1)  # (B,T,3,H,D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).contiguous()  # each (B,H,T,D)
        first = cache.length if cache is not None else 0
        if self.rotary:
            q, k = rotate(q, first), rotate(k, first)
        if cache is not None:
            k, v = cache.extend(layer, k, v)  # (B,H,first+T,D)
        attend = self._attend_written if self.written else self._attend_fused
        y = attend(q, k, v, first)  # (B,H,T,D)
        y = y.transpose(1, 2).reshape(batch, time, width)
        y = self.w_out(y)  # (B,T,C)
        return dropout(y, self.dropout, self.training)

    def _attend_fused(self, q: Tensor, k: Tensor, v: Tensor, first: int) -> Tensor:
        rate = self.dropout if self.training else 0.0
        if first == 0:
            return F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
        mask = self._mask(q, k, first)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate)

    def _attend_written(self, q: Tensor, k: Tensor, v: Tensor, first: int) -> Tensor:
        """The same function in three products: the fused kernel's backward is slow at short contexts on a CPU."""
        batch, heads, time, width = q.shape
        scores = torch.baddbmm(
            self._mask(q, k, first),
            q.reshape(batch * heads, time, width),
            k.reshape(batch * heads, -1, width).transpose(1, 2),
            alpha=1 / math.sqrt(width),
        )  # (B·H,T,first+T)
        # The dtype is given because autocast would make it float32, and copy it there and back.
        weights = dropout(F.softmax(scores, dim=-1, dtype=scores.dtype), self.dropout, self.training)
        return torch.bmm(weights, v.reshape(batch * heads, -1, width)).view(batch, heads, time, width)

    def _mask(self, q: Tensor, k: Tensor, first: int) -> Tensor:
        """0 where a query may look, −inf where it may not: (T, first+T)."""
        return self.causal_bias[first : first + q.size(-2), : k.size(-2)].to(q.dtype)


class CausalMean(nn.Module):
    """In the place of attention: each token takes the mean value of itself and all before it, whatever they are.

    Without queries, keys and softmax it is linear in its input. Heads make no difference to it.
    """

    past: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.w_v = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.w_out = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.register_buffer("past", torch.ones(config.block_size, config.block_size).tril(), persistent=False)

    def forward(self, x: Tensor, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        batch, time, width = x.shape
        v = self.w_v(x).view(batch, time, self.n_head, -1).transpose(1, 2)  # (B,H,T,D)
        first = cache.length if cache is not None else 0
        if cache is not None:
            _, v = cache.extend(layer, v, v)  # (B,H,first+T,D)
        past = self.past[first : first + time, : v.size(2)]  # (T,first+T)
        y = (past.to(v.dtype) @ v) / past.sum(dim=1, keepdim=True)  # (B,H,T,D)
        y = y.transpose(1, 2).reshape(batch, time, width)
        return dropout(self.w_out(y), self.dropout, self.training)  # (B,T,C)


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

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        attended = self.attn(self.ln_1(x), cache, self.layer)
        x = x + attended if self.residual else attended
        transformed: Tensor = self.mlp(self.ln_2(x))
        return x + transformed if self.residual else transformed


class GPT(nn.Module):
    """Token ids (B,T) to next-token logits (B,T,V); initial weights are a pure function of configuration and seed."""

    blocks: nn.ModuleList

    def __init__(self, config: GPTConfig, seed: int = 1337) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd) if config.position == "learned" else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = build_norm(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.wte.weight
        _initialise(self, seed)

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return logits (B,T,V) for ids (B,T); with a cache, ids are the tokens after those already in it.

        Raises:
            UsageError: the tokens do not fit into the context.
        """
        first = cache.length if cache is not None else 0
        end = first + ids.size(1)
        if end > self.config.block_size:
            raise UsageError(f"{end} tokens do not fit; the context (block_size) is {self.config.block_size}")
        x = self.wte(ids)  # (B,T,C)
        if self.wpe is not None:
            x = x + self.wpe.weight[first:end]
        x = dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = block(x, cache)
        if cache is not None:
            cache.length = end
        logits: Tensor = self.lm_head(self.ln_f(x))
        return logits

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.wte.weight.device

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


def _initialise(model: GPT, seed: int) -> None:
    """Draw the weights, each tensor from a generator of its own, and set biases to zero but for `init_bias`.

    So two configurations that share a seed share every tensor whose name and shape agree, up to its scale.
    """
    stds = _weight_stds(model)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
        for block in model.blocks:
            if model.config.init_bias:
                assert isinstance(block, Block)
                block.mlp.w_in.bias[: block.mlp.d_ff] = model.config.init_bias * initial_spread(model.config)
        for name, parameter in model.named_parameters():
            if parameter in stds:
                noise = torch.randn(parameter.shape, generator=randomness.generator(seed, f"init/{name}"))
                parameter.copy_(noise * stds[parameter])


def incoming_std(config: GPTConfig) -> float:
    """Standard deviation at the start of `w_in`, and of whatever takes the place of its rows later."""
    return 1 / math.sqrt(config.n_embd) if config.init == "matched" else GPT2_STD


def initial_spread(config: GPTConfig) -> float:
    """Standard deviation of a neuron's z at the start, under a normalised input; the unit of `init_bias`."""
    return incoming_std(config) * math.sqrt(config.n_embd)


def _weight_stds(model: GPT) -> dict[Tensor, float]:
    """Standard deviation of each weight matrix at the start; norms and an activation's own parameters keep theirs.

    GPT-2 (§2.3 of its paper): 0.02, and 1/√(2L) of it for what writes to the residual stream. `matched` gives the
    MLP's pre-activations unit variance under a normalised input, and divides `w_out` by the standard deviation of
    the hidden value, so that every activation writes as if its hidden vector had unit variance.
    """
    config = model.config
    residual_std = GPT2_STD / math.sqrt(2 * config.n_layer)
    stds: dict[Tensor, float] = {model.wte.weight: GPT2_STD, model.lm_head.weight: GPT2_STD}
    if model.wpe is not None:
        stds[model.wpe.weight] = GPT2_STD
    for block in model.blocks:
        assert isinstance(block, Block)
        mlp = block.mlp
        matched = config.init == "matched"
        attention = block.attn
        reading = attention.w_v if isinstance(attention, CausalMean) else attention.w_qkv
        stds[reading.weight] = GPT2_STD
        stds[block.attn.w_out.weight] = residual_std
        stds[mlp.w_in.weight] = incoming_std(config)
        stds[mlp.w_out.weight] = residual_std * (init_gain(mlp.act.spec, mlp.d_ff) if matched else 1.0)
    return stds
