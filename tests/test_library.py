"""The library: its names, what importing them costs, and the examples of docs/library.md as a reader pastes them."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command

import minigpt
from minigpt.base.errors import UsageError
from minigpt.training.checkpoints import parameter_hash

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/library.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^## (.*?)$|^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
EXAMPLES = [code for _, code in BLOCKS if code]
NAMES = [
    *("GPT", "GPTConfig", "RunConfig", "train", "load_run", "generate"),
    *("NeuronProbe", "LayerHealth", "find_mlps", "audit", "DeadNeuronCallback", "export_hf"),
]
# Runs each example in a separate namespace and empty directory, in one process that imports torch once.
DRIVER = """
import contextlib, io, json, os, pathlib, sys, traceback
for number, code in enumerate(json.load(sys.stdin)):
    place = pathlib.Path(str(number))
    place.mkdir()
    output, problem = io.StringIO(), ""
    with contextlib.chdir(place), contextlib.redirect_stdout(output):
        try:
            exec(compile(code, f"example {number}", "exec"), {"__name__": "__main__"})
        except BaseException:
            problem = traceback.format_exc()
    print(json.dumps([output.getvalue(), problem]))
"""
SHAPE: dict[str, Any] = {
    "corpus": "text.txt", "n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16, "batch_size": 4, "device": "cpu",
    "dtype": "float32", "threads": 1, "steps": 6, "eval_every": 2, "dropout": 0.1, "lr": 1e-2,
}  # fmt: skip


# Names


def test_the_names_are_these():
    """A name that appears or goes is a decision, not an accident."""
    assert sorted(minigpt.__all__) == sorted([*NAMES, "__version__"])
    assert set(NAMES) <= set(dir(minigpt))


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_name_leads_to_what_carries_it(name: str):
    """A typing slip in one branch would hand out something else."""
    assert getattr(minigpt, name).__name__ == name


def test_a_name_that_is_none_is_refused():
    """`hasattr` must tell, and no text becomes an import."""
    with pytest.raises(AttributeError, match=r"module 'minigpt' has no attribute 'os'; it has GPT, "):
        minigpt.os  # noqa: B018
    assert not hasattr(minigpt, "antigravity")


def test_the_page_names_them_all():
    """The table of docs/library.md is the list of names."""
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", "".join(rows))) == sorted(NAMES)


def test_importing_minigpt_imports_no_more():
    """Whoever asks for the version or for help does not wait for torch."""
    program = (
        "import sys, minigpt; print(minigpt.__version__, dir(minigpt) != []);"
        "print(*sorted(name for name in sys.modules if name.split('.')[0] in ('torch', 'numpy', 'minigpt')))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["0.1.0 True", "minigpt minigpt.base minigpt.base.version"]


def test_type_checkers_see_each_name():
    """The lazy names are imported for type checkers from where they are found at run time."""
    source = (ROOT / "minigpt/__init__.py").read_text(encoding="utf-8")
    imports = re.findall(r"^    from (minigpt\.\S+) import ([\w, ]+)$", source, flags=re.MULTILINE)
    homes = {name: module for module, names in imports for name in names.split(", ")}
    assert sorted(homes) == sorted(NAMES)
    for name, module in homes.items():
        assert getattr(minigpt, name) is getattr(importlib.import_module(module), name)
    assert (ROOT / "minigpt/py.typed").exists()


# Training


def test_callbacks_get_each_evaluation_and_change_nothing(workplace: Path):
    """A watcher that draws random numbers and spoils its record leaves the training equal in every bit."""
    seen: list[dict[str, Any]] = []

    def watch(record: dict[str, Any]) -> None:
        seen.append(dict(record))
        torch.rand(3)
        record.clear()

    plain = minigpt.train(minigpt.RunConfig(**SHAPE), "plain")
    watched = minigpt.train(minigpt.RunConfig(**SHAPE), workplace / "watched", callbacks=[watch, watch])
    assert plain["parameters_sha256"] == watched["parameters_sha256"]
    lines = [json.loads(line) for line in Path("watched/metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if line["kind"] == "eval"]
    assert [record["step"] for record in seen] == [0, 0, 2, 2, 4, 4, 6, 6]
    assert seen[::2] == seen[1::2] == evaluations


def test_a_run_from_python_is_one_of_the_command_line(workplace: Path, minigpt: Command):
    """The same configuration gives the same weights and can be read, sampled and continued by either."""
    import minigpt as library

    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in SHAPE.items())
    assert minigpt(f"train {flags} --out by-command") == 0
    summary = library.train(library.RunConfig(**SHAPE))
    assert summary["directory"] == Path("runs/tiny-relu-s1337")
    run = library.load_run(summary["directory"], "best")
    assert parameter_hash(library.load_run("by-command").model) == summary["parameters_sha256"]
    text = library.generate(run, "a", max_new_tokens=5, temperature=0)
    assert len(text) == 5
    assert text == library.generate(run, "a", max_new_tokens=5, temperature=0)


def test_a_training_that_a_callback_ended_resumes_to_the_same_bits(workplace: Path):
    """What a callback raises is no reason to lose a run."""

    def fail(record: dict[str, Any]) -> None:
        if record["step"] == 4:
            raise ZeroDivisionError

    config = minigpt.RunConfig(**SHAPE, checkpoint_every=2)
    whole = minigpt.train(config, "whole")
    with pytest.raises(ZeroDivisionError):
        minigpt.train(config, "broken", callbacks=[fail])
    resumed = minigpt.train(config, "broken", resume=True)
    assert resumed["parameters_sha256"] == whole["parameters_sha256"]
    with pytest.raises(UsageError, match="resume continues a run; got no directory"):
        minigpt.train(config, resume=True)


# The page


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """What each example printed, and its traceback if it failed."""
    place = tmp_path_factory.mktemp("examples")
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], input=json.dumps(EXAMPLES), cwd=place, env=settings, capture_output=True,
        text=True, timeout=120, check=True,
    )  # fmt: skip
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs_as_it_is_pasted(outcomes: list[tuple[str, str]], number: int):
    """A reader pastes it into an empty directory and sees something."""
    printed, problem = outcomes[number]
    assert problem == ""
    assert printed.strip()


def test_examples_stay_short():
    """Seven examples, none of them long."""
    assert len(EXAMPLES) == 7
    assert max(len(code.strip().splitlines()) for code in EXAMPLES) <= 13
