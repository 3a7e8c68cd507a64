"""Decoding: the step of one token is the model's own function, whatever the model is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from minigpt.activations import list_activations
from minigpt.model import GPT, GPTConfig
from minigpt.parts.kv_cache import KVCache
from minigpt.sampling import decoding
from minigpt.sampling.decoding import Decoder, TokenStep
from minigpt.sampling.generate import generate
from minigpt.sampling.token_choice import TokenChoice

VOCAB = 23
CONTEXT = 8


def lively_model(**changes: object) -> GPT:
    """A model whose biases, norms and slopes are not at their initial values."""
    sizes: dict[str, object] = {"vocab_size": VOCAB, "block_size": CONTEXT, "n_layer": 2, "n_head": 2, "n_embd": 16}
    model = GPT(GPTConfig(**(sizes | changes)), seed=0)  # type: ignore[arg-type]
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=random))
    return model.eval()


def some_ids(batch: int = 3) -> Tensor:
    return torch.randint(VOCAB, (batch, CONTEXT), generator=torch.Generator().manual_seed(1))


def logits_of(model: GPT, batch: int, **options: Any) -> Decoder:
    """A decoder that gives logits instead of a token chosen from them."""
    return Decoder(model, batch, lambda logits, uniforms: logits, **options)


def decoded(decoder: Decoder, ids: Tensor, read: int) -> Tensor:
    """Logits (B,T−read+1,V) after `read` tokens at once and each further one alone."""
    unused = torch.zeros((ids.size(0), 1), dtype=torch.float64)
    first = decoder.read(ids[:, :read], unused)
    return torch.stack([first, *(decoder.advance(ids[:, place], unused) for place in range(read, ids.size(1)))], dim=1)


@torch.no_grad()
def stepped(step: torch.nn.Module, model: GPT, ids: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Logits (B,T,V) of a step given every token alone, without any prefix."""
    cache = KVCache(model.config, ids.size(0), ids.device, dtype)
    keys, values = list(cache.keys), list(cache.values)
    logits = [step(ids[:, place], torch.tensor([place]), keys, values) for place in range(ids.size(1))]
    return torch.stack(logits, dim=1)


@torch.no_grad()
def whole(model: GPT, ids: Tensor) -> Tensor:
    return model(ids)  # type: ignore[no-any-return]


MODELS: dict[str, dict[str, object]] = {
    "rope": {"position": "rope"},
    "rmsnorm": {"norm": "rmsnorm"},
    "no norm": {"norm": "none"},
    "no bias": {"bias": False},
    "no residual": {"residual": False},
    "untied": {"tie_embeddings": False},
    "averages": {"attention": "mean"},
    "batchnorm": {"norm": "batchnorm"},
    "by layer": {"activation": "0=softmax,1=swiglu", "d_ff": "0=24,1=40"},
    "dropout": {"dropout": 0.5},
}


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "written"])
@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS.keys())
def test_a_step_is_the_model(changes: dict[str, object], fused: bool):
    """Norms, positions, residual paths, ties, layers that differ: token by token gives the logits of all at once."""
    model, ids = lively_model(**changes), some_ids()
    step = TokenStep(model, torch.float32, fused_attention=fused)
    torch.testing.assert_close(stepped(step, model, ids), whole(model, ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [entry.name for entry in list_activations()])
def test_every_activation_can_be_decoded(name: str):
    """The step calls the model's own modules, so a new activation needs nothing here."""
    model, ids = lively_model(activation=name), some_ids()
    torch.testing.assert_close(decoded(logits_of(model, 3), ids, 2), whole(model, ids)[:, 1:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("read", [1, 5, CONTEXT])
def test_reading_again_forgets_what_was_read(read: int):
    """What an earlier text left in the cache must not be seen."""
    model, ids = lively_model(), some_ids()
    decoder = logits_of(model, 3)
    decoded(decoder, ids.flip(0, 1), 3)
    torch.testing.assert_close(decoded(decoder, ids, read), whole(model, ids)[:, read - 1 :], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_building_one_leaves_a_training_model_in_training(dtype: torch.dtype):
    """Else dropout would be off from then on."""
    model = lively_model(dropout=0.5).train()
    Decoder(model, 1, TokenChoice(), dtype)
    assert all(module.training for module in model.modules())


def test_samples_of_a_batch_do_not_see_each_other():
    """Each row alone gives the logits that it has among others."""
    model, ids = lively_model(), some_ids(4)
    together = decoded(logits_of(model, 4), ids, 2)
    for row in range(4):
        alone = decoded(logits_of(model, 1), ids[row : row + 1], 2)
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "written"])
@pytest.mark.parametrize("position", ["learned", "rope"])
def test_bfloat16_rounds_and_leaves_the_model_alone(position: str, fused: bool):
    """Eight bits of mantissa: the error is some thousandths of the logits' size, and not zero."""
    model, ids = lively_model(position=position), some_ids()
    expected = whole(model, ids)
    step = TokenStep(model, torch.bfloat16, fused_attention=fused)
    error = (stepped(step, model, ids, torch.bfloat16) - expected).abs().max() / expected.abs().max()
    assert 1e-5 < error < 0.03
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert torch.equal(whole(model, ids), expected)


def learn_to_count(model: GPT) -> None:
    """Train until the next token is the last one plus one, which leaves no two tokens close."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    window = (torch.arange(CONTEXT + 1) + torch.arange(VOCAB)[:, None]) % VOCAB
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten()).backward()
        optimizer.step()


def test_a_trained_model_says_the_same_in_bfloat16_far_past_the_context():
    """A model that counts goes on counting in either dtype, through many windows."""
    model = lively_model()
    learn_to_count(model)
    for dtype in (torch.float32, torch.bfloat16):
        tokens = generate(model, torch.tensor([4, 5]), TokenChoice(0.0), max_new_tokens=50, num_samples=2, dtype=dtype)
        expected = (torch.arange(6, 56) % VOCAB).expand(2, -1)
        assert torch.equal(torch.stack(list(tokens), dim=1), expected)


def test_a_step_is_one_graph_for_all_positions():
    """What is compiled has no branch on the position and writes into the cache that it is given."""
    model, ids = lively_model(activation="swiglu", position="rope"), some_ids()
    step = TokenStep(model, torch.float32, fused_attention=False).eval()
    cache = KVCache(model.config, 3, ids.device, torch.float32)
    with torch.no_grad():
        example = (ids[:, 0], torch.tensor([0]), list(cache.keys), list(cache.values))
        graph = torch.export.export(step, example).module()
    torch.testing.assert_close(stepped(graph, model, ids), whole(model, ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prompt", [[4], [4, 5, 6]], ids=len)
def test_a_compiled_step_gets_dense_tensors_only(prompt: list[int], monkeypatch: pytest.MonkeyPatch):
    """It does not look at strides: given one token expanded to two samples it read what lay behind it."""
    plain = decoding._plain
    steps = []

    def strict(*arguments: Any) -> decoding.Step:
        step = plain(*arguments)

        def checked(*tensors: Tensor) -> Tensor:
            steps.append(all(tensor.is_contiguous() for tensor in tensors))
            return step(*tensors)

        return checked

    monkeypatch.setattr(decoding, "_compile", strict)
    prompt_ids = torch.tensor(prompt)
    list(generate(lively_model(), prompt_ids, TokenChoice(), max_new_tokens=20, num_samples=2, compiled=True))
    assert len(steps) > 10
    assert all(steps)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_compiled_step_is_the_model(dtype: torch.dtype):
    """Compiling takes too long for every run of the tests."""
    model, ids = lively_model(activation="swiglu"), some_ids(2)
    decoder = logits_of(model, 2, dtype=dtype, compiled=True)
    tolerance = 1e-5 if dtype == torch.float32 else 0.03 * whole(model, ids).abs().max().item()
    torch.testing.assert_close(decoded(decoder, ids, 3), whole(model, ids)[:, 2:], atol=tolerance, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.0}, {"top_k": 5, "top_p": 0.9}], ids=str)
def test_a_compiled_step_chooses_the_same_text(settings: dict[str, Any]):
    """The choice is compiled with the step, and reads the same random numbers."""
    model = lively_model()

    def text(compiled: bool) -> list[list[int]]:
        wanted = {"max_new_tokens": 50, "num_samples": 2, "compiled": compiled}
        tokens = generate(model, torch.tensor([4]), TokenChoice(**settings), **wanted)
        return [token.tolist() for token in tokens]

    assert text(compiled=True) == text(compiled=False)
