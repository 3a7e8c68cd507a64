"""`minigpt completion`: what bash offers, asked of a real bash; and that zsh's script names every flag."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Capture

from minigpt.cli import COMMANDS, main, parser_of
from minigpt.training.config import PRESETS

ASK = """source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _minigpt; printf '%s\\n' "${COMPREPLY[@]}" """


def script(shell: str, capsys: Capture) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_what_bash_offers(tmp_path: Path, capsys: Capture) -> None:
    """Commands, flags, the values of those that take one of a few, actions; files where it knows nothing."""
    (tmp_path / "script").write_text(script("bash", capsys))

    def offered(*words: str) -> list[str]:
        command = ["bash", "-c", ASK, "bash", str(tmp_path / "script"), "minigpt", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert offered("tr") == ["train"]
    assert set(COMMANDS) < set(offered(""))
    assert offered("help", "s") == ["sample", "sky", "surgery"]
    assert offered("train", "--pre") == ["--preset"]
    assert offered("train", "--preset", "") == list(PRESETS)
    assert offered("surgery", "--prune", "c") == ["certified"]
    assert offered("claims", "") == ["list", "show", "run", "report", "judge"]
    assert offered("sample", "") == offered("train", "--lr", "") == []


def test_both_scripts_know_every_flag(capsys: Capture) -> None:
    """They are made of the declared flags."""
    for shell in ("bash", "zsh"):
        text = script(shell, capsys)
        for name in COMMANDS:
            for action in parser_of(name)._actions:
                assert all(option in text for option in action.option_strings)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
def test_zsh_can_read_its_script(tmp_path: Path, capsys: Capture) -> None:
    """Help texts hold quotes, brackets and colons."""
    (tmp_path / "_minigpt").write_text(script("zsh", capsys))
    subprocess.run(["zsh", "-n", str(tmp_path / "_minigpt")], check=True)
