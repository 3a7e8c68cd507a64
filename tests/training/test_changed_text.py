"""A text that is edited, replaced or grows while a run or an ablation reads it, or between two commands."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY_RUN, Capture, Command
from run_files import comparable, final_hash, records, stop_at

from minigpt.base import storage
from minigpt.base.errors import DataError, StopRequestedError
from minigpt.experiments.cells import MAIN, Cell, train_cell
from minigpt.text.preparation import prepare_text
from minigpt.training import loop, run_directory, runtime
from minigpt.training.code_version import code_hash
from minigpt.training.config import RunConfig
from minigpt.training.inference import open_run

TEXT = Path("text.txt")


def cell_of(**changes: object) -> Cell:
    """A small cell of the text as it is now."""
    small = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "batch_size": 4, "steps": 4}
    config = runtime.resolve(RunConfig(**{"corpus": "text.txt", "device": "cpu", "compile": "off", **small, **changes}))
    data = prepare_text(config).sha256
    identity = {"config": run_directory.config_hash(config), "data": data, "code": code_hash()}
    return Cell("relu", MAIN, config, identity, Path("cells"))


@pytest.mark.parametrize("edit", ["reversed", "longer", "shorter", "gone"])
def test_a_text_edited_meanwhile_changes_nothing(
    minigpt: Command, workplace: Path, haste: None, monkeypatch: pytest.MonkeyPatch, edit: str
) -> None:
    """The validation loss once jumped from 1.09 to 5.74 when another training prepared the edited text."""
    assert minigpt(f"train {TINY_RUN} --out undisturbed") == 0
    evaluate, text = loop.evaluate_on_the_way, TEXT.read_text()

    def edited(run, progress, stop):  # type: ignore[no-untyped-def]
        if progress.step == 4:
            TEXT.write_text({"reversed": text[::-1], "longer": text[::-1] * 2, "shorter": text[:5000]}.get(edit, "x"))
            if edit == "gone":
                TEXT.unlink()
            else:
                prepare_text(run.config)  # as another training would
        return evaluate(run, progress, stop)

    monkeypatch.setattr(loop, "evaluate_on_the_way", edited)
    assert minigpt(f"train {TINY_RUN} --out run") == 0
    assert final_hash(Path("run")) == final_hash(Path("undisturbed"))
    assert comparable(Path("run")) == comparable(Path("undisturbed"))


def test_prepared_tokens_replaced_meanwhile_change_nothing(
    minigpt: Command, workplace: Path, haste: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even whoever writes into `data/` by hand does not reach a training that has read its text."""
    assert minigpt(f"train {TINY_RUN} --out undisturbed") == 0
    evaluate = loop.evaluate_on_the_way

    def replaced(run, progress, stop):  # type: ignore[no-untyped-def]
        if progress.step == 4:
            for split in ("train", "val"):
                path = run.store.directory / f"{split}.bin"
                path.write_bytes(bytes(path.stat().st_size))
        return evaluate(run, progress, stop)

    monkeypatch.setattr(loop, "evaluate_on_the_way", replaced)
    assert minigpt(f"train {TINY_RUN} --out run") == 0
    assert comparable(Path("run")) == comparable(Path("undisturbed"))


def test_a_folder_that_grows_and_tokens_that_go_meanwhile_change_nothing(
    minigpt: Command, workplace: Path, haste: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file comes into the folder, somebody prepares that, and all of `data/` is deleted: the run holds its text."""
    Path("texts").mkdir()
    TEXT.rename("texts/a.txt")
    flags = TINY_RUN.replace("text.txt", "texts")
    assert minigpt(f"train {flags} --out undisturbed") == 0
    evaluate = loop.evaluate_on_the_way

    def disturbed(run, progress, stop):  # type: ignore[no-untyped-def]
        if progress.step == 4:
            Path("texts/b.txt").write_text("something else entirely\n" * 99)
            prepare_text(run.config)
            shutil.rmtree("data")
        return evaluate(run, progress, stop)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate_on_the_way", disturbed)
        assert minigpt(f"train {flags} --out run") == 0
    assert comparable(Path("run")) == comparable(Path("undisturbed"))
    assert minigpt("evaluate run") == 4
    Path("texts/b.txt").unlink()
    assert minigpt("evaluate run") == 0


@pytest.mark.parametrize("begun", [False, True], ids=["not begun", "half done"])
def test_a_cell_whose_text_changed_is_a_data_error_at_once(
    workplace: Path, haste: None, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """It was trained on the other text, found not to be the cell, and begun again, ten times."""
    cell = cell_of(checkpoint_every=1)
    if begun:
        with monkeypatch.context() as patch:
            stop_at(patch, 4, signal.SIGTERM)
            with pytest.raises(StopRequestedError):
                train_cell(cell)
    TEXT.write_text(TEXT.read_text()[::-1])
    with pytest.raises(DataError, match=r"the text of \S*/text\.txt changed since this training was planned"):
        train_cell(cell)
    assert cell.directory.exists() is begun


# A text that grew, on resume


@pytest.fixture
def stopped(minigpt: Command, workplace: Path, haste: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Leaves a run in the middle, trained with the tokenizer that is named."""

    def stop(tokenizer: str) -> None:
        with monkeypatch.context() as patch:
            stop_at(patch, 40, signal.SIGINT)
            assert minigpt(f"train {TINY_RUN} --steps 60 --tokenizer {tokenizer} --out run") == 130

    return stop


@pytest.mark.parametrize("tokenizer", ["bpe:300", "char", "byte"])
def test_a_run_goes_on_with_a_text_that_grew(
    minigpt: Command, stopped: Callable[[str], None], capsys: Capture, tokenizer: str
) -> None:
    """In its own vocabulary, though the grown text leads to another; and what it became can be evaluated."""
    stopped(tokenizer)
    vocabulary = Path("run/tokenizer.json").read_bytes()
    TEXT.write_text(TEXT.read_text() + "qu " * 3000 + TEXT.read_text()[:5000])
    assert minigpt("train --resume run") == 4
    assert "--allow-data-change" in capsys.readouterr().err
    grown = TEXT.read_text()
    if tokenizer == "char":
        TEXT.write_text(grown.replace("q", "a"))
    assert minigpt("train --resume run --allow-data-change") == 0
    assert Path("run/tokenizer.json").read_bytes() == vocabulary
    assert minigpt("evaluate run") == 0
    assert records(Path("run"), "train")[-1]["step"] == 60


def test_new_characters_are_refused_with_what_to_do(
    minigpt: Command, stopped: Callable[[str], None], capsys: Capture
) -> None:
    """A resumed run keeps its vocabulary; the advice given works: a new run takes over what both know."""
    stopped("char")
    TEXT.write_text("äö" + TEXT.read_text() + "ßé" * 40)
    assert minigpt("train --resume run --allow-data-change") == 3
    message = capsys.readouterr().err
    assert "characters that the run has never seen; 'ß', 'ä', 'é', 'ö'" in message
    assert "--init-from RUN" in message
    assert minigpt(f"train {TINY_RUN} --steps 4 --init-from run --out child") == 0
    parent, child = open_run(Path("run")), open_run(Path("child"), "0")
    old = parent.model.state_dict()
    for name, tensor in child.model.state_dict().items():
        if tensor.shape == old[name].shape:
            assert torch.equal(tensor, old[name])
        else:
            places = child.tokenizer.encode(parent.tokenizer.decode(range(parent.tokenizer.vocab_size)))
            assert len(tensor) == len(old[name]) + 4
            assert torch.equal(tensor[torch.from_numpy(places)], old[name])
    assert minigpt(f"train {TINY_RUN} --init-from run --init-moments --out other") == 2


def test_text_field_is_part_of_a_run(minigpt: Command, workplace: Path, haste: None) -> None:
    """It is kept in the configuration, so that every later command reads the same field."""
    rows = [{"id": f"row-{n}", "body": TEXT.read_text()[200 * n : 200 * n + 200]} for n in range(100)]
    Path("rows.jsonl").write_text("".join(storage.to_json(row) + "\n" for row in rows))
    flags = TINY_RUN.replace("text.txt", "rows.jsonl")
    assert minigpt(f"train {flags} --out run") == 3
    assert minigpt(f"train {flags} --text-field body --out run") == 0
    assert minigpt("evaluate run") == 0
    config = run_directory.read_config(Path("run"))
    assert config.text_field == "body"
    assert run_directory.config_hash(config) != run_directory.config_hash(replace(config, text_field="id"))
