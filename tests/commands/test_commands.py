"""The commands that read a run: evaluate, verify; and the two lists, corpora and activations."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY_MODEL, TINY_RUN, tree_hash

from minigpt.activations import init_gain, list_activations
from minigpt.base.errors import CheckpointError
from minigpt.base.health_columns import glossary_markdown
from minigpt.base.storage import parse_json
from minigpt.cli import main
from minigpt.training import checkpoints, run_directory

Capture = pytest.CaptureFixture[str]
PROJECT = Path(__file__).parents[2]


# ---------------------------------------------------------------------------------------------- evaluate, verify


def test_evaluating_a_finished_run_repeats_its_last_record(command, place: Path) -> None:
    """Strict JSON, and the same bits as at the end of the training."""
    code, output, _ = command("evaluate --json")
    assert code == 0
    record = parse_json(output, "the output", CheckpointError)
    assert record.pop("run") == str(Path("runs/first"))
    last = [r for r in run_directory.read_metrics(place / "runs/first") if r["kind"] == "eval"][-1]
    assert record == last
    assert record["loss"].hex() == last["loss"].hex()


def test_evaluate_prints_loss_and_health(command) -> None:
    """One line, the table of layers, and a warning mark where tokens are few."""
    code, output, _ = command("evaluate --split train --eval-tokens 200")
    assert code == 0
    assert "train " in output
    assert "bits/byte" in output
    assert "! only" in output
    assert [line.split()[1] for line in output.splitlines() if line.split()[:1] in (["0"], ["1"])] == ["64", "64"]
    assert "relu, counted on 208 tokens (! fewer than 65,536" in output


def test_opening_the_test_part_is_recorded(command, place: Path) -> None:
    """The record holds what was printed; train and val leave none."""
    for split in ("train", "val"):
        assert command(f"evaluate --split {split}")[0] == 0
    before = tree_hash(place)
    assert command("evaluate")[0] == 0
    assert tree_hash(place) == before
    code, output, _ = command("evaluate --split test --json")
    event = run_directory.read_metrics(place / "runs/first")[-1]
    assert code == 0
    assert (event["kind"], event["event"], event["split"]) == ("event", "test_opened", "test")
    printed = json.loads(output)
    assert {key: event[key] for key in ("loss", "tokens", "step")} == {
        key: printed[key] for key in ("loss", "tokens", "step")
    }
    assert command("verify")[0] == 0


def test_evaluation_needs_its_own_text(command, place: Path) -> None:
    """Another text gives another loss: exit 4. A part that was never set aside: exit 3."""
    assert command(f"train {TINY_RUN} --steps 2 --test-fraction 0 --out bare")[0] == 0
    code, _, error = command("evaluate bare --split test")
    assert code == 3
    assert "--test-fraction" in error
    (place / "text.txt").write_text("another text " * 999)
    code, _, error = command("evaluate bare")
    assert code == 4
    assert "text.txt" in error


def test_verify_lists_what_it_checked(command, place: Path) -> None:
    """As lines or as JSON; the first failure gives the exit code, the rest is still checked."""
    parts = ["configuration", "tokenizer", "log", "checkpoint of step 8", "checkpoint of step 12"]
    expected = [*parts, "environment", "summary"]
    code, output, _ = command("verify")
    assert (code, output.splitlines()) == (0, [f"{what}: ok" for what in expected])
    code, output, _ = command("verify --json")
    assert (code, json.loads(output)) == (0, dict.fromkeys(expected, "ok"))
    (checkpoints.directory_of(place / "runs/first", 8) / "optimizer.safetensors").write_bytes(b"?")
    code, output, error = command("verify runs/first --json")
    assert (code, error) == (4, "")
    found = json.loads(output)
    assert "optimizer.safetensors" in found.pop("checkpoint of step 8")
    assert set(found.values()) == {"ok"}


@pytest.mark.parametrize(
    "architecture",
    [
        "--activation swiglu",
        "--activation 0=relu2,1=geglu --d-ff 24",
        "--activation prelu --tie-embeddings off",
        "--activation softmax --residual off",
        "--activation leaky_relu:0.2 --norm rmsnorm --position rope --bias off --tie-embeddings off",
        "--activation gelu --norm none --init matched --tokenizer bpe:260",
        "--activation silu --tokenizer byte --optimizer lion",
    ],
)
def test_every_architecture_is_read_back(command, architecture: str) -> None:
    """Train, verify, evaluate to the same loss, sample."""
    assert command(f"train {TINY_RUN} --steps 3 {architecture} --out runs/other")[0] == 0
    assert command("verify runs/other")[0] == 0
    summary = json.loads(Path("runs/other/summary.json").read_text())
    assert json.loads(command("evaluate runs/other --json")[1])["loss"] == summary["val"]["loss"]
    code, output, _ = command("sample runs/other --max-new-tokens 20 --prompt", "am a")
    assert code == 0
    assert output.startswith("am a")


def test_a_training_names_commands_that_work(command, place: Path) -> None:
    """What it prints under "next" runs, also where the text lacks the letters of the usual prompt."""
    (place / "capitals.txt").write_text("The end of The Tale. " * 500)
    for corpus, prompted in (("text.txt", False), ("capitals.txt", True)):
        output = command(f"train {TINY_MODEL} --corpus {corpus} --steps 1 --out", f"runs/of {corpus}")[1]
        lines = [line.split("(")[0] for line in output.splitlines() if "python sample.py" in line or "evaluate" in line]
        assert len(lines) == 2
        assert ("--prompt 'The '" in lines[0]) == prompted
        for line in lines:
            words = shlex.split(line.removeprefix("next:"))
            words = words[words.index("sample.py") :] if "sample.py" in words else words[words.index("evaluate") :]
            assert command(words[0].removesuffix(".py"), *words[1:])[0] == 0


# ---------------------------------------------------------------------------------------------- lists


def test_activations_are_listed(command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry of the registry with its formula and source, and whether it is gated."""
    monkeypatch.setenv("COLUMNS", "200")
    code, output, error = command("activations")
    assert (code, error) == (0, "")
    for entry in list_activations():
        line = next(line for line in output.splitlines() if line.startswith(f"{entry.name} "))
        assert entry.summary in line
        assert entry.source in line
        assert line.endswith("  yes") == entry.gated
    listed = json.loads(command("activations --json")[1])
    assert list(listed) == [entry.name for entry in list_activations()]
    assert listed["swiglu"]["gated"] is True
    assert listed["leaky_relu"]["arguments"]


def test_the_table_of_activations_is_markdown(command) -> None:
    """A row for each entry, with the figures that the code computes; docs/activations.md holds these lines."""
    code, output, error = command("activations --markdown")
    assert (code, error) == (0, "")
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in output.splitlines()[2:]]
    for row, entry in zip(rows, list_activations(), strict=True):
        name, formula, source, gated, exact_zeros, slope, monotone, gain = row
        assert name.startswith(f"`{entry.name}`")
        assert (formula.replace("\\|", "|"), source) == (entry.summary, entry.source)
        assert [flag == "yes" for flag in (gated, exact_zeros, monotone)] == [
            entry.gated, entry.exact_zeros, entry.monotone
        ]  # fmt: skip
        bound = "∞" if entry.slope_bound is None else f"{entry.slope_bound:.4g}"
        assert slope == (bound if entry.elementwise else "–")
        assert gain == (f"{init_gain(entry.name, 512):.4g}" if entry.elementwise else "by width")
        assert all(f"`{argument}={value:g}`" in name for argument, value in entry.arguments)


def test_the_glossary_needs_no_run(capsys: Capture) -> None:
    """What the figures on neurons mean can be read without a training."""
    assert main(["neurons", "--glossary"]) == 0
    assert capsys.readouterr().out == glossary_markdown() + "\n"


def test_corpora_are_listed(command, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they are, where from, under which licence, and which of them need the network."""
    monkeypatch.setenv("COLUMNS", "200")
    code, output, error = command("corpora")
    assert (code, error) == (0, "")
    listed = json.loads(command("corpora --json")[1])
    assert len(output.splitlines()) == 1 + len(listed)
    for name, entry in listed.items():
        line = next(line for line in output.splitlines() if line.startswith(name))
        assert entry["licence"] in line
        assert (line.endswith("needed once")) == entry["needs_network"]
    assert not listed["stdlib"]["needs_network"]
    assert listed["shakespeare"]["needs_network"]


def test_a_narrow_terminal_is_no_obstacle() -> None:
    """Where the encoding has no Greek or Japanese, a question mark stands in; the command succeeds."""
    command = [sys.executable, "-m", "minigpt", "activations"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert b"?(z)" in done.stdout  # z · Φ(z)
    assert done.stderr == b""
