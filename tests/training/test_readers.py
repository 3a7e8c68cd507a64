"""Readers of a run: one view while it trains, no older weights because of a link, and no fields taken on trust."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from child_processes import Start, needs_fork, newest_step
from conftest import TINY_RUN, Command

from minigpt.base import storage
from minigpt.base.errors import CheckpointError, StorageError
from minigpt.training import checkpoints, inference, run_directory, verification
from minigpt.training.inference import choose_checkpoint

RUN_FILES = ("config.json", "environment.json", "metrics.jsonl", "tokenizer.json", "summary.json")
CHECKPOINT_FILES = ("manifest.json", "model.safetensors", "optimizer.safetensors", "life.safetensors")


def test_verify_and_best_survive_pruning(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that goes on deletes old checkpoints: the reader used to call what vanished damaged."""
    run, doomed = place / "runs/first", checkpoints.directory_of(place / "runs/first", 8)
    original = storage.read_bytes

    def pruned_meanwhile(path: Path, *others: Any, **options: Any) -> bytes:
        if path.parent == doomed and path.name == "model.safetensors":
            storage.remove_tree(doomed)
        return original(path, *others, **options)

    copy = shutil.copytree(run, place / "copy")
    monkeypatch.setattr(storage, "read_bytes", pruned_meanwhile)
    findings = verification.verify(run)
    assert [finding.what for finding in findings if finding.error] == []
    assert "checkpoint of step 12" in [finding.what for finding in findings]
    monkeypatch.setattr(inference, "progress_of", lambda checkpoint: (type("P", (), {"best_step": 8}), 0))
    monkeypatch.setattr(storage, "read_bytes", original)
    shutil.rmtree(run)
    shutil.copytree(copy, run)
    monkeypatch.setattr(storage, "read_bytes", pruned_meanwhile)
    assert choose_checkpoint(run, "best").step == 12


@pytest.mark.parametrize("name", CHECKPOINT_FILES)
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_link_or_fifo_never_means_older_weights(place: Path, name: str, kind: str) -> None:
    """It is named instead, with the file that is at fault; a read error is no damage either."""
    path = checkpoints.directory_of(place / "runs/first", 12) / name
    path.rename(place / "elsewhere")
    path.symlink_to(place / "elsewhere") if kind == "link" else os.mkfifo(path)
    notices: list[str] = []
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        checkpoints.newest(place / "runs/first", notices.append)
    assert notices == []


def test_a_checkpoint_that_cannot_be_read_is_not_replaced_by_an_older_one(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be whole: exit 5 names the reason, and nothing advises to train again."""
    original = os.read

    def broken(descriptor: int, size: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("step-00000012/model.safetensors"):
            raise OSError(errno.EIO, "Input/output error")
        return original(descriptor, size)

    monkeypatch.setattr(os, "read", broken)
    notices: list[str] = []
    with pytest.raises(StorageError, match="EIO") as caught:
        checkpoints.newest(place / "runs/first", notices.append)
    assert notices == []
    assert "overwrite" not in str(caught.value)


@pytest.mark.parametrize("name", RUN_FILES)
def test_a_fifo_in_the_place_of_a_file_hangs_nobody(command, place: Path, name: str) -> None:
    """Every command that reads a run answers at once; verify says 4."""
    path = place / "runs/first" / name
    path.unlink()
    os.mkfifo(path)
    for words in ("verify", "report", "evaluate", "sample --max-new-tokens 1 runs/first", "train --resume runs/first"):
        code, _, error = command(words)
        assert code in (0, 3, 4, 5), words
        assert "bug" not in error
    path.exists() and path.unlink()


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no step": lambda record: record.pop("step"),
    "step as text": lambda record: record.update(step="3"),
    "step true": lambda record: record.update(step=True),
    "step below zero": lambda record: record.update(step=-1),
    "huge step": lambda record: record.update(step=10**400),
    "loss as text": lambda record: record.update(loss="low"),
    "loss as list": lambda record: record.update(loss=[1]),
    "huge loss": lambda record: record.update(loss=10**400),
    "kind as list": lambda record: record.update(kind=["eval"]),
    "unknown kind": lambda record: record.update(kind="other"),
    "no kind": lambda record: record.pop("kind"),
    "event without name": lambda record: record.update(kind="event"),
    "event of a list": lambda record: record.update(kind="event", event=["neurons_died"]),
    "death without layer": lambda record: record.update(kind="event", event="neurons_died"),
    "no tokens": lambda record: record.pop("tokens"),
}
EVALUATION_DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no layers": lambda record: record.pop("layers"),
    "layers as text": lambda record: record.update(layers="two"),
    "a layer that is a number": lambda record: record.update(layers=[1, 2]),
    "a layer without its figure": lambda record: record["layers"][0].pop("dead_fraction"),
    "a layer too few": lambda record: record["layers"].pop(),
    "split as number": lambda record: record.update(split=3),
    "dead fraction as text": lambda record: record.update(dead_fraction="none"),
}


@pytest.mark.parametrize("damage", [*DAMAGES, *EVALUATION_DAMAGES])
def test_a_line_of_the_log_with_other_fields_is_named(command, place: Path, damage: str) -> None:
    """verify and resume used to end as a bug of ours; a report leaves the line out and says so."""
    log = place / "runs/first/metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    number = max(index for index, line in enumerate(lines) if '"eval"' in line)
    record = json.loads(lines[number])
    (DAMAGES | EVALUATION_DAMAGES)[damage](record)
    lines[number] = json.dumps(record) + "\n"
    log.write_text("".join(lines))
    with pytest.raises(CheckpointError, match=rf"metrics.jsonl, line {number + 1} "):
        run_directory.read_metrics(place / "runs/first")
    with pytest.raises(CheckpointError, match=rf"line {number + 1} "):
        run_directory.log_up_to(log, log.stat().st_size)
    code, _, error = command("report")
    assert code == 0
    assert f"note: lines of the log that are no records were skipped (1); line {number + 1}: " in error
    assert f"line {number + 1}:" in (place / "runs/first/report.html").read_text()


@pytest.mark.parametrize("line", ["[]", "3", "null", '"text"', "{", "\x00" * 9])
def test_a_line_that_is_no_object(command, place: Path, line: str) -> None:
    """At once exit 4, the line named."""
    log = place / "runs/first/metrics.jsonl"
    log.write_text(log.read_text() + line + "\n")
    code, output, _ = command("verify")
    assert code == 4
    assert re.search(r"log: .*metrics.jsonl, line \d+ ", output)


@pytest.mark.parametrize(
    ("name", "value"),
    [("tokens", "many"), ("seconds", None), ("log_length", -1), ("best_loss", []), ("step", True), ("more", 1)],
)
def test_progress_of_another_type_is_named(command, place: Path, name: str, value: Any) -> None:
    """In a manifest whose own hash fits, as an earlier or later version may have left it."""
    run = place / "runs/first"
    path = checkpoints.directory_of(run, 12) / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    manifest["progress"][name] = value
    storage.write_json(path, {**manifest, "sha256": storage.json_hash(manifest)})
    (run / "summary.json").unlink()
    for words in ("verify", "train --resume runs/first"):
        code, output, error = command(words)
        assert code == 4, (output, error)
        assert name in output + error


@pytest.mark.parametrize("change", [{"n_embd": 4096}, {"n_layer": 900}, {"d_ff": 900_000}, {"block_size": 900_000}])
def test_a_huge_model_is_refused_before_it_is_built(
    command, place: Path, change: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the manifest's hash of the configuration was made to fit, which left gigabytes to be allocated."""
    run = place / "runs/first"
    config = {**json.loads((run / "config.json").read_text()), **change}
    storage.write_json(run / "config.json", config)
    for module in (inference, verification, "minigpt.training.loop"):
        target = f"{module}.GPT" if isinstance(module, str) else f"{module.__name__}.GPT"
        monkeypatch.setattr(target, lambda *arguments: pytest.fail("it was built"))
    monkeypatch.setattr(run_directory, "is_of", lambda config, stated: True)
    (run / "summary.json").unlink()
    for words in ("verify", "sample runs/first", "evaluate", "train --resume runs/first"):
        code, output, error = command(words)
        assert code == 4, words
        assert "does not describe the model" in output + error


def test_masks_that_no_memory_holds_are_refused(command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind 16: under rope no tensor tells the context, so a forged one reached the allocation of its masks."""
    monkeypatch.setattr(storage, "memory_bytes", lambda: 1024)
    code, _, error = command("sample runs/first")
    assert code == 4
    assert "causal masks need" in error


@needs_fork
def test_a_surgery_that_was_killed_is_no_run(start: Start, minigpt: Command, workplace: Path, haste: None) -> None:
    """It used to leave a folder that --resume trained from step 0; now nothing continues it, and it can be repeated."""
    assert minigpt(f"train {TINY_RUN} --out run") == 0
    assert start("surgery run --recycle random:2 --out operated", cut_surgery=[]).wait() == 0
    cuts = sorted(workplace.glob("cut-*"))
    assert len(cuts) > 40
    unfinished = [cut for cut in cuts if run_directory.is_unfinished(cut)]
    for cut in cuts:
        if cut in unfinished:
            with pytest.raises(CheckpointError, match="unfinished surgery; start that again"):
                run_directory.read_config(cut)
        else:
            assert not run_directory.is_occupied(cut) or newest_step(cut) == 12
    assert len(unfinished) > 30
    middle = unfinished[len(unfinished) // 2]
    for words, code in (("train --resume", 4), ("sample", 4), ("report", 4), (f"train {TINY_RUN} --out", 2)):
        assert minigpt(f"{words} {middle.name}") == code
    assert minigpt(f"surgery run --recycle random:2 --out {middle.name}") == 0
    assert minigpt(f"verify {middle.name}") == 0
    assert newest_step(middle) == 12


@pytest.mark.parametrize("name", ["environment.json", "neurons.csv", "explorer.json", "neurons.json"])
def test_verify_covers_what_lies_beside_the_weights(command, place: Path, name: str) -> None:
    """One digit changed in a file that used to be unchecked; a record without a seal, of an older version, is fine."""
    run = place / "runs/first"
    assert command("neurons runs/first --tokens 64")[0] == 0
    assert command("verify")[0] == 0
    whole = (run / name).read_text()
    (run / name).write_text(whole[::-1].replace("1", "2", 1)[::-1])
    code, output, _ = command("verify")
    assert code == 4
    assert str(Path("runs/first") / name) in output
    if name.startswith("environment"):
        (run / name).write_text('{"python": "3.11"}')
        assert command("verify")[0] == 0
