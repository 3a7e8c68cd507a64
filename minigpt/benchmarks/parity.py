"""Whether speed changes what is learned: the fast path beside float32 without compiling, from the same seed.

Both see the same windows in the same order, so what differs is rounding. Losses of other programs are not compared:
they begin with other weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from minigpt.benchmarks.bench_options import BenchOptions
from minigpt.benchmarks.paired_blocks import Track
from minigpt.benchmarks.programs import Text, build_model, trainer
from minigpt.text.preparation import prepare_text
from minigpt.training.config import RunConfig
from minigpt.training.evaluation import evaluate

EXPECTED = 0.02  # nats
_EVALUATED_TOKENS = 65_536
_PIECE = 10  # steps between two marks of progress


def measure_parity(config: RunConfig, options: BenchOptions, track: Track) -> dict[str, Any]:
    """Train both ways for the same steps and return their losses on validation text, in nats per token."""
    reference = replace(config, dtype="float32", compile="off", attention="fused")
    steps = options.parity_steps
    fast, slow = (_loss_after(each, steps, track) for each in (config, reference))
    return {
        "preset": config.preset,
        "steps": steps,
        "loss": fast,
        "reference_loss": slow,
        "difference": fast - slow,
        "expected_within": EXPECTED,
        "path": f"{config.dtype}, {config.attention} attention, {'compiled' if config.compile == 'on' else 'eager'}",
    }


def _loss_after(config: RunConfig, steps: int, track: Track) -> float:
    store = prepare_text(config)
    text = Text(store.tokens("train"), store.tokenizer.vocab_size, config.corpus)
    model = build_model(config, text.vocab_size)
    train = trainer(config, text, model)
    for begin in track(range(0, steps, _PIECE), f"parity {config.preset}, {config.dtype}"):
        train(min(_PIECE, steps - begin))
    lengths = store.tokenizer.byte_lengths()
    found = evaluate(model, store.tokens("val"), lengths, split="val", dtype=config.dtype, limit=_EVALUATED_TOKENS)
    return found.loss
