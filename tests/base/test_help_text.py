"""What `--help` shows: the common flags and two examples that work, whole words, and the defaults of a preset."""

from __future__ import annotations

import dataclasses
import shlex
import sys

import pytest
from conftest import Capture

from minigpt.base.invocation import as_typed, typed
from minigpt.base.version import VERSION
from minigpt.cli import COMMANDS, SECTIONS, main, parser_of
from minigpt.training.config import RunConfig, with_preset


def shown(capsys: Capture, *words: str) -> str:
    """The help that a command line prints."""
    assert main(list(words)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_two_examples_that_can_be_typed(name: str) -> None:
    """Every command, and every action of one, shows two command lines, and its parser takes them."""
    parser = parser_of(name)
    for topic, shown in {"": parser.introduction, **parser.topics}.items():
        assert len(shown.examples) == 2
        for arguments, _ in shown.examples:
            words = shlex.split(f"{topic} {arguments}".partition(" > ")[0])
            parser_of(name).parse(words)


@pytest.mark.parametrize("width", ["50", "80"])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_the_window_and_breaks_no_word(
    name: str, width: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only an example, which is copied whole, and what has no space may be wider; a flag is never cut at its dash."""
    monkeypatch.setenv("COLUMNS", width)
    for flag in ("--help", "--help-all"):
        text = shown(capsys, name, flag)
        examples = text.split("examples:\n")[1].split("\n\n")[0]
        for line in text.replace(examples, "").splitlines()[1:]:
            assert len(line) <= int(width) or len(line.split()) <= 4, line
        assert not [line for line in text.splitlines() if line.endswith("-")]


def test_common_flags_come_first_and_the_rest_is_named(capsys: Capture) -> None:
    """`train --help` fits a screen or two; what it leaves out is in `--help-all`, and it says so."""
    common, everything = shown(capsys, "train", "--help"), shown(capsys, "train", "--help-all")
    assert len(common.splitlines()) < 50
    assert "--beta2" not in common
    assert "--beta2" in everything
    listed = common.split("common flags:")[1]
    assert listed.index("--preset") < listed.index("--activation") < listed.index("--steps")
    assert "--help-all lists all" in common


def test_help_shows_the_defaults_of_a_preset(capsys: Capture) -> None:
    """Wherever the preset is named; every value that it sets is there, and an unknown one is refused."""
    for words in (["--preset", "nanogpt-cpu-fast", "--help-all"], ["--help-all", "--preset=nanogpt-cpu-fast"]):
        text = " ".join(shown(capsys, "train", *words).split())
        assert "[260] --batch-size N windows in one forward pass [24]" in text
        assert "peak learning rate [0.02]" in text
        for name, value in with_preset({"preset": "nanogpt-cpu-fast"}).items():
            assert name == "preset" or f"{name.replace('_', '-')} {str(value).lower()}" in text
    assert f"peak learning rate [{RunConfig.lr}]" in shown(capsys, "train", "--help")
    assert main(["train", "--preset", "nanogtp-cpu", "--help"]) == 2
    assert "did you mean 'nanogpt-cpu'?" in capsys.readouterr().err


def test_every_action_has_its_own_help(capsys: Capture) -> None:
    """`claims run --help` is about running; `claims --help` names the actions."""
    run = shown(capsys, "claims", "run", "--help")
    assert "usage: python -m minigpt claims run ID" in run
    assert "--budget" in run
    assert "--budget" not in shown(capsys, "claims", "list", "--help")
    assert "list | show ID | run" in shown(capsys, "claims", "--help")


def test_what_a_newcomer_types(capsys: Capture) -> None:
    """Nothing, help, help of a command, the version."""
    overview = shown(capsys)
    assert shown(capsys, "help") == shown(capsys, "--help") == overview
    assert shown(capsys, "help", "sample") == shown(capsys, "sample", "--help")
    assert shown(capsys, "--version") == f"minigpt {VERSION}\n"
    assert sorted(name for names in SECTIONS.values() for name in names) == sorted(COMMANDS)
    assert max(map(len, overview.splitlines())) <= 80


@pytest.mark.parametrize(
    ("program", "train", "evaluate"),
    [
        ("/usr/local/bin/minigpt", "minigpt train", "minigpt evaluate"),
        ("C:/Scripts/minigpt.exe", "minigpt train", "minigpt evaluate"),
        ("/home/me/minigpt/__main__.py", "python -m minigpt train", "python -m minigpt evaluate"),
        ("train.py", "python train.py", "python -m minigpt evaluate"),
        ("/site-packages/pytest/__main__.py", "python train.py", "python -m minigpt evaluate"),
    ],
)
def test_hints_name_what_the_user_typed(
    program: str, train: str, evaluate: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the text of messages, in usage lines and in what is refused."""
    monkeypatch.setattr(sys, "argv", [program])
    assert (typed("train"), typed("evaluate")) == (train, evaluate)
    assert as_typed("first `minigpt train`, then `minigpt evaluate RUN`") == f"first `{train}`, then `{evaluate} RUN`"
    assert as_typed("a minigpt train") == "a minigpt train"
    assert shown(capsys, "train", "--help").startswith(f"usage: {train} [")
    assert main(["evaluate", "--nonsense"]) == 2
    assert f"`{evaluate} --help-all`" in capsys.readouterr().err


def test_a_missing_library_is_no_bug_of_ours(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who forgot to activate the environment is told so, and not to report a bug."""

    def run(values: object) -> int:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setitem(COMMANDS, "train", dataclasses.replace(COMMANDS["train"], run=run))
    assert main(["train"]) == 2
    assert capsys.readouterr().err.startswith("error: torch is not installed for ")
    with pytest.raises(ModuleNotFoundError):
        main(["train", "--debug"])
