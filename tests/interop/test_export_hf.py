"""Export to Hugging Face's format: equal logits for every class, equal ids for every tokenizer, and clear refusals."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import lively_model, small_config

from minigpt.base.errors import CheckpointError, UsageError
from minigpt.interop import export_hf as export_module
from minigpt.interop.correspondence import CLASSES, class_for, our_config, to_ours
from minigpt.interop.export_hf import export_hf
from minigpt.interop.hf_tokenizer import hf_tokenizer
from minigpt.model import GPT, GPTConfig
from minigpt.text.tokenizers import Tokenizer, build_tokenizer, load_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")

TEXT = "The cat (née 1987) sat,\n\n\tand sat — 12,345 times; don't  ask   why!\nÜber straße, naïve café.\n" * 4
PLAIN = ("relu", "gelu", "gelu_tanh", "silu", "relu2")
GATED = ("reglu", "geglu", "geglu_tanh", "swiglu")
EXPORTABLE = [
    *itertools.product(PLAIN, ["layernorm"], ["learned"], [True, False], [True, False]),
    *itertools.product(PLAIN, ["rmsnorm", "layernorm"], ["rope"], [True, False], [True, False]),
    *itertools.product(GATED, ["rmsnorm"], ["rope"], [True, False], [True, False]),
    *itertools.product(GATED, ["layernorm"], ["rope"], [False], [True, False]),
]


def tokenizer(spec: str) -> Tokenizer:
    return build_tokenizer(spec, lambda: [TEXT], lambda: [TEXT])


def exportable(choice: tuple[str, str, str, bool, bool]) -> GPTConfig:
    activation, norm, position, bias, tied = choice
    return small_config(activation=activation, norm=norm, position=position, bias=bias, tie_embeddings=tied)


@pytest.mark.parametrize("choice", EXPORTABLE, ids=str)
def test_every_combination_gives_the_same_logits(tmp_path: Path, choice: tuple[str, str, str, bool, bool]) -> None:
    """Weights far from their initial values, so that a forgotten gain, bias or order would show; then back again."""
    model = lively_model(exportable(choice))
    change = export_hf(model, tokenizer("byte"), tmp_path / "hf")
    assert change <= 1e-5
    written = json.loads((tmp_path / "hf" / "config.json").read_text())
    back = our_config(written)
    expected = {**vars(model.config), "d_ff": model.config.layer_widths[0], "attention": back.attention}
    assert vars(back) == expected


def test_tensors_come_back(tmp_path: Path) -> None:
    """Export and import are one table read in two directions."""
    from safetensors.torch import load_file

    for known in CLASSES:
        activation = "swiglu" if known.gated else "relu"
        config = small_config(activation=activation, norm=known.norm, position=known.position, bias=known.biases)
        model = lively_model(config)
        export_hf(model, tokenizer("byte"), tmp_path / known.model_type)
        back = to_ours(load_file(tmp_path / known.model_type / "model.safetensors"), known.rules, config.n_layer)
        for name, tensor in model.stored_tensors().items():
            assert torch.equal(back[name], tensor), name


@pytest.mark.parametrize("spec", ["byte", "char", "bpe:300"])
def test_what_a_stranger_loads_is_the_same(tmp_path: Path, spec: str) -> None:
    """`AutoTokenizer` and `AutoModelForCausalLM` on the folder: ids, text and logits."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ours = tokenizer(spec)
    model = lively_model(small_config(vocab_size=ours.vocab_size, activation="gelu"))
    export_hf(model, ours, tmp_path / "hf")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    ids = ours.encode(TEXT).tolist()
    assert theirs(TEXT)["input_ids"] == ids
    assert theirs.decode(ids) == TEXT
    window = torch.tensor([ids[:12]])
    with torch.no_grad():
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
        torch.testing.assert_close(loaded(window).logits, model(window), rtol=1e-5, atol=1e-5)


BPE = tokenizer("bpe:400")
THEIR_BPE = hf_tokenizer(BPE)


@settings(deadline=None)
@given(st.text(alphabet=st.one_of(st.sampled_from(TEXT), st.characters(exclude_categories=["Cs"])), max_size=60))
def test_any_text_gets_the_same_ids(text: str) -> None:
    """Joined by ranks or by a list of merges: the same tokens, whatever the text."""
    assert THEIR_BPE(text)["input_ids"] == BPE.encode(text).tolist()


def test_gpt2s_vocabulary_keeps_its_end_of_text(fake_gpt2_ranks: list[bytes]) -> None:
    """The special token is the last id, and plain text gets the ids of the ranks."""
    import base64

    ranks = [base64.b64encode(token).decode() for token in fake_gpt2_ranks]
    ours = load_tokenizer({"version": 1, "spec": "gpt2", "ranks": ranks}, "here")
    theirs = hf_tokenizer(ours)
    assert theirs("It's 12 cats")["input_ids"] == ours.encode("It's 12 cats").tolist()
    assert theirs.eos_token_id == 50256


def test_a_character_outside_the_alphabet_is_an_error() -> None:
    """Not a silent gap in the text."""
    with pytest.raises(Exception, match=r"(?i)unk"):
        hf_tokenizer(tokenizer("char"))("日")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"activation": "mish"}, "activation mish"),
        ({"activation": "swiglu", "norm": "layernorm", "position": "rope", "bias": True}, "no biases"),
        ({"norm": "rmsnorm"}, "plain MLP with norm rmsnorm and position learned"),
        ({"norm": "batchnorm"}, "norm batchnorm"),
        ({"residual": False}, "without residual"),
        ({"attention": "mean"}, "attention mean"),
        ({"activation": "0=relu,1=gelu"}, "differ in activation or width"),
        ({"d_ff": "0=16,1=32"}, "differ in activation or width"),
    ],
    ids=str,
)
def test_what_no_class_expresses_is_refused(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    """With the part that has no place there, before anything is written."""
    with pytest.raises(UsageError, match=says):
        export_hf(GPT(small_config(**changes)), tokenizer("byte"), tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_a_wrong_export_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits of the written folder are recomputed: two matrices exchanged would not pass."""
    weights = export_module._weights

    def exchanged(model: GPT) -> dict[str, torch.Tensor]:
        made = weights(model)
        first, second = (f"transformer.h.{block}.attn.c_attn.weight" for block in (0, 1))
        made[first], made[second] = made[second], made[first]
        return made

    monkeypatch.setattr(export_module, "_weights", exchanged)
    with pytest.raises(CheckpointError, match="answers otherwise"):
        export_hf(lively_model(small_config()), tokenizer("byte"), tmp_path / "hf")


def test_an_occupied_folder_is_left_alone(tmp_path: Path) -> None:
    """Somebody's files are not mixed with ours."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        export_hf(GPT(small_config()), tokenizer("byte"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_there_is_a_class_for_each_kind() -> None:
    """The five classes cover what they say, and no two claim the same."""
    kinds = {(known.gated, known.norm, known.position) for known in CLASSES}
    assert len(kinds) == len(CLASSES) == 5
    assert class_for(small_config(activation="relu")).architecture == "GPT2LMHeadModel"
