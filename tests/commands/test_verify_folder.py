"""`minigpt verify` of what is no run: an ablation, a ledger, an audit; and what it says of other folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY_MODEL, Command
from made_up_ledger import made_up_ledger, written

from minigpt.base import storage
from minigpt.claims.measuring import FOLDER
from minigpt.interop import audit

Verified = Callable[[str], tuple[int, dict[str, str], str]]


@pytest.fixture
def verified(minigpt: Command, capsys: pytest.CaptureFixture[str]) -> Verified:
    """Verify a folder: exit code, findings, and what was said on standard error."""

    def run(folder: str) -> tuple[int, dict[str, str], str]:
        capsys.readouterr()
        code = minigpt(f"verify {folder} --json")
        said = capsys.readouterr()
        return code, json.loads(said.out or "{}"), said.err

    return run


def alter(path: Path) -> None:
    """Another digit in place of one, in what stays valid JSON or CSV."""
    text = path.read_text(encoding="utf-8")
    assert "1" in text
    path.write_text(text.replace("1", "7", 1), encoding="utf-8")


@pytest.mark.usefixtures("haste")
def test_an_ablation(minigpt: Command, verified: Verified, workplace: Path) -> None:
    """Every training of it is checked; one that lacks a file is named by arm and seed."""
    flags = f"--corpus text.txt {TINY_MODEL} --steps 2 --eval-every 2 --checkpoint-every 0 --workers 1"
    assert minigpt(f"ablate --activations relu,gelu --seeds 1 {flags} --out a --cells-dir cells") == 0
    code, found, _ = verified("a")
    assert (code, len(found), set(found.values())) == (0, 3, {"ok"})
    (min((workplace / "cells").iterdir()) / "tokenizer.json").unlink()
    code, found, _ = verified("a")
    assert code == 4
    assert sum("tokenizer.json" in finding for finding in found.values()) == 1


def test_a_ledger(verified: Verified, workplace: Path) -> None:
    """Its own seal, and that of each measurement beside it."""
    (workplace / "ledger" / FOLDER).mkdir(parents=True)
    written(made_up_ledger(), workplace / "ledger")
    measurement = workplace / "ledger" / FOLDER / "cell-norms-1.json"
    storage.write_sealed(measurement, {"figures": {"a": 1.5}})
    assert verified("ledger")[:2] == (0, {"ledger": "ok", "measurement cell-norms-1": "ok"})
    alter(measurement)
    code, found, _ = verified("ledger")
    assert (code, found["ledger"]) == (4, "ok")
    assert "was altered" in found["measurement cell-norms-1"]
    alter(workplace / "ledger/ledger.json")
    code, _, error = verified("ledger")
    assert code == 4
    assert "ledger.json was altered" in error


def test_an_audit(verified: Verified, workplace: Path) -> None:
    """The record by its seal, the table by the hash in the record."""
    (workplace / "audit").mkdir()
    files = {audit.TABLE: storage.write_text(workplace / "audit" / audit.TABLE, "layer,dead\n0,1\n")}
    storage.write_sealed(workplace / "audit" / audit.RECORD, {"answer": 1, "files": files})
    assert verified("audit")[:2] == (0, {"audit": "ok", "table": "ok"})
    alter(workplace / "audit" / audit.TABLE)
    code, found, _ = verified("audit")
    assert (code, found["audit"]) == (4, "ok")
    assert "audit.csv was altered" in found["table"]
    alter(workplace / "audit" / audit.RECORD)
    code, found, _ = verified("audit")
    assert (code, list(found)) == (4, ["audit"])


def test_other_folders_are_told_apart(verified: Verified, place: Path) -> None:
    """A model for Hugging Face, a folder of runs, and one that holds nothing of ours."""
    (place / "hf").mkdir()
    (place / "hf/config.json").write_text('{"model_type": "gpt2"}')
    (place / "empty").mkdir()
    for folder, said in {
        "hf": "a model for Hugging Face, not a run",
        "runs": "holds 1; runs/first; name one of them",
        "empty": "no run at empty",
        "nowhere": "no run at nowhere",
    }.items():
        code, found, error = verified(folder)
        assert (code, found) == (4, {})
        assert said in error
        assert error.count("\n") == 1
