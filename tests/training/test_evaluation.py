"""Evaluation: every token once, exactly the loss of an offline computation, and nothing else changed."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from minigpt.base import storage
from minigpt.base.errors import StopRequestedError
from minigpt.model import GPT, GPTConfig
from minigpt.training import evaluation
from minigpt.training.evaluation import Evaluation, evaluate

BLOCK = 16
VOCAB = 29


@pytest.fixture
def model() -> GPT:
    model = GPT(GPTConfig(vocab_size=VOCAB, block_size=BLOCK, n_layer=2, n_head=2, n_embd=16, dropout=0.5), seed=0)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=random))
    return model


def text(tokens: int) -> np.ndarray:
    ids: np.ndarray = np.random.default_rng(tokens).integers(VOCAB, size=tokens).astype(np.uint16)
    return ids


def measure(model: GPT, ids: np.ndarray, limit: int = 0, byte_lengths: np.ndarray | None = None) -> Evaluation:
    lengths = np.ones(VOCAB, dtype=np.int64) if byte_lengths is None else byte_lengths
    return evaluate(model, ids, lengths, split="val", dtype="float32", limit=limit)


def offline_losses(model: GPT, ids: np.ndarray) -> torch.Tensor:
    """float64 losses of all tokens but the first, window after window."""
    exact = GPT(replace(model.config, dropout=0.0), 0).double()
    exact.load_state_dict(model.state_dict())
    tokens = torch.from_numpy(ids.astype(np.int64))
    losses = []
    for first in range(0, len(ids) - 1, BLOCK):
        window = tokens[first : first + BLOCK + 1]
        losses.append(F.cross_entropy(exact(window[None, :-1])[0], window[1:], reduction="none"))
    return torch.cat(losses).detach()


@pytest.mark.parametrize("tokens", [2, BLOCK, BLOCK + 1, BLOCK + 2, 10 * BLOCK + 1, 5000])
def test_loss_equals_an_offline_computation(model: GPT, tokens: int):
    """Every token is predicted once, those of the short last window too, and each weighs the same."""
    ids = text(tokens)
    offline = offline_losses(model, ids)
    measured = measure(model, ids)
    assert offline.numel() == measured.tokens == tokens - 1
    assert measured.loss == pytest.approx(offline.mean().item(), rel=1e-6)
    assert measured.perplexity == pytest.approx(math.exp(offline.mean().item()), rel=1e-5)
    assert measured.statistics[0].tokens == tokens - 1


def test_a_limit_measures_whole_windows_spread_over_the_text(model: GPT):
    """Ten of a hundred windows: each tenth, and the loss of just those."""
    ids = text(100 * BLOCK + 1)
    offline = offline_losses(model, ids).view(100, BLOCK)
    measured = measure(model, ids, limit=9 * BLOCK + 1)
    assert measured.tokens == 10 * BLOCK
    assert measured.loss == pytest.approx(offline[::10].mean().item(), rel=1e-6)
    assert measure(model, ids, limit=10**9).tokens == 100 * BLOCK


def test_bits_per_byte_weighs_tokens_by_their_bytes(model: GPT):
    """Nats of all tokens, in bits, over the bytes of the predicted tokens."""
    ids = text(500)
    lengths = np.arange(VOCAB) % 4
    expected = offline_losses(model, ids).sum().item() / math.log(2) / lengths[ids[1:]].sum()
    assert measure(model, ids, byte_lengths=lengths).bits_per_byte == pytest.approx(expected, rel=1e-6)
    assert math.isnan(measure(model, ids, byte_lengths=np.zeros(VOCAB, dtype=np.int64)).bits_per_byte)


def test_result_does_not_depend_on_the_batch_size(model: GPT, monkeypatch: pytest.MonkeyPatch):
    """The batch size is a matter of speed: equal loss to 1e-6, equal counts of life and death."""
    ids = text(3000)
    results = []
    for budget in (BLOCK, 7 * BLOCK, 10**6):
        monkeypatch.setattr(evaluation, "CPU_BATCH_TOKENS", budget)
        results.append(measure(model, ids))
    for result in results[1:]:
        assert result.loss == pytest.approx(results[0].loss, rel=1e-6)
        assert [layer.dead_fraction for layer in result.layers] == [layer.dead_fraction for layer in results[0].layers]


@pytest.mark.parametrize("training", [True, False])
def test_changes_neither_mode_nor_weights_nor_random_state(model: GPT, training: bool):
    """Evaluating more often must not change what is learned, and dropout must not act in it."""
    model.train(training)
    state = torch.get_rng_state()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = measure(model, text(500)), measure(model, text(500))
    assert first.loss == second.loss
    assert all(module.training is training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_interrupted_evaluation_leaves_the_model_as_it_was(model: GPT):
    """Ctrl-C between two batches: training mode is back, hooks are gone."""

    def stop() -> None:
        raise StopRequestedError(2)

    with pytest.raises(StopRequestedError):
        evaluate(model, text(500), np.ones(VOCAB), split="val", dtype="float32", between_batches=stop)
    assert model.training
    assert all(not module._forward_hooks for module in model.modules())


def test_bfloat16_is_close(model: GPT):
    """Autocast costs digits, not the meaning."""
    ids = text(2000)
    rough = evaluate(model, ids, np.ones(VOCAB), split="val", dtype="bfloat16")
    assert rough.loss == pytest.approx(measure(model, ids).loss, rel=0.02)


@pytest.mark.parametrize(
    ("loss", "perplexity"), [(0.0, 1.0), (700.0, math.exp(700)), (709.5, math.inf), (1000.0, math.inf)]
)
def test_perplexity_overflows_to_infinity(loss: float, perplexity: float):
    """A diverged loss is a figure too: infinite here, null in strict JSON, never an OverflowError."""
    layers = measure(
        GPT(GPTConfig(vocab_size=VOCAB, block_size=BLOCK, n_layer=1, n_head=2, n_embd=16), 0), text(50)
    ).layers
    result = Evaluation("val", loss, loss / math.log(2), 100, layers, [])
    assert result.perplexity == perplexity
    record = json.loads(storage.to_json(result.record(7)))
    assert record["perplexity"] == (perplexity if perplexity < math.inf else None)
    assert (record["kind"], record["step"], record["split"], record["loss"]) == ("eval", 7, "val", loss)


def test_the_record_holds_what_reports_read(model: GPT):
    """The keys of an `eval` record, and the model's share of dead neurons beside each layer's."""
    result = measure(model, text(500))
    record = result.record(step=3)
    expected = "kind step split loss perplexity bits_per_byte tokens dead_fraction layers"
    assert set(record) >= set(expected.split())
    assert [layer["layer"] for layer in record["layers"]] == [0, 1]
    assert record["dead_fraction"] == pytest.approx(np.mean([layer["dead_fraction"] for layer in record["layers"]]))
