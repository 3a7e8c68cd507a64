"""Other programs, built with our shapes: nanoGPT, Hugging Face's GPT-2, x-transformers.

As shipped means what their own training script does on such a device, without asking for more. At its best means
bfloat16, AdamW's fused kernel and the allocator's habits that ours has; on a GPU compiled too.

NOTE: a nanoGPT's `model.py` is executed here, in a process that does nothing else. Hugging Face's GPT-2 and
x-transformers always have the biases that they have, whatever `--bias` says.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from minigpt.benchmarks.bench_options import NANOGPT, Peer
from minigpt.benchmarks.programs import OtherModel
from minigpt.training.config import RunConfig


@dataclass(frozen=True)
class Setting:
    """How a peer runs."""

    dtype: str
    compiled: bool
    fused: bool

    def __str__(self) -> str:
        words = [self.dtype, "compiled" if self.compiled else "eager", *(["fused AdamW"] if self.fused else [])]
        return ", ".join(words)


def setting(peer: Peer, device: str, best: bool) -> Setting:
    """How a peer runs on a device, as shipped or at its best."""
    on_gpu = torch.device(device).type == "cuda"
    if best:
        return Setting("bfloat16", compiled=on_gpu, fused=True)
    asks_for_more = on_gpu and peer.name == NANOGPT
    return Setting("bfloat16" if asks_for_more else "float32", compiled=asks_for_more, fused=asks_for_more)


def build(peer: Peer, config: RunConfig, vocab_size: int, how: Setting) -> OtherModel:
    """Build a peer's model and optimizer on the configured device."""
    builders = {NANOGPT: _nanogpt, "hf": _hugging_face, "x-transformers": _x_transformers}
    return builders[peer.name](peer, config, vocab_size, how)


def _nanogpt(peer: Peer, config: RunConfig, vocab_size: int, how: Setting) -> OtherModel:
    sys.path.insert(0, peer.path)
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    shape = {name: getattr(config, name) for name in ("block_size", "n_layer", "n_head", "n_embd", "dropout", "bias")}
    model = GPT(GPTConfig(vocab_size=vocab_size, **shape)).to(config.device)
    betas, device_type = (config.beta1, config.beta2), torch.device(config.device).type
    optimizer: Optimizer = model.configure_optimizers(config.weight_decay, config.lr, betas, device_type)
    if how.fused:
        optimizer = _adamw(optimizer.param_groups, config, how)
    forward = _compiled(model, how)
    return OtherModel(
        module=model,
        loss=lambda inputs, targets: forward(inputs, targets)[1],
        generate=lambda prompt, tokens: model.generate(prompt, tokens),
        optimizer=optimizer,
    )


def _hugging_face(peer: Peer, config: RunConfig, vocab_size: int, how: Setting) -> OtherModel:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = GPT2Config(
        vocab_size=vocab_size,
        n_positions=config.block_size,
        n_embd=config.n_embd,
        n_layer=config.n_layer,
        n_head=config.n_head,
        activation_function="gelu",
        resid_pdrop=config.dropout,
        embd_pdrop=config.dropout,
        attn_pdrop=config.dropout,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = GPT2LMHeadModel(shape).to(config.device)
    forward = _compiled(model, how)

    def loss(inputs: Tensor, targets: Tensor) -> Tensor:
        return _cross_entropy(forward(inputs, use_cache=False).logits, targets)

    def generate(prompt: Tensor, tokens: int) -> object:
        mask = torch.ones_like(prompt)
        return model.generate(prompt, attention_mask=mask, do_sample=True, max_new_tokens=tokens, min_new_tokens=tokens)

    return OtherModel(model, loss, generate, _adamw(_decay_groups(model, config), config, how))


def _x_transformers(peer: Peer, config: RunConfig, vocab_size: int, how: Setting) -> OtherModel:
    from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

    layers = Decoder(
        dim=config.n_embd,
        depth=config.n_layer,
        heads=config.n_head,
        attn_dim_head=config.n_embd // config.n_head,
        attn_dropout=config.dropout,
        ff_dropout=config.dropout,
    )
    model = TransformerWrapper(
        num_tokens=vocab_size,
        max_seq_len=config.block_size,
        attn_layers=layers,
        emb_dropout=config.dropout,
        tie_embedding=config.tie_embeddings,
    ).to(config.device)
    forward, wrapper = _compiled(model, how), AutoregressiveWrapper(model)
    return OtherModel(
        module=model,
        loss=lambda inputs, targets: _cross_entropy(forward(inputs), targets),
        generate=lambda prompt, tokens: wrapper.generate(prompt, tokens, cache_kv=True),
        optimizer=_adamw(_decay_groups(model, config), config, how),
    )


def _compiled(model: Any, how: Setting) -> Any:
    return torch.compile(model, dynamic=False) if how.compiled else model


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _decay_groups(model: torch.nn.Module, config: RunConfig) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def _adamw(groups: list[dict[str, Any]], config: RunConfig, how: Setting) -> Optimizer:
    """AdamW with our settings; torch's default kernel unless the fused one is asked for."""
    chosen = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in groups]
    return AdamW(chosen, lr=config.lr, betas=(config.beta1, config.beta2), fused=how.fused or None)
