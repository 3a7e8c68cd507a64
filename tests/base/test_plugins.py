"""Plugins: the user's code runs when the user names it, is part of what a run is, and never runs otherwise."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TINY_RUN, Capture, Command

from minigpt.activations import registry
from minigpt.base import plugins
from minigpt.training import run_directory

SOURCE = """
import torch
from minigpt.activations.registry import activation

@activation(summary="max(z, 0)", source="a test", slope_bound=1.0, monotone=True, exact_zeros=True)
def my_relu(z):
    return torch.relu(z)
"""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that ran no plugin, before and after."""
    forget(monkeypatch)
    known = dict(registry._REGISTRY), dict(registry._CANONICAL_NAMES)
    yield
    for held, before in zip((registry._REGISTRY, registry._CANONICAL_NAMES), known, strict=True):
        held.clear()
        held.update(before)
    sys.modules.pop("mine", None)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a new process."""
    monkeypatch.setattr(plugins, "_loaded", [])
    registry._REGISTRY.pop("my_relu", None)
    registry._CANONICAL_NAMES.pop("my_relu", None)
    sys.modules.pop("mine", None)


@pytest.mark.parametrize("name", ["mine.py", "mine"])
def test_a_run_keeps_its_plugin_in_mind(
    minigpt: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, name: str
):
    """Trained with a plugin, a run is opened, sampled and continued with it, and says so without it."""
    Path("mine.py").write_text(SOURCE)
    assert minigpt(f"train {TINY_RUN} --activation my_relu --plugin {name} --out run") == 0
    stated = json.loads(Path("run/config.json").read_text())
    summary = run_directory.read_summary(workplace / "run")
    assert stated["plugin"] == (str(workplace / name) if name.endswith(".py") else name)
    assert summary["identity"]["plugin_sha256"] == stated["plugin_sha256"]
    for command in ("sample run --max-new-tokens 3", "evaluate run", "neurons run --tokens 64", "train --resume run"):
        forget(monkeypatch)
        assert minigpt(command) == 2
        assert f"needs the code of a plugin; none was given; add --plugin {stated['plugin']}" in capsys.readouterr().err
        assert minigpt(f"{command} --plugin {name}") == 0
    capsys.readouterr()
    assert minigpt(f"verify run --plugin {name}") == 0


def test_the_weights_are_those_of_the_same_formula(minigpt: Command, workplace: Path):
    """A plugin changes what is computed by its formula alone."""
    Path("mine.py").write_text(SOURCE)
    assert minigpt(f"train {TINY_RUN} --out built-in") == 0
    assert minigpt(f"train {TINY_RUN} --activation my_relu --plugin mine.py --out own") == 0
    hashes = {run_directory.read_summary(workplace / run)["parameters_sha256"] for run in ("built-in", "own")}
    assert len(hashes) == 1
    assert "plugin" not in json.loads(Path("built-in/config.json").read_text())


def test_another_version_is_refused(
    minigpt: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
):
    """The same name with other code would compute something else; a moved file with the same code is welcome."""
    Path("mine.py").write_text(SOURCE)
    assert minigpt(f"train {TINY_RUN} --activation my_relu --plugin mine.py --out run") == 0
    Path("moved.py").write_text(SOURCE)
    Path("mine.py").write_text(SOURCE.replace("relu(z)\n", "relu(z) * 2\n"))
    forget(monkeypatch)
    assert minigpt("sample run --plugin mine.py") == 4
    assert "was made with another version of its plugin" in capsys.readouterr().err
    forget(monkeypatch)
    assert minigpt("sample run --max-new-tokens 3 --plugin moved.py") == 0


def test_no_file_runs_a_plugin(minigpt: Command, workplace: Path, capsys: Capture):
    """A run, a configuration or an environment from a stranger names code; naming is all that it does."""
    Path("mine.py").write_text("raise SystemExit(99)")
    Path("flags.toml").write_text('plugin = "mine.py"')
    assert minigpt("train --config flags.toml") == 2
    assert "unknown key 'plugin'" in capsys.readouterr().err
    assert minigpt(f"train {TINY_RUN} --out run") == 0
    stated = json.loads(Path("run/config.json").read_text())
    Path("run/config.json").write_text(json.dumps({**stated, "plugin": "mine.py", "plugin_sha256": "0" * 64}))
    assert minigpt("sample run") == 2
    assert "add --plugin mine.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("absent.py", "", "no plugin 'absent.py'; nothing is there; give a .py file or an importable module"),
        ("absent.module", "", "no plugin 'absent.module'"),
        ("mine.py", "1 / 0", "the plugin mine.py failed; ZeroDivisionError: division by zero; mend it"),
        ("mine.py", "def", "the plugin mine.py failed; SyntaxError"),
        ("mine", "import nothing_like_it", "the plugin mine failed; ModuleNotFoundError"),
    ],
)
def test_a_plugin_that_cannot_run_is_one_line(
    minigpt: Command, workplace: Path, capsys: Capture, name: str, source: str, message: str
):
    """A slip of the user's is no bug of ours."""
    Path("mine.py").write_text(source)
    assert minigpt(f"activations --plugin {name}") == 2
    assert message in capsys.readouterr().err
    assert plugins.record() == {}


def test_a_second_plugin_is_refused(minigpt: Command, workplace: Path, capsys: Capture):
    """A run names one."""
    Path("mine.py").write_text(SOURCE)
    Path("other.py").write_text("x = 1")
    assert minigpt("activations --plugin mine.py") == 0
    assert "my_relu" in capsys.readouterr().out
    assert minigpt("activations --plugin other.py") == 2
    assert "one plugin in a process" in capsys.readouterr().err
