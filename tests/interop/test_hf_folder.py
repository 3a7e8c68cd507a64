"""Import of what transformers wrote: the same logits for every class, and a refusal that names what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_architectures import tiny
from torch import nn

from minigpt.base.errors import CheckpointError, UsageError
from minigpt.interop.hf_folder import read_hf_folder

pytestmark = pytest.mark.filterwarnings("ignore")

ROPE: dict[str, Any] = {"num_key_value_heads": 4}
STABLELM: dict[str, Any] = {**ROPE, "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 1.0}}
ARCEE: dict[str, Any] = {**ROPE, "rms_norm_eps": 1e-6}
BIASED: dict[str, Any] = {"attention_bias": True, "mlp_bias": True}
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {}),
    ("gpt2", {"activation_function": "relu", "tie_word_embeddings": False, "n_inner": 40}),
    ("arcee", ARCEE),
    ("arcee", {**ARCEE, **BIASED, "tie_word_embeddings": True, "hidden_act": "gelu"}),
    ("starcoder2", ROPE),
    ("starcoder2", {**ROPE, "use_bias": False, "tie_word_embeddings": False, "hidden_act": "silu"}),
    ("llama", ROPE),
    ("llama", {**ROPE, **BIASED, "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh"}),
    ("stablelm", STABLELM),
    ("stablelm", {**STABLELM, "use_qkv_bias": True, "tie_word_embeddings": True, "hidden_act": "relu"}),
]
Damage = Callable[[dict[str, torch.Tensor]], object]


def foreign(model_type: str, **changes: Any) -> nn.Module:
    """A model of transformers whose every parameter, biases and gains too, is far from its initial value."""
    model = tiny(model_type, **changes)
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=random))
    return model


def saved(folder: Path, model_type: str = "llama", **changes: Any) -> Path:
    foreign(model_type, **(ROPE | changes)).save_pretrained(folder)  # type: ignore[operator]
    return folder


def reconfigured(folder: Path, **changes: Any) -> Path:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))
    return folder


def reweighted(folder: Path, damage: Damage) -> Path:
    weights = load_file(folder / "model.safetensors")
    damage(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(("model_type", "changes"), MODELS, ids=str)
def test_the_logits_are_those_of_transformers(tmp_path: Path, model_type: str, changes: dict[str, Any]) -> None:
    """Biases, tied and untied heads, every activation's name: what their forward pass says, ours says."""
    theirs = foreign(model_type, **changes)
    theirs.save_pretrained(tmp_path)  # type: ignore[operator]
    ours = read_hf_folder(tmp_path).build()
    ids = torch.randint(99, (3, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-5, atol=2e-5)
    assert ours.config.tie_embeddings == theirs.config.tie_word_embeddings  # type: ignore[union-attr]


def test_shards_half_precision_and_bare_names(tmp_path: Path) -> None:
    """A large model comes in shards; GPT-2's own folder leaves out the prefix, and holds masks beside the weights."""
    theirs = foreign("gpt2").half()
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")  # type: ignore[operator]
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    whole = read_hf_folder(tmp_path / "shards")
    assert {tensor.dtype for tensor in whole.weights.values()} == {torch.float32}
    theirs.transformer.save_pretrained(tmp_path / "bare")  # type: ignore[operator, union-attr]
    mask = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    reweighted(tmp_path / "bare", lambda weights: weights.update({"h.0.attn.bias": mask}))
    bare = read_hf_folder(tmp_path / "bare")
    assert bare.config == whole.config
    assert all(torch.equal(tensor, bare.weights[name]) for name, tensor in whole.weights.items())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "bert"}, "type 'bert'; importable: gpt2, arcee, starcoder2, llama, stablelm"),
        ({"model_type": None}, "type None"),
        ({"num_key_value_heads": 2}, "num_key_value_heads 2; ours has 4"),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, "rope_theta 500000"),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "llama3"}}, "rope_type 'llama3'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type 'linear'"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps 1e-05; ours has 1e-06"),
        ({"head_dim": 16}, "head_dim 16"),
        ({"mlp_bias": True}, "mlp_bias True"),
        ({"hidden_act": "mish"}, "activation 'mish'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"model_type": "stablelm", "rope_parameters": None}, "partial_rotary_factor 0.25"),
    ],
    ids=str,
)
def test_what_ours_does_not_compute_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    """By the name of the setting, before any weight is read."""
    folder = reconfigured(saved(tmp_path), **changes)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=says):
        read_hf_folder(folder)


def _drop(weights: dict[str, torch.Tensor]) -> None:
    del weights["model.layers.1.mlp.up_proj.weight"], weights["model.norm.weight"]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_drop, "1.mlp.up_proj.weight is missing; model.norm.weight is missing"),
        (lambda weights: weights.update({"model.extra": torch.ones(1)}), "model.extra has no place"),
        (lambda weights: weights.update({"model.norm.weight": torch.ones(5)}), r"model.norm.weight is \(5,\)"),
        (lambda weights: weights.update({"model.norm.weight": torch.ones(32).to(torch.int8)}), "torch.int8"),
        (lambda weights: weights["model.norm.weight"].fill_(torch.nan), "model.norm.weight is not finite"),
        (lambda weights: weights.pop("lm_head.weight"), "lm_head.weight is missing"),
    ],
    ids=["missing", "left over", "shape", "integers", "nan", "head"],
)
def test_every_tensor_that_does_not_fit_is_listed(tmp_path: Path, damage: Damage, says: str) -> None:
    """transformers would start a missing tensor at random, with no more than a warning."""
    with pytest.raises(CheckpointError, match=says):
        read_hf_folder(reweighted(saved(tmp_path), damage))


def test_a_head_that_is_not_what_it_is_tied_to_is_refused(tmp_path: Path) -> None:
    """Which of the two matrices was meant nobody can tell."""
    folder = saved(tmp_path, tie_word_embeddings=True)
    reweighted(folder, lambda weights: weights.update({"lm_head.weight": torch.ones(99, 32)}))
    with pytest.raises(CheckpointError, match="not the embedding that it is said to be tied to"):
        read_hf_folder(folder)


def test_folders_without_a_model(tmp_path: Path) -> None:
    """No configuration, nothing but pickles, no weights, a damaged file, an index that leads elsewhere."""
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        read_hf_folder(tmp_path)
    (tmp_path / "ckpt.pt").touch()
    with pytest.raises(CheckpointError, match="use import-nanogpt"):
        read_hf_folder(tmp_path / "ckpt.pt")
    folder = saved(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_hf_folder(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no weights"):
        read_hf_folder(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="pickles only"):
        read_hf_folder(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../elsewhere.safetensors"}}')
    with pytest.raises(CheckpointError, match="names no files of this folder"):
        read_hf_folder(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no configuration"):
        read_hf_folder(folder)
    reconfigured_sizes = {"model_type": "llama", "hidden_act": "silu", "num_attention_heads": "4"}
    (folder / "config.json").write_text(json.dumps(reconfigured_sizes))
    with pytest.raises(CheckpointError, match="a positive whole number is needed"):
        read_hf_folder(folder)
