"""nanoGPT's checkpoints: the same logits as an independent implementation, and no code that they could run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from nanogpt_files import write_nanogpt_file

from minigpt.base.errors import CheckpointError
from minigpt.interop.nanogpt_file import read_nanogpt

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("bias", [True, False])
def test_the_logits_are_those_of_gpt2_with_exact_gelu(tmp_path: Path, bias: bool) -> None:
    """Compiled names are stripped, matrices are not turned, and a model without biases has none here either."""
    theirs = write_nanogpt_file(tmp_path / "ckpt.pt", bias=bias)
    ours = read_nanogpt(tmp_path / "ckpt.pt").build()
    assert ours.config.bias is bias
    ids = torch.randint(99, (3, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-5, atol=2e-5)


class Malicious:
    """Something that runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("executed",)


def test_a_checkpoint_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever hides in a pickle is refused, not run."""
    monkeypatch.chdir(tmp_path)
    write_nanogpt_file(tmp_path / "ckpt.pt", config=Malicious())
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        read_nanogpt(tmp_path / "ckpt.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model_args": {"n_layer": 2}}, "vocab_size, block_size, n_head, n_embd missing"),
        ({"model_args": None}, "lacks model_args or model"),
        ({"model": {"a": 1}}, "more than tensors"),
        ({"model": {"a": torch.ones(1)}}, r"h\.0\.attn\.c_attn\.weight is missing.* and 9 more"),
    ],
    ids=["sizes", "no sizes", "no tensors", "other tensors"],
)
def test_what_is_no_checkpoint_of_nanogpt_is_refused(tmp_path: Path, content: dict[str, Any], says: str) -> None:
    """With what is missing."""
    write_nanogpt_file(tmp_path / "ckpt.pt", **content)
    with pytest.raises(CheckpointError, match=says):
        read_nanogpt(tmp_path / "ckpt.pt")


def test_no_file_a_damaged_one_and_another_one(tmp_path: Path) -> None:
    """One line each, and no traceback of torch's."""
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_nanogpt(tmp_path / "ckpt.pt")
    (tmp_path / "ckpt.pt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_nanogpt(tmp_path / "ckpt.pt")
    torch.save(torch.ones(3), tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match="got Tensor"):
        read_nanogpt(tmp_path / "ckpt.pt")
