"""Which class of Hugging Face transformers computes what a GPT of ours does, and which tensor is which.

Five classes cover the mainstream; which one follows from the MLP (plain or gated), the norm and the positions. Every
rule works in both directions, so export and import cannot disagree. What no class expresses is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minigpt.base.errors import CheckpointError, UsageError
from minigpt.model import RMSNORM_EPS, ROPE_BASE, GPTConfig

LAYERNORM_EPS = 1e-5

# Our names of activations, and those of transformers; a gated one is named by its φ.
_PLAIN = {"relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "silu": "silu", "relu2": "relu2"}
_GATED = {"reglu": "relu", "geglu": "gelu", "geglu_tanh": "gelu_pytorch_tanh", "swiglu": "silu"}
_ALIASES = {"gelu_new": "gelu_pytorch_tanh", "gelu_fast": "gelu_pytorch_tanh", "swish": "silu", "relu_squared": "relu2"}


@dataclass(frozen=True)
class Rule:
    """One tensor of ours and those of theirs: its rows one after the other, or turned by a quarter.

    `{i}` is the block's number.
    """

    ours: str
    theirs: tuple[str, ...]
    turned: bool = False


@dataclass(frozen=True)
class HFClass:
    """A class of transformers, by what it computes."""

    model_type: str
    architecture: str
    gated: bool
    norm: str
    position: str
    biases: bool  # whether its linear layers can have some
    rules: tuple[Rule, ...]


_GPT2_RULES = (
    Rule("wte.weight", ("transformer.wte.weight",)),
    Rule("wpe.weight", ("transformer.wpe.weight",)),
    Rule("blocks.{i}.ln_1", ("transformer.h.{i}.ln_1",)),
    Rule("blocks.{i}.attn.w_qkv", ("transformer.h.{i}.attn.c_attn",), turned=True),
    Rule("blocks.{i}.attn.w_out", ("transformer.h.{i}.attn.c_proj",), turned=True),
    Rule("blocks.{i}.ln_2", ("transformer.h.{i}.ln_2",)),
    Rule("blocks.{i}.mlp.w_in", ("transformer.h.{i}.mlp.c_fc",), turned=True),
    Rule("blocks.{i}.mlp.w_out", ("transformer.h.{i}.mlp.c_proj",), turned=True),
    Rule("ln_f", ("transformer.ln_f",)),
    Rule("lm_head.weight", ("lm_head.weight",)),
)
# nanoGPT uses GPT-2's names with torch's own linear layers.
NANOGPT_RULES = tuple(Rule(rule.ours, rule.theirs) for rule in _GPT2_RULES)


def _llama_rules(w_in: tuple[str, ...], w_out: str) -> tuple[Rule, ...]:
    layer = "model.layers.{i}"
    return (
        Rule("wte.weight", ("model.embed_tokens.weight",)),
        Rule("blocks.{i}.ln_1", (f"{layer}.input_layernorm",)),
        Rule("blocks.{i}.attn.w_qkv", tuple(f"{layer}.self_attn.{name}_proj" for name in "qkv")),
        Rule("blocks.{i}.attn.w_out", (f"{layer}.self_attn.o_proj",)),
        Rule("blocks.{i}.ln_2", (f"{layer}.post_attention_layernorm",)),
        Rule("blocks.{i}.mlp.w_in", tuple(f"{layer}.mlp.{name}" for name in w_in)),
        Rule("blocks.{i}.mlp.w_out", (f"{layer}.mlp.{w_out}",)),
        Rule("ln_f", ("model.norm",)),
        Rule("lm_head.weight", ("lm_head.weight",)),
    )


_GATED_RULES = _llama_rules(("gate_proj", "up_proj"), "down_proj")
CLASSES = (
    HFClass("gpt2", "GPT2LMHeadModel", False, "layernorm", "learned", True, _GPT2_RULES),
    HFClass("arcee", "ArceeForCausalLM", False, "rmsnorm", "rope", True, _llama_rules(("up_proj",), "down_proj")),
    HFClass("starcoder2", "Starcoder2ForCausalLM", False, "layernorm", "rope", True, _llama_rules(("c_fc",), "c_proj")),
    HFClass("llama", "LlamaForCausalLM", True, "rmsnorm", "rope", True, _GATED_RULES),
    HFClass("stablelm", "StableLmForCausalLM", True, "layernorm", "rope", False, _GATED_RULES),
)


def class_for(config: GPTConfig) -> HFClass:
    """The class that computes what a GPT of this configuration does.

    Raises:
        UsageError: none does; the message says which part has no place there.
    """
    activations, widths = set(config.layer_activations), set(config.layer_widths)
    for obstacle, what in (
        (len(activations) > 1 or len(widths) > 1, "layers that differ in activation or width"),
        (not config.residual, "a model without residual paths"),
        (config.attention == "mean", "attention mean"),
    ):
        if obstacle:
            raise UsageError(f"no class of transformers has {what}; such a model cannot be exported")
    activation = config.layer_activations[0]
    if activation not in _PLAIN | _GATED:
        known = ", ".join([*_PLAIN, *_GATED])
        raise UsageError(f"no class of transformers is known to have the activation {activation}; exportable: {known}")
    gated = activation in _GATED
    for found in CLASSES:
        if (found.gated, found.norm, found.position) == (gated, config.norm, config.position):
            if config.bias and not found.biases:
                raise UsageError(f"{found.architecture} has no biases in its MLP; got bias on; train with --bias false")
            return found
    kind = "a gated" if gated else "a plain"
    raise UsageError(
        f"no class of transformers has {kind} MLP with norm {config.norm} and position {config.position}; "
        f"there are {', '.join(_described(known) for known in CLASSES)}"
    )


def _described(known: HFClass) -> str:
    return f"{'gated' if known.gated else 'plain'}/{known.norm}/{known.position}"


def hf_config(config: GPTConfig) -> dict[str, Any]:
    """The configuration of that class: what its `config.json` has to say."""
    found = class_for(config)
    phi = (_GATED if found.gated else _PLAIN)[config.layer_activations[0]]
    width = config.layer_widths[0]
    common: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if found.model_type == "gpt2":
        sizes: dict[str, Any] = {"n_positions": config.block_size, "n_embd": config.n_embd, "n_layer": config.n_layer}
        own: dict[str, Any] = {"n_head": config.n_head, "n_inner": width, "activation_function": phi}
        own["bias"] = config.bias  # for an import: GPT-2 itself always has biases
        rates = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "layer_norm_epsilon": LAYERNORM_EPS}
        return {**common, **sizes, **own, **rates}
    sizes = {
        "hidden_size": config.n_embd,
        "intermediate_size": width,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_head,
        "max_position_embeddings": config.block_size,
        "hidden_act": phi,
        "rope_theta": ROPE_BASE,
    }
    biases = {"attention_bias": config.bias, "mlp_bias": config.bias}
    particular: dict[str, dict[str, Any]] = {
        "arcee": {"rms_norm_eps": RMSNORM_EPS, **biases},
        "llama": {"rms_norm_eps": RMSNORM_EPS, **biases},
        "starcoder2": {"norm_epsilon": LAYERNORM_EPS, "use_bias": config.bias, "sliding_window": None},
        "stablelm": {"layer_norm_eps": LAYERNORM_EPS, "use_qkv_bias": False, "partial_rotary_factor": 1.0},
    }
    return {**common, **sizes, **particular[found.model_type]}


def to_theirs(weights: Mapping[str, Tensor], rules: tuple[Rule, ...], n_layer: int) -> dict[str, Tensor]:
    """Our tensors under their names; missing biases become zeros of theirs elsewhere."""
    made: dict[str, Tensor] = {}
    for ours, theirs, turned in pairs(rules, n_layer):
        if ours in weights:
            tensor = weights[ours].T if turned and weights[ours].ndim == 2 else weights[ours]
            parts = tensor.chunk(len(theirs)) if len(theirs) > 1 else (tensor,)
            made |= {name: part.contiguous() for name, part in zip(theirs, parts, strict=True)}
    return made


def to_ours(weights: Mapping[str, Tensor], rules: tuple[Rule, ...], n_layer: int) -> dict[str, Tensor]:
    """Their tensors under our names; those without a place are left out."""
    made: dict[str, Tensor] = {}
    for ours, theirs, turned in pairs(rules, n_layer):
        if all(name in weights for name in theirs):
            tensor = torch.cat([weights[name] for name in theirs])
            made[ours] = (tensor.T if turned and tensor.ndim == 2 else tensor).contiguous()
    return made


def pairs(rules: tuple[Rule, ...], n_layer: int) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """(our name, their names, turned) of every tensor; a rule without an ending is for weight and bias."""
    for rule in rules:
        endings = ("",) if rule.ours.endswith(".weight") else (".weight", ".bias")
        for number in range(n_layer) if "{i}" in rule.ours else (0,):
            for ending in endings:
                theirs = tuple(name.format(i=number) + ending for name in rule.theirs)
                yield rule.ours.format(i=number) + ending, theirs, rule.turned


def our_config(theirs: Mapping[str, Any]) -> GPTConfig:
    """The configuration of ours that computes what one of the five classes does.

    Raises:
        UsageError: it is another class, or has a part that ours lack, which is named.
        CheckpointError: a value is missing or of another type.
    """
    found = importable_class(theirs)
    gpt2 = found.model_type == "gpt2"
    _refuse_unlike(theirs, found)
    phi = theirs.get("activation_function" if gpt2 else "hidden_act")
    names = {value: name for name, value in (_GATED if found.gated else _PLAIN).items()}
    activation = names.get(_ALIASES.get(str(phi), str(phi)))
    if activation is None:
        raise UsageError(f"cannot import the activation {phi!r}; importable: {', '.join(names)}")
    n_embd = _size(theirs, "n_embd" if gpt2 else "hidden_size")
    width = "n_inner" if gpt2 else "intermediate_size"
    bias = theirs.get("bias", True) if gpt2 else theirs.get("attention_bias") or theirs.get("use_bias")
    tied = theirs.get("tie_word_embeddings")
    return GPTConfig(
        vocab_size=_size(theirs, "vocab_size"),
        block_size=_size(theirs, "n_positions" if gpt2 else "max_position_embeddings"),
        n_layer=_size(theirs, "n_layer" if gpt2 else "num_hidden_layers"),
        n_head=_size(theirs, "n_head" if gpt2 else "num_attention_heads"),
        n_embd=n_embd,
        d_ff=4 * n_embd if gpt2 and theirs.get(width) is None else _size(theirs, width),
        activation=activation,
        bias=bool(bias),
        norm=found.norm,
        position=found.position,
        tie_embeddings=found.model_type in ("gpt2", "starcoder2") if tied is None else bool(tied),
    )


def importable_class(theirs: Mapping[str, Any]) -> HFClass:
    """The one of the five that a `config.json` is of; raises `UsageError` for another architecture, naming it."""
    found = next((known for known in CLASSES if known.model_type == theirs.get("model_type")), None)
    if found is None:
        kinds = ", ".join(known.model_type for known in CLASSES)
        raise UsageError(f"cannot import a model of type {theirs.get('model_type')!r}; importable: {kinds}")
    return found


def _size(theirs: Mapping[str, Any], name: str) -> int:
    value = theirs.get(name)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"the configuration has {name} {value!r}; a positive whole number is needed; restore it")
    return value


def _refuse_unlike(theirs: Mapping[str, Any], found: HFClass) -> None:
    """Refuse values at which their class computes something that ours does not; one not given is their default."""
    heads, width = theirs.get("num_attention_heads"), theirs.get("hidden_size")
    rope = {**(theirs.get("rope_parameters") or {}), **(theirs.get("rope_scaling") or {})}
    turned = rope.get("partial_rotary_factor") or theirs.get("partial_rotary_factor")
    wanted: dict[str, tuple[Any, Any]] = {
        "quantization_config": (theirs.get("quantization_config"), None),
        "rope_theta": (rope.get("rope_theta") or theirs.get("rope_theta") or ROPE_BASE, ROPE_BASE),
        "rope_type": (rope.get("type") or rope.get("rope_type") or "default", "default"),
        "partial_rotary_factor": (turned or (0.25 if found.model_type == "stablelm" else 1.0), 1.0),
        "rms_norm_eps": (theirs.get("rms_norm_eps", 1e-5 if found.model_type == "arcee" else RMSNORM_EPS), RMSNORM_EPS),
        "layer_norm_epsilon": (theirs.get("layer_norm_epsilon", LAYERNORM_EPS), LAYERNORM_EPS),
        "norm_epsilon": (theirs.get("norm_epsilon", LAYERNORM_EPS), LAYERNORM_EPS),
        "layer_norm_eps": (theirs.get("layer_norm_eps", LAYERNORM_EPS), LAYERNORM_EPS),
        "sliding_window": (theirs.get("sliding_window"), None),
        "scale_attn_by_inverse_layer_idx": (bool(theirs.get("scale_attn_by_inverse_layer_idx")), False),
        "scale_attn_weights": (theirs.get("scale_attn_weights", True), True),
        "add_cross_attention": (bool(theirs.get("add_cross_attention")), False),
        "use_parallel_residual": (bool(theirs.get("use_parallel_residual")), False),
        "qk_layernorm": (bool(theirs.get("qk_layernorm")), False),
    }
    if found.position == "rope":
        wanted["num_key_value_heads"] = (theirs.get("num_key_value_heads") or heads, heads)
    if found.norm == "rmsnorm":
        wanted["mlp_bias"] = (bool(theirs.get("mlp_bias")), bool(theirs.get("attention_bias")))
        wanted["head_dim"] = (theirs.get("head_dim") or _ratio(width, heads), _ratio(width, heads))
    for name, (got, needed) in wanted.items():
        if got != needed:
            raise UsageError(f"cannot import {found.model_type} with {name} {got!r}; ours has {needed!r}")


def _ratio(width: object, heads: object) -> float | None:
    return width / heads if isinstance(width, int) and isinstance(heads, int) and heads else None
