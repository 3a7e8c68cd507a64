"""A model in memory: audited as its folder is, left as it was, and refused with a reason when it is no such model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import lively_model, small_config
from tiny_architectures import tiny
from torch import Tensor, nn

from minigpt.base.errors import DataError, UsageError
from minigpt.interop.audit import AuditOptions, audit, write
from minigpt.text.tokenizers import build_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")

SHORT = AuditOptions(context=16, tokens=400, batch_tokens=64, device="cpu")


def some_ids(size: int = 500) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(3, 99, size=size))


@pytest.mark.parametrize("model_type", ["opt", "llama", "qwen3_moe"])
def test_it_counts_as_the_folder_does(workplace: Path, model_type: str) -> None:
    """The same weights and ids, from memory and from disk: the same layers."""
    model: Any = tiny(model_type)
    model.save_pretrained("saved")
    Path("ids.bin").write_bytes(some_ids().numpy().astype("<u2").tobytes())
    on_disk = audit("saved", AuditOptions(**{**vars(SHORT), "texts": ("ids.bin",)}), "out")
    in_memory = audit(model, SHORT, ids=some_ids())
    assert in_memory.record["layers"] == on_disk.record["layers"]
    assert in_memory.table == on_disk.table
    assert (in_memory.record["kind"], in_memory.record["corpus"]) == ("memory", "ids")
    assert [path.name for path in write(in_memory, "audits/mine")] == ["audit.json", "audit.csv"]


def test_the_model_is_left_as_it_was(workplace: Path) -> None:
    """In training mode, with gradients, in its dtype, with its way to run experts; and nothing is written."""
    model: Any = tiny("qwen3_moe").bfloat16().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    way = model.config._experts_implementation
    found = audit(model, SHORT, ids=some_ids())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.config._experts_implementation == way
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert found.record["dtype"] == found.record["stored_dtype"] == "bfloat16"
    assert [path.name for path in Path().iterdir()] == ["text.txt"]


def test_a_tokenizer_makes_a_text_ids(workplace: Path) -> None:
    """Ours or one of transformers; of several texts only what is needed; without one the message says so."""
    Path("text.txt").write_text("All that is gold does not glitter. " * 40)
    options = AuditOptions(**{**vars(SHORT), "texts": ("text.txt",)})
    model = tiny("opt", vocab_size=256)
    found = audit(model, options, tokenizer=build_tokenizer("byte", list, list)).record
    assert found["corpus"] == "text.txt"
    assert found["tokens"] == 400
    thrice = AuditOptions(**{**vars(options), "texts": ("text.txt",) * 3})
    assert (
        audit(model, thrice, tokenizer=build_tokenizer("byte", list, list)).record["text_sha256"]
        == found["text_sha256"]
    )
    with pytest.raises(DataError, match="has no tokenizer"):
        audit(model, options)


def test_a_gpt_of_ours_and_expendable_neurons(workplace: Path) -> None:
    """What has no `base_model` and no names of transformers is audited too, with the search and without a directory."""
    model = lively_model(small_config(n_layer=2))
    ids = torch.randint(model.config.vocab_size, (500,))
    options = AuditOptions(**{**vars(SHORT), "context": model.config.block_size, "expendable": 64})
    record = audit(model, options, ids=ids).record
    assert record["family"] == "GPT"
    assert record["model"]["expendable_fraction"] is not None


class Encoder(nn.Module):
    """Takes vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, vectors: Tensor) -> Tensor:
        made: Tensor = self.layer(vectors)
        return made


def test_what_is_no_causal_language_model_is_refused() -> None:
    """Compiled, without values, called with vectors, or with ids that it does not know: one line each."""
    with pytest.raises(UsageError, match="compiled model"):
        audit(torch.compile(tiny("opt")), SHORT, ids=some_ids())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="meta device"):
        audit(tiny("opt").to("meta"), SHORT, ids=some_ids())
    with pytest.raises(UsageError, match=r"Encoder cannot be called with token ids alone;.*for_modules"):
        audit(Encoder(), SHORT, ids=some_ids())
    with pytest.raises(UsageError, match="ids take the place of a text"):
        audit(tiny("opt"), AuditOptions(**{**vars(SHORT), "texts": ("text.txt",)}), ids=some_ids())
    with pytest.raises(DataError, match=r"ids has id \d+; .* knows 99"):
        audit(tiny("opt"), SHORT, ids=torch.arange(500))
    with pytest.raises(UsageError, match="goes with a model in memory"):
        audit("folder", SHORT, tokenizer=build_tokenizer("byte", list, list))
