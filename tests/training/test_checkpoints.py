"""Checkpoints: damage of any kind is detected, and a refused save leaves the older ones whole."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import TINY_RUN, Command, tree_hash
from failing_disk import failing

from minigpt.base import storage
from minigpt.base.errors import CheckpointError, DivergedError, MinigptError
from minigpt.model import GPT, GPTConfig
from minigpt.neurons.life import LifeTable
from minigpt.training import checkpoints
from minigpt.training.config import RunConfig
from minigpt.training.optimizers import build_optimizer


@pytest.fixture(scope="module")
def model() -> GPT:
    return GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4), seed=1)


def save(run: Path, model: GPT, step: int = 7) -> Path:
    optimizer = build_optimizer(model, RunConfig(warmup_steps=0, min_lr=0.0))
    life = LifeTable(model)
    checkpoints.save(run, step, model, optimizer, life, identity={}, progress={"best_step": 3}, environment={})
    return checkpoints.directory_of(run, step)


def restamp(directory: Path) -> None:
    """Make the manifest agree with altered files, as an attacker would."""
    manifest = json.loads((directory / "manifest.json").read_text())
    del manifest["sha256"]
    for name in manifest["files"]:
        data = (directory / name).read_bytes()
        manifest["files"][name] = {"bytes": len(data), "sha256": storage.sha256_bytes(data)}
    write_manifest(directory, manifest)


def write_manifest(directory: Path, manifest: dict) -> None:
    digest = storage.sha256_bytes(storage.to_json(manifest).encode())
    storage.write_json(directory / "manifest.json", {**manifest, "sha256": digest})


def test_what_is_saved_is_what_is_loaded(tmp_path: Path, model: GPT) -> None:
    """Every parameter returns bit for bit, tied ones once."""
    checkpoint = checkpoints.read(save(tmp_path, model))
    other = GPT(model.config, seed=2)
    checkpoints.load_model(checkpoint, other)
    assert checkpoints.parameter_hash(other) == checkpoints.parameter_hash(model)
    assert "lm_head.weight" not in safetensors.torch.load(checkpoint.data["model.safetensors"])
    assert (checkpoint.step, checkpoint.progress) == (7, {"best_step": 3})


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "life.safetensors", "manifest.json"])
def test_every_truncation_is_detected(tmp_path: Path, model: GPT, name: str) -> None:
    """Cut at each byte (the larger files at every 37th): never a checkpoint."""
    directory = save(tmp_path, model)
    data = (directory / name).read_bytes()
    for length in range(0, len(data), 37 if len(data) > 3000 else 1):
        (directory / name).write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            checkpoints.read(directory)


def test_every_single_bit_flip_is_detected(tmp_path: Path, model: GPT) -> None:
    """In the manifest every bit; in the tensors, which SHA-256 covers, one bit of every 11th byte."""
    directory = save(tmp_path, model)
    for name, stride in (
        ("manifest.json", 1),
        ("model.safetensors", 11),
        ("optimizer.safetensors", 11),
        ("life.safetensors", 11),
    ):
        data = bytearray((directory / name).read_bytes())
        for place in range(0, len(data), stride):
            for bit in range(8) if stride == 1 else (place % 8,):
                data[place] ^= 1 << bit
                (directory / name).write_bytes(data)
                with pytest.raises(CheckpointError):
                    checkpoints.read(directory)
                data[place] ^= 1 << bit
        (directory / name).write_bytes(data)
    checkpoints.read(directory)


def test_the_newest_good_checkpoint_is_found(tmp_path: Path, model: GPT) -> None:
    """A damaged newest one is passed over, loudly; an unfinished save was never one; all damaged is an error."""
    for step in (1, 2, 3):
        save(tmp_path, model, step)
    checkpoints.directory_of(tmp_path, 4).mkdir()
    (checkpoints.directory_of(tmp_path, 3) / "model.safetensors").write_bytes(b"gone")
    notices: list[str] = []
    newest = checkpoints.newest(tmp_path, notices.append)
    assert newest is not None
    assert newest.step == 2
    assert len(notices) == 1
    for step in (1, 2):
        (checkpoints.directory_of(tmp_path, step) / "model.safetensors").write_bytes(b"gone")
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        checkpoints.newest(tmp_path, notices.append)


def test_a_newer_format_asks_for_an_upgrade(tmp_path: Path, model: GPT) -> None:
    """Not "damaged": the user has to do something else."""
    directory = save(tmp_path, model)
    manifest = json.loads((directory / "manifest.json").read_text())
    del manifest["sha256"]
    write_manifest(directory, {**manifest, "format": 99})
    with pytest.raises(CheckpointError, match="upgrade minigpt"):
        checkpoints.read(directory)


def test_all_that_does_not_fit_is_listed(tmp_path: Path, model: GPT) -> None:
    """Missing, left-over, reshaped and retyped tensors in one message."""
    directory = save(tmp_path, model)
    tensors = safetensors.torch.load((directory / "model.safetensors").read_bytes())
    del tensors["ln_f.weight"]
    tensors["stranger"] = torch.zeros(1)
    tensors["ln_f.bias"] = tensors["ln_f.bias"].half()
    tensors["wte.weight"] = torch.zeros(9, 4)
    (directory / "model.safetensors").write_bytes(safetensors.torch.save(tensors))
    restamp(directory)
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load_model(checkpoints.read(directory), model)
    for part in ("ln_f.weight is missing", "stranger is not of this model", "float16", "(9, 4)"):
        assert part in str(caught.value)


def test_weights_that_are_not_finite_are_named(tmp_path: Path, model: GPT) -> None:
    """With a valid hash: exit code 6 and the parameter's name. Saving such weights is refused as well."""
    directory = save(tmp_path, model)
    tensors = safetensors.torch.load((directory / "model.safetensors").read_bytes())
    tensors["blocks.0.mlp.w_in.weight"][0, 0] = torch.nan
    (directory / "model.safetensors").write_bytes(safetensors.torch.save(tensors))
    restamp(directory)
    other = GPT(model.config, seed=3)
    with pytest.raises(DivergedError, match=r"blocks\.0\.mlp\.w_in\.weight"):
        checkpoints.load_model(checkpoints.read(directory), other)
    with torch.no_grad():
        other.ln_f.weight.fill_(torch.inf)
    before = tree_hash(tmp_path)
    with pytest.raises(DivergedError, match=r"ln_f\.weight"):
        save(tmp_path, other, 8)
    assert tree_hash(tmp_path) == before


def overlapping_header() -> bytes:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"a": entry, "b": entry}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(8)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(struct.pack("<Q", 1 << 40) + b"{}", id="header of a terabyte"),
        pytest.param(overlapping_header(), id="overlapping tensors"),
        pytest.param(b"\x80\x05cos\nsystem\n(S'touch pwned'\ntR.", id="pickle"),
        pytest.param(b"PK\x03\x04" + bytes(64), id="zip archive"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_hostile_tensor_files_are_inert(tmp_path: Path, model: GPT, content: bytes) -> None:
    """Even under a manifest that vouches for them they are refused, and nothing of them is executed."""
    directory = save(tmp_path, model)
    (directory / "model.safetensors").write_bytes(content)
    restamp(directory)
    with pytest.raises(CheckpointError, match="not safetensors"):
        checkpoints.load_model(checkpoints.read(directory), model)
    assert not Path("pwned").exists()


@pytest.mark.parametrize("name", ["../../stolen", "/etc/passwd", "model.safetensors/../x"])
def test_a_manifest_cannot_name_other_files(tmp_path: Path, model: GPT, name: str) -> None:
    """Only the known names are read."""
    directory = save(tmp_path, model)
    manifest = json.loads((directory / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["files"][name] = manifest["files"].pop("model.safetensors")
    write_manifest(directory, manifest)
    with pytest.raises(CheckpointError, match="names other files"):
        checkpoints.read(directory)


def test_a_linked_tensor_file_is_refused(tmp_path: Path, model: GPT) -> None:
    """A link could lead out of the run."""
    directory = save(tmp_path, model)
    elsewhere = tmp_path / "elsewhere"
    (directory / "model.safetensors").rename(elsewhere)
    (directory / "model.safetensors").symlink_to(elsewhere)
    with pytest.raises(CheckpointError):
        checkpoints.read(directory)


def count_calls(name: str, monkeypatch: pytest.MonkeyPatch, attempt: Callable[[], object]) -> int:
    calls = 0
    original = getattr(os, name)

    def count(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(storage.os, name, count)
        attempt()
    return calls


@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace"])
def test_a_save_refused_at_any_operation_keeps_the_older_one(
    tmp_path: Path, model: GPT, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every operation of a save fails in turn: the checkpoint before verifies, a retry succeeds."""
    save(tmp_path, model, 1)
    total = count_calls(name, monkeypatch, lambda: save(tmp_path, model, 2))
    assert total >= 3
    for at in range(1, total + 1):
        storage.remove_tree(checkpoints.directory_of(tmp_path, 2))
        with monkeypatch.context() as patch:
            failing(name, at, errno.ENOSPC, patch)
            with pytest.raises(MinigptError):
                save(tmp_path, model, 2)
        newest = checkpoints.newest(tmp_path, lambda line: None)
        assert newest is not None
        assert newest.step in ((1,) if at < total else (1, 2))
        assert not list(tmp_path.rglob("*.tmp"))
    save(tmp_path, model, 2)
    assert checkpoints.read(checkpoints.directory_of(tmp_path, 2)).step == 2


def test_pruning_reads_back_before_it_deletes(tmp_path: Path, model: GPT) -> None:
    """If the newest checkpoint cannot be read, the older ones stay."""
    for step in (1, 2, 3, 4):
        save(tmp_path, model, step)
    (checkpoints.directory_of(tmp_path, 4) / "model.safetensors").write_bytes(b"gone")
    with pytest.raises(CheckpointError):
        checkpoints.prune(tmp_path, set())
    assert checkpoints.committed_steps(tmp_path) == [1, 2, 3, 4]
    save(tmp_path, model, 4)
    checkpoints.prune(tmp_path, {1})
    assert checkpoints.steps_of(tmp_path) == [1, 3, 4]


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer.json", lambda text: text.replace(" ", "\u2126", 1)),
        ("config.json", lambda text: text.replace('"lr": 0.01', '"lr": 0.02')),
        ("config.json", lambda text: text.replace('"n_embd": 16', '"n_embd": 32')),
        ("config.json", lambda text: text.replace('"seed": 1337,', "")),
        ("config.json", lambda text: text.replace('"steps": 12', '"steps": NaN')),
        ("config.json", lambda text: text.replace('"bias": true', '"bias": "__import__"')),
        ("metrics.jsonl", lambda text: text[: len(text) // 2]),
    ],
)
def test_an_altered_run_is_not_resumed(
    minigpt: Command, tiny_run: Path, file: str, change: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 4, one line, nothing changed; `verify` finds it too."""
    path = tiny_run / file
    altered = change(path.read_text())
    assert altered != path.read_text()
    path.write_text(altered)
    (tiny_run / "summary.json").unlink()
    before = tree_hash(tiny_run)
    assert minigpt("verify run") == 4
    capsys.readouterr()
    assert minigpt("train --resume run") == 4
    assert capsys.readouterr().err.count("\n") == 1
    assert tree_hash(tiny_run) == before


def test_every_contradicting_flag_is_named(
    minigpt: Command, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resuming with other settings is refused; equal ones and those that change no bit are fine."""
    assert minigpt("train --resume run --lr 0.5 --activation gelu --steps 12 --log-every 3") == 4
    error = capsys.readouterr().err
    assert "--lr 0.5" in error
    assert "--activation gelu" in error
    assert "--steps" not in error
    assert minigpt(f"train {TINY_RUN} --resume run --log-every 3 --device auto") == 0


def test_changed_text_is_not_resumed_unless_allowed(
    minigpt: Command, tiny_run: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data hash is part of a checkpoint."""
    (tiny_run / "summary.json").unlink()
    (checkpoints.directory_of(tiny_run, 12) / "manifest.json").unlink()
    text = (workplace / "text.txt").read_text()
    (workplace / "text.txt").write_text(text[100:] + text[:100])
    before = tree_hash(tiny_run)
    assert minigpt("train --resume run") == 4
    assert "--allow-data-change" in capsys.readouterr().err
    assert tree_hash(tiny_run) == before
    assert minigpt("train --resume run --allow-data-change") == 0
