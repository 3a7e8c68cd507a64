"""What is measured: a training step and a continuation, of minigpt's own model or of another program's.

All programs train on the same windows of the same text with the same settings of AdamW. How long that takes, others
measure; how other programs are built, `peers.py` knows.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minigpt.base import randomness
from minigpt.model import GPT
from minigpt.sampling.decoding import Decoder
from minigpt.sampling.generate import generate
from minigpt.sampling.token_choice import TokenChoice
from minigpt.text.batches import gather, near, window_starts
from minigpt.text.preparation import prepare_text
from minigpt.training.config import RunConfig
from minigpt.training.inference import decoding_threads, resolve_decoding
from minigpt.training.optimizers import build_optimizer
from minigpt.training.run import model_config
from minigpt.training.runtime import autocast, forward_of
from minigpt.training.schedules import learning_rate
from minigpt.training.step import Trainee, take_step

# Where a preset's text would have to be downloaded, random ids take its place: they cost what text costs.
LOCAL_TOKENIZERS = ("char", "byte")
RANDOM_VOCABULARY = 50_304
_RANDOM_IDS = 1 << 20
CHOICE = TokenChoice()


@dataclass(frozen=True)
class Text:
    """Ids to train on (N,), of `vocab_size` kinds."""

    ids: np.ndarray
    vocab_size: int
    source: str


@dataclass(frozen=True)
class Program:
    """`train(steps)` returns the last loss; `decode(samples, tokens)` continues one token in `samples` samples.

    `decode` returns the seconds until the first of these tokens came, or None if only all of them come together.
    `decoding(tokens)` says in which precision that number is decoded, and whether compiled.
    """

    train: Callable[[int], float]
    decode: Callable[[int, int], float | None]
    decoding: Callable[[int], tuple[str, bool]]


@dataclass(frozen=True)
class OtherModel:
    """Another program's model: its loss on inputs and targets (B,T), and its continuation of a prompt (B,1)."""

    module: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    generate: Callable[[Tensor, int], object]
    optimizer: Optimizer


def read_text(config: RunConfig) -> Text:
    """The training part of the configured corpus, or random ids where a tokenizer asks for a download."""
    if config.tokenizer not in LOCAL_TOKENIZERS:
        random = randomness.generator(config.seed, "benchmark")
        ids = torch.randint(RANDOM_VOCABULARY, (_RANDOM_IDS,), generator=random).numpy()
        return Text(ids, RANDOM_VOCABULARY, "random ids")
    store = prepare_text(config)
    return Text(store.tokens("train"), store.tokenizer.vocab_size, f"{config.corpus}, {config.tokenizer}")


def build_model(config: RunConfig, vocab_size: int) -> GPT:
    """Our model as `train` builds it."""
    return GPT(model_config(config, vocab_size), config.seed).to(config.device)


def trainer(config: RunConfig, text: Text, model: GPT) -> Callable[[int], float]:
    """A function that takes N further training steps, as `train` takes them, and returns the last loss."""
    optimizer, ids = build_optimizer(model, config), near(text.ids, model.device)
    trainee = Trainee(model, forward_of(model, config.compile), optimizer, ids, config)
    counter = itertools.count()

    def train(steps: int) -> float:
        loss = 0.0
        for step in itertools.islice(counter, steps):
            loss = take_step(trainee, step).loss
        return loss

    return train


def own_program(config: RunConfig, text: Text, dtype: str, compile_: str) -> Program:
    """minigpt, with what `train` and `sample` use; `dtype` and `compile_` as `sample` takes them."""
    model = build_model(config, text.vocab_size)
    prompt = torch.zeros(1, dtype=torch.int64)
    decoders: dict[int, Decoder] = {}
    threads = torch.get_num_threads()

    def decode(samples: int, tokens: int) -> float:
        begun = time.perf_counter()
        torch.set_num_threads(config.threads or decoding_threads(model, samples) or threads)
        if samples not in decoders:
            how = resolve_decoding(model, dtype, compile_, tokens)
            decoders[samples] = Decoder(model, samples, CHOICE, *how)
        chosen = generate(
            model,
            prompt,
            CHOICE,
            max_new_tokens=tokens,
            num_samples=samples,
            seed=config.seed,
            decoder=decoders[samples],
        )
        next(chosen).tolist()
        first = time.perf_counter() - begun
        for token in chosen:
            token.tolist()  # as `sample` reads each when it comes
        torch.set_num_threads(threads)
        return first

    def decoding(tokens: int) -> tuple[str, bool]:
        weights, fast = resolve_decoding(model, dtype, compile_, tokens)
        return str(weights).removeprefix("torch."), fast

    return Program(trainer(config, text, model), decode, decoding)


def other_program(config: RunConfig, text: Text, other: OtherModel, dtype: str) -> Program:
    """Another program's model in the plain loop that all of them use: loss, gradient, clipping, update."""
    device = torch.device(config.device)
    counter = itertools.count()

    def take(step: int) -> float:
        windows = config.batch_size * config.grad_accumulation
        starts = window_starts(config.seed, step, windows, len(text.ids), config.block_size)
        for micro_starts in torch.split(starts, config.batch_size):
            windows_of_ids = gather(text.ids, micro_starts, config.block_size)
            inputs, targets = (part.contiguous().to(device) for part in windows_of_ids)  # (B,T), as nanoGPT needs them
            with autocast(device, dtype):
                loss = other.loss(inputs, targets) / config.grad_accumulation
            loss.backward()  # type: ignore[no-untyped-call]
        if config.grad_clip:
            nn.utils.clip_grad_norm_(other.module.parameters(), config.grad_clip)
        for group in other.optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        other.optimizer.step()
        other.optimizer.zero_grad(set_to_none=True)
        return loss.item() * config.grad_accumulation

    def train(steps: int) -> float:
        other.module.train()
        return [take(step) for step in itertools.islice(counter, steps)][-1]

    @torch.no_grad()
    def decode(samples: int, tokens: int) -> None:
        other.module.eval()
        with autocast(device, dtype):
            other.generate(torch.zeros((samples, 1), dtype=torch.int64, device=device), tokens)

    return Program(train, decode, lambda tokens: (dtype, False))
