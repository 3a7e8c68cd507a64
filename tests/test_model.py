"""The model: parity with HF's GPT-2 and Llama, causality, sizes, and the cache of keys and values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import lively_model, random_ids, small_config
from torch import Tensor
from torch.nn import functional as F

from minigpt.activations import list_activations
from minigpt.base.errors import UsageError
from minigpt.model import GPT, RMSNORM_EPS, GPTConfig
from minigpt.parts.architecture import ATTENTIONS, INITS, NORMS, POSITIONS
from minigpt.parts.kv_cache import KVCache

NAMES = [entry.name for entry in list_activations()]


# Parity with HF


def hf_gpt2_logits(model: GPT, hf_activation: str, ids: Tensor) -> Tensor:
    """Logits of HF's GPT-2 with our weights; its Conv1D keeps a matrix the other way round."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = model.config
    hf = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.block_size,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            activation_function=hf_activation,
            attn_implementation="eager",
        )
    ).eval()
    names = {
        "attn.w_qkv": "attn.c_attn",
        "attn.w_out": "attn.c_proj",
        "mlp.w_in": "mlp.c_fc",
        "mlp.w_out": "mlp.c_proj",
    }
    theirs = {"transformer.wte.weight": model.wte.weight, "transformer.wpe.weight": model.wpe.weight}
    for ours, value in model.ln_f.named_parameters():
        theirs[f"transformer.ln_f.{ours}"] = value
    for layer, block in enumerate(model.blocks):
        for ours, value in block.named_parameters():
            module, _, kind = ours.rpartition(".")
            matrix = module in names and kind == "weight"
            theirs[f"transformer.h.{layer}.{names.get(module, module)}.{kind}"] = value.T if matrix else value
    theirs["lm_head.weight"] = model.lm_head.weight
    hf.load_state_dict(theirs)
    return hf(ids).logits


def hf_llama_logits(model: GPT, hf_activation: str, ids: Tensor) -> Tensor:
    """Logits of HF's Llama with our weights; it keeps q, k, v and the two branches of the MLP apart."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = model.config
    hf = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.n_embd,
            intermediate_size=model.blocks[0].mlp.d_ff,
            num_hidden_layers=config.n_layer,
            num_attention_heads=config.n_head,
            max_position_embeddings=config.block_size,
            hidden_act=hf_activation,
            rms_norm_eps=RMSNORM_EPS,
            tie_word_embeddings=False,
            attn_implementation="eager",
        )
    ).eval()
    theirs = {
        "model.embed_tokens.weight": model.wte.weight,
        "model.norm.weight": model.ln_f.weight,
        "lm_head.weight": model.lm_head.weight,
    }
    for layer, block in enumerate(model.blocks):
        q, k, v = block.attn.w_qkv.weight.chunk(3)
        gate, up = block.mlp.w_in.weight.chunk(2)
        for name, value in {
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": block.attn.w_out.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block.mlp.w_out.weight,
            "input_layernorm": block.ln_1.weight,
            "post_attention_layernorm": block.ln_2.weight,
        }.items():
            theirs[f"model.layers.{layer}.{name}.weight"] = value
    hf.load_state_dict(theirs)
    return hf(ids).logits


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(
    ("ours", "theirs"), [("relu", "relu"), ("gelu", "gelu"), ("gelu_tanh", "gelu_new"), ("silu", "silu")]
)
def test_computes_what_hf_gpt2_computes(ours: str, theirs: str, attention: str):
    """The default architecture is GPT-2's, to the last layer norm."""
    model = lively_model(small_config(activation=ours, attention=attention))
    ids = random_ids(model.config)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), hf_gpt2_logits(model, theirs, ids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(("ours", "theirs"), [("swiglu", "silu"), ("reglu", "relu"), ("geglu", "gelu")])
def test_computes_what_hf_llama_computes(ours: str, theirs: str, attention: str):
    """RMSNorm, rotary positions and gated MLPs, biases off, are Llama's: the gate is the first half of w_in."""
    config = small_config(
        activation=ours, attention=attention, norm="rmsnorm", position="rope", bias=False, tie_embeddings=False
    )
    model = lively_model(config)
    ids = random_ids(config)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), hf_llama_logits(model, theirs, ids), rtol=1e-5, atol=1e-5)


# What attention may see


@given(
    norm=st.sampled_from(NORMS),
    position=st.sampled_from(POSITIONS),
    attention=st.sampled_from(ATTENTIONS),
    activation=st.sampled_from(["relu", "gelu", "softmax", "identity", "swiglu", "0=tanh,1=reglu"]),
    residual=st.booleans(),
    bias=st.booleans(),
    place=st.integers(0, 11),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_a_token_changes_nothing_before_it(norm, position, attention, activation, residual, bias, place, seed):
    """A leak of future tokens makes every loss too good; not one bit before the changed token may move."""
    config = small_config(
        norm=norm, position=position, attention=attention, activation=activation, residual=residual, bias=bias
    )
    model = lively_model(config, seed)
    ids = random_ids(config, batch=1, seed=seed)
    changed = ids.clone()
    changed[0, place] = (changed[0, place] + 1) % config.vocab_size
    with torch.no_grad():
        before, after = model(ids), model(changed)
    assert torch.equal(before[:, :place], after[:, :place])
    assert not torch.equal(before[:, place], after[:, place])


@pytest.mark.parametrize("position", POSITIONS)
def test_both_forms_of_attention_are_one_function(position: str):
    """The written form exists for speed alone: same logits, same gradients."""
    results = []
    for attention in ATTENTIONS:
        model = lively_model(small_config(position=position, attention=attention))
        logits = model(random_ids(model.config))
        F.cross_entropy(logits.flatten(0, 1), random_ids(model.config, seed=1).flatten()).backward()
        results.append((logits.detach(), {name: value.grad for name, value in model.named_parameters()}))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def test_both_forms_of_attention_agree_in_bfloat16():
    """Under autocast they round differently, and no more than bfloat16's eight bits allow."""
    logits = []
    for attention in ATTENTIONS:
        model = GPT(small_config(attention=attention), seed=3)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            logits.append(model(random_ids(model.config)).float())
    assert (logits[0] - logits[1]).abs().max() < 0.05 * logits[0].abs().max()


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("cuts", [(1, 1, 10), (5, 3, 4), (11, 1)])
def test_cached_logits_equal_uncached_ones(position: str, attention: str, cuts: tuple[int, ...]):
    """Reading a text in pieces through the cache gives what reading it at once gives."""
    model = lively_model(small_config(position=position, attention=attention))
    ids = random_ids(model.config)
    cache = KVCache(model.config, batch=3, device=torch.device("cpu"), dtype=torch.float32)
    with torch.no_grad():
        pieces = [model(piece, cache) for piece in ids.split(cuts, dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids), rtol=1e-5, atol=1e-5)
        with pytest.raises(UsageError, match=r"13 tokens do not fit; .* is 12"):
            model(ids[:, :1], cache)


def test_refuses_more_tokens_than_the_context():
    """An index error from deep inside would not say what the context is."""
    model = GPT(small_config(), seed=0)
    with pytest.raises(UsageError, match=r"13 tokens do not fit; .* is 12"):
        model(torch.zeros(1, 13, dtype=torch.int64))


@pytest.mark.parametrize(
    "bad",
    [
        {"n_head": 3},
        {"position": "rope", "n_embd": 6},
        {"norm": "batch"},
        {"position": "x"},
        {"init": "he"},
        {"attention": "x"},
    ],
    ids=str,
)
def test_refuses_impossible_architectures(bad: dict[str, object]):
    """A head width that does not divide, or a misspelt kind, is the user's to correct."""
    with pytest.raises(UsageError):
        small_config(**bad)


# Sizes


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"n_layer": 12, "n_head": 12, "n_embd": 768}, 124_439_808),
        ({"n_layer": 24, "n_head": 16, "n_embd": 1024}, 354_823_168),
        ({"n_layer": 36, "n_head": 20, "n_embd": 1280}, 774_030_080),
        ({"n_layer": 48, "n_head": 25, "n_embd": 1600}, 1_557_611_200),
    ],
    ids=["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"],
)
def test_parameter_count_is_gpt2s(sizes: dict[str, int], expected: int):
    """The four published GPT-2s, as HF counts them."""
    with torch.device("meta"):
        model = GPT(GPTConfig(vocab_size=50257, block_size=1024, activation="gelu", **sizes))
    assert model.parameter_count() == expected
    L, C = sizes["n_layer"], sizes["n_embd"]
    assert model.flops_per_token() == 6 * (12 * L * C * C + 50257 * C) + 12 * L * C * 1024


def test_tied_embeddings_are_one_matrix():
    """Tied: one tensor, counted once. Untied: two, drawn apart."""
    tied, untied = (GPT(small_config(tie_embeddings=tie), 0) for tie in (True, False))
    assert tied.lm_head.weight is tied.wte.weight
    assert not torch.equal(untied.lm_head.weight, untied.wte.weight)
    assert untied.parameter_count() - tied.parameter_count() == 31 * 16
    assert untied.flops_per_token() == tied.flops_per_token()


def test_each_layer_of_a_mix_has_its_own_activation_and_width():
    """A gated layer takes two branches and a third fewer neurons; d_ff, where given, holds for all."""
    config = small_config(n_layer=3, n_embd=24, activation="0-1=relu,2=swiglu")
    widths = [(block.mlp.act.spec, block.mlp.d_ff, block.mlp.w_in.out_features) for block in GPT(config).blocks]
    assert widths == [("relu", 96, 96), ("relu", 96, 96), ("swiglu", 64, 128)]
    forced = GPT(small_config(n_layer=2, activation="0=relu,1=swiglu", d_ff=10))
    assert [block.mlp.w_in.out_features for block in forced.blocks] == [10, 20]
    listed = GPT(small_config(n_layer=3, activation="0-1=relu,2=swiglu", d_ff="0=7,1=0,2=5"))
    assert [block.mlp.w_in.out_features for block in listed.blocks] == [7, 64, 10]
    modules = [block.mlp.act for block in GPT(small_config(n_layer=4)).blocks]
    assert len({id(module) for module in modules}) == 4


# Every activation


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("init", INITS)
def test_every_activation_trains_in_both_precisions(activation: str, init: str):
    """A new activation must give finite losses and gradients in float32 and under bfloat16 autocast."""
    model = GPT(small_config(activation=activation, init=init), seed=0)
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            logits = model(random_ids(model.config))
        loss = F.cross_entropy(logits.float().flatten(0, 1), random_ids(model.config, seed=1).flatten())
        loss.backward()
        assert math.isfinite(loss.item())
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.dtype == torch.float32, name


@pytest.mark.parametrize("activation", ["relu", "gelu", "swiglu", "relu2", "prelu", "sigmoid", "softmax", "step"])
def test_learns_one_batch_by_heart(activation: str):
    """The shortest proof that gradients reach the weights: even frozen features (step) must fit a few windows."""
    model = GPT(small_config(activation=activation, n_embd=32), seed=0)
    ids, targets = random_ids(model.config), random_ids(model.config, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(31), abs=0.1)
    assert losses[-1] < 0.3


def test_dropout_acts_in_training_only():
    """Evaluation must be exact whatever the dropout rate; training must not be."""
    model = GPT(small_config(dropout=0.5), seed=0)
    ids = random_ids(model.config)
    with torch.no_grad():
        assert not torch.equal(model(ids), model(ids))
        model.eval()
        assert torch.equal(model(ids), model(ids))
        plain = GPT(small_config(), seed=0)
        assert torch.equal(model(ids), plain(ids))
