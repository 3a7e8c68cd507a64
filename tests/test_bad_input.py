"""Mistakes of the user at the command line: each costs one line, its exit code and nothing on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_MODEL, TINY_RUN, Capture, Command, tree_hash
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from minigpt.base.errors import UsageError
from minigpt.benchmarks import suite
from minigpt.cli import COMMANDS, main
from minigpt.training import loop
from minigpt.training.config import RunConfig

# ---------------------------------------------------------------------------------------------- flags, texts, places


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("trian", ("unknown command 'trian'", "did you mean 'train'?", "sample")),
        ("train --n-layers 2", ("unknown flag '--n-layers'", "did you mean '--n-layer'?")),
        ("train --n_layers=2", ("unknown flag '--n-layers'", "did you mean '--n-layer'?")),
        ("train --zzz", ("unknown flag '--zzz'", "--help")),
        ("train text.txt", ("unknown argument 'text.txt'",)),
        ("train --batch 3", ("unknown flag '--batch'",)),  # no abbreviations
        ("train --warm 3", ("unknown flag '--warm'",)),
        ("sample --temp 1", ("unknown flag '--temp'",)),
        ("evaluate --js", ("unknown flag '--js'", "did you mean '--json'?")),
        ("verify one two", ("unknown argument 'two'",)),
        ("train --activation swigul", ("'swigul'", "did you mean 'swiglu'?", "relu, ", "gelu")),
        ("train --activation leaky_relu:x", ("'x'", "leaky_relu")),
        ("train --activation 0=relu", ("no activation for layer 1-3",)),
        ("train --activation 0-9=relu", ("no such layers", "0-9")),
        ("train --d-ff wide", ("--d-ff", "'wide'")),
        ("train --d-ff 0=510", ("no width for layer 1-3",)),
        ("train --recycle ded --recycle-every 5", ("unknown neurons 'ded'", "did you mean 'dead'?", "dormant:0.025")),
        ("train --recycle dormant --recycle-every 5", ("dormant needs a threshold",)),
        ("train --recycle random:0 --recycle-every 5", ("random needs a number",)),
        ("train --recycle dead", ("recycle dead", "recycle-every 0")),
        ("train --recycle-every 5", ("recycle none", "recycle-every 5")),
        ("train --preset tinny", ("unknown preset 'tinny'", "did you mean 'tiny'?", "nanogpt-cpu")),
        ("train --optimizer adamv", ("unknown optimizer 'adamv'", "adamw")),
        ("train --schedule cosin", ("unknown schedule 'cosin'", "cosine")),
        ("train --norm groupnorm", ("unknown norm 'groupnorm'", "rmsnorm")),
        ("train --position alibi", ("unknown position 'alibi'", "rope")),
        ("train --dtype float8", ("unknown dtype 'float8'", "bfloat16")),
        ("train --compile maybe", ("unknown compile 'maybe'", "auto, on, graphs, off")),
        ("train --n-embd 30 --n-head 4", ("n-embd 30", "n-head 4")),
        ("train --n-embd 12 --n-head 4 --position rope", ("even head width", "3")),
        ("train --lr -1", ("lr is too small", "-1")),
        ("train --lr 0", ("lr is too small", "got 0")),
        ("train --lr nan", ("lr is not a finite number",)),
        ("train --lr inf", ("lr is not a finite number",)),
        ("train --lr 1e999", ("lr is not a finite number",)),
        ("train --lr abc", ("--lr", "'abc'")),
        ("train --lr 1e-5 --min-lr 1e-4", ("min-lr", "1e-05", "0.0001")),
        ("train --dropout 1", ("dropout is too large", "below 1")),
        ("train --dropout -0.1", ("dropout is too small",)),
        ("train --beta1 1", ("beta1",)),
        ("train --beta2 -1", ("beta2",)),
        ("train --weight-decay -1", ("weight-decay",)),
        ("train --grad-clip nan", ("grad-clip",)),
        ("train --n-layer 0", ("n-layer", "at least 1")),
        ("train --n-layer 2.5", ("--n-layer", "'2.5'")),
        ("train --n-head 0", ("n-head", "at least 1")),
        ("train --n-embd 0", ("n-embd", "at least 1")),
        ("train --batch-size 0", ("batch-size", "at least 1")),
        ("train --batch-size -4", ("batch-size", "-4")),
        ("train --grad-accumulation 0", ("grad-accumulation", "at least 1")),
        ("train --block-size 0", ("block-size", "at least 1")),
        ("train --steps -1", ("steps", "-1")),
        (f"train --steps {'9' * 400}", ("steps is out of range", "400 digits")),
        (f"train --batch-size {'9' * 30}", ("batch-size",)),
        ("train --seed -1", ("seed",)),
        ("train --seed 1.5", ("--seed", "'1.5'")),
        ("train --threads -1", ("threads",)),
        ("train --bias perhaps", ("--bias", "'perhaps'")),
        ("train --residual=", ("--residual",)),
        ("train --patience 2 --eval-every 0", ("patience 2", "eval-every")),
        ("train --val-fraction 0.6 --test-fraction 0.4", ("val-fraction", "test-fraction")),
        ("train --val-fraction 1", ("val-fraction", "below 1")),
        ("train --tokenizer bpe:x", ("bpe:",)),
        ("train --tokenizer wordpiece", ("wordpiece",)),
        ("train --corpus grammar:x", ("grammar", "'x'")),
        ("train --corpus hf:a/b/c", ("hf:NAME",)),
        ("train --resume run --overwrite", ("--resume", "--overwrite", "choose one")),
        ("train --resume a --out b", ("--resume a", "--out b")),
        ("train --device tpu", ("unknown device 'tpu'", "cuda")),
        ("train --device meta", ("unknown device 'meta'",)),
        ("train --steps", ("--steps", "expected one argument")),
        ("sample --top-k x", ("--top-k", "'x'")),
        ("sample --seed -1", ("seed", "-1")),
        ("evaluate --split dev", ("dev", "val")),
        ("evaluate --eval-tokens -1", ("eval-tokens", "-1")),
    ],
)
def test_a_mistake_in_a_flag_is_named(refused, command: str, says: tuple[str, ...]) -> None:
    """Exit 2: what is wrong, what was given, what is allowed."""
    refused(2, command, says=says)


@pytest.mark.parametrize("name", ["a\tb", "a\nb", "runs/\x1b[2J", "\x00"])
def test_a_run_name_with_control_characters_is_refused(refused, name: str) -> None:
    """It could command the terminal of whoever lists the directory."""
    refused(2, f"train {TINY_RUN} --out", name, says=("control character",))
    refused(2, f"train {TINY_RUN} --corpus", name, says=("control character",))


@pytest.mark.parametrize("command", ["report", "sky", "runs", "verify", "train --out", "sample"])
def test_a_path_that_no_system_can_have_is_refused(refused, command: str) -> None:
    """Half of a surrogate pair has no encoding; a byte that is not UTF-8, which Python shows as such, has."""
    refused(2, command, "\ud800", says=("lone surrogate",))


@pytest.mark.parametrize(
    ("corpus", "says"),
    [
        ("missing.txt", ("'missing.txt'", "stdlib")),
        ("stdlip", ("did you mean 'stdlib'?",)),
        ("shakespear", ("did you mean 'shakespeare'?",)),
        ("empty.txt", ("empty.txt is empty", "0 bytes")),
        ("binary.txt", ("not UTF-8", "offset 3")),
        ("late.txt", ("not UTF-8", "0xff", "offset 15007")),
        ("folder", ("no text in folder", "/folder; it holds 1 (.pdf) and no", ".txt")),
        ("fifo.txt", ("neither a file nor a folder",)),
        ("text.txt/inside", ("text.txt/inside",)),
        ("broken.jsonl", ("broken.jsonl, line 2",)),
        ("broken.parquet", ("not a Parquet file",)),
        ("x" * 5000, ("File name too long",)),
    ],
)
def test_a_corpus_that_cannot_be_read_is_named(refused, workplace: Path, corpus: str, says: tuple[str, ...]) -> None:
    """Exit 3, at once and with the place; a FIFO would otherwise wait for ever."""
    if corpus == "fifo.txt":
        if not hasattr(os, "mkfifo"):
            pytest.skip("this system has no FIFO")
        os.mkfifo(workplace / "fifo.txt")
    (workplace / "empty.txt").touch()
    (workplace / "binary.txt").write_bytes(b"abc\x80\x00\xff" * 999)
    (workplace / "late.txt").write_bytes(b"x" * 15_007 + b"\xff" + b"y" * 5000)
    (workplace / "folder" / "inner").mkdir(parents=True)
    (workplace / "folder" / "note.pdf").write_text("no text file")
    (workplace / "broken.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    (workplace / "broken.parquet").write_bytes(b"PAR1 and no more")
    refused(3, f"train {TINY_MODEL} --steps 1 --corpus", corpus, says=says)


def test_a_part_shorter_than_the_context_is_refused(refused, workplace: Path) -> None:
    """Both sizes are named, for the training part and for the validation part."""
    (workplace / "short.txt").write_text("abcd" * 25)
    flags = "--val-fraction 0.1 --test-fraction 0"
    refused(3, f"train --corpus short.txt --block-size 200 {flags}", says=("train has 90 tokens", "201"))
    refused(3, f"train --corpus short.txt --block-size 16 {flags}", says=("val has 10 tokens", "17"))


def test_evaluation_without_validation_text_is_refused(refused, minigpt: Command) -> None:
    """Unless evaluation is switched off as well."""
    refused(3, "train --corpus text.txt --val-fraction 0", says=("val-fraction is 0", "--eval-every 0"))
    assert minigpt(f"train {TINY_RUN} --val-fraction 0 --eval-every 0 --steps 1 --out run") == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--corpus hf:some/dataset", ("huggingface.co", "hf:some/dataset", "HF_HUB_OFFLINE")),
        ("--corpus shakespeare", ("huggingface.co", "--corpus stdlib")),
        ("--corpus text.txt --tokenizer gpt2", ("gpt2 vocabulary", "TIKTOKEN_CACHE_DIR", "bpe:N")),
    ],
)
def test_without_a_network_it_says_at_once_what_to_do(
    refused, workplace: Path, monkeypatch: pytest.MonkeyPatch, flags: str, says: tuple[str, ...]
) -> None:
    """Exit 3 in seconds, where the libraries beneath would retry for minutes."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("HF_", "HUGGINGFACE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(workplace / "no-cache"))

    def unreachable(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr(socket.socket, "connect", unreachable)
    begun = time.perf_counter()
    refused(3, f"train {TINY_MODEL} {flags}", says=says)
    assert time.perf_counter() - begun < 4


def test_an_absent_device_is_refused(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never silently another one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for device in ("cuda", "cuda:1", "mps"):
        refused(2, f"train --device {device}", says=(f"device {device} is not available", "cpu"))


def test_more_gpus_than_there_are_are_refused(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """And how many there are is said."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    refused(2, "train --device cuda:2", says=("device cuda:2 is not available", "2 cuda, cpu"))


def test_an_occupied_place_is_refused(refused, minigpt: Command, tiny_run: Path, workplace: Path, capsys) -> None:
    """A run, somebody's files, a file, a place below a file: what is there stays."""
    capsys.readouterr()
    refused(2, f"train {TINY_RUN} --out run", says=("run is not empty", "--resume", "--overwrite"))
    (workplace / "mine").mkdir()
    (workplace / "mine" / "thesis.txt").write_text("years of work")
    refused(2, f"train {TINY_RUN} --out mine", says=("mine is not empty",))
    refused(2, f"train {TINY_RUN} --out mine --overwrite", says=("holds no run",))
    refused(5, f"train {TINY_RUN} --out text.txt", says=("text.txt is a file",))
    refused(5, f"train {TINY_RUN} --out text.txt --overwrite", says=("text.txt is a file",))
    shutil.rmtree(workplace / "data")
    refused(5, f"train {TINY_RUN} --out text.txt/below", says=("text.txt is a file",))
    refused(5, f"train {TINY_RUN} --out", "x" * 5000, says=("File name too long",))
    refused(4, "train --resume mine", says=("no run at mine",))


def test_a_place_that_cannot_be_written_is_refused_before_the_text_is_prepared(
    refused, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only mount, say."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    refused(5, f"train {TINY_RUN} --out run", says=("cannot be written",))


@pytest.mark.parametrize("command", ["sample", "evaluate", "verify", "train --resume"])
def test_commands_without_any_run_say_so(refused, command: str) -> None:
    """Exit 4 and what to do first; a directory that is no run is told apart."""
    refused(4, command, says=("no run under runs", "train"))
    if command != "train --resume":
        refused(4, f"{command} .", says=("no run at .",))
        refused(5, command, "x" * 5000, says=("File name too long",))


REFUSED_SAMPLING = (
    ("--temperature -1", "temperature"),
    ("--temperature nan", "temperature"),
    ("--temperature inf", "temperature"),
    ("--top-k -1", "top-k"),
    ("--top-p 0", "top-p"),
    ("--top-p 1.1", "top-p"),
    ("--top-p nan", "top-p"),
    ("--max-new-tokens -1", "max-new-tokens"),
    ("--num-samples 0", "num-samples"),
    (f"--num-samples {'9' * 30}", "num-samples"),
    (f"--threads {'9' * 30}", "threads"),
    ("--checkpoint newest", "unknown checkpoint 'newest'"),
)


def test_sampling_settings_are_refused(refused, tiny_run: Path, capsys: Capture) -> None:
    """-1 would invert a distribution, 0 samples print nothing, and so on."""
    capsys.readouterr()
    for flags, says in REFUSED_SAMPLING:
        refused(2, f"sample run {flags}", says=(says,))


# ---------------------------------------------------------------------------------------------- configuration files


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("steps = ", ("cannot read config.toml", "Invalid value")),
        ("stepz = 3", ("unknown key 'stepz'", "did you mean 'steps'?")),
        ("steps = 'many'", ("steps", "'many'", "int")),
        ("steps = true", ("steps", "True", "int")),
        ("bias = 1", ("bias", "bool")),
        ("lr = 'fast'", ("lr", "float")),
        ("lr = nan", ("lr is not a finite number",)),
        ("lr = inf", ("lr is not a finite number",)),
        ("steps = 1\nsteps = 2", ("config.toml",)),
        ("n-layer = 1\nn_layer = 2", ("n_layer twice",)),
        ("activation = 'os.system'", ("unknown activation 'os.system'",)),
        ('out = "elsewhere"', ("unknown key 'out'",)),
        ("[model]\nn_layer = 2", ("unknown key 'model'",)),
        ("x = " + "[" * 10_000, ("nested too deeply",)),
        (f"steps = {'9' * 400}", ("steps", "400 digits")),
        ('activation = "a\\u0007"', ("control character",)),
        ("\x00", ("cannot read",)),
    ],
)
def test_a_mistake_in_a_configuration_file_is_named(refused, workplace: Path, content: str, says) -> None:
    """TOML is checked as strictly as flags."""
    (workplace / "config.toml").write_text(content)
    refused(2, "train --config config.toml", says=says)


def test_a_configuration_file_is_never_executed(refused, workplace: Path) -> None:
    """Neither as .py nor as TOML; missing files, folders and foreign bytes are named as well."""
    program = "open('pwned', 'w').close()\n"
    (workplace / "config.py").write_text(program)
    (workplace / "config.toml").write_text(program)
    (workplace / "folder.toml").mkdir()
    (workplace / "latin.toml").write_bytes(b"corpus = '\xe9'")
    refused(2, "train --config config.py", says=("TOML only", "config.py"))
    for name in ("config", "folder", "latin", "missing"):
        refused(2, f"train --config {name}.toml", says=(f"{name}.toml",))
    assert not (workplace / "pwned").exists()


NAMES = (
    "os.system", "torch.nn.ReLU", "__import__", "__import__('os').system('touch pwned')", "eval", "forward", "torch",
    "__class__", "../relu", "nn.Module", "relu.__globals__", "{0.__class__}", "%s", "antigravity",
)  # fmt: skip
watched: list[str] | None = None


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook; it cannot be removed, only told not to watch. Type hints are compiled, names must not be."""
    dangerous = ("import", "os.system", "os.exec", "subprocess.Popen", "socket.connect")
    compiled = event == "compile" and any(name in str(arguments[0]) for name in NAMES)
    if watched is not None and (event in dangerous or compiled):
        watched.append(f"{event} {arguments[0]}")


def test_an_activation_name_is_never_looked_up_outside_the_registry(refused) -> None:
    """No import, no attribute, no code: the interpreter's own audit sees nothing, and it is not blind."""
    global watched
    refused(2, "train --activation nonsense")  # whatever is imported late has been imported now
    sys.addaudithook(audit)
    watched = []
    try:
        for name in NAMES:
            refused(2, "train --activation", name, says=("unknown activation",))
        assert watched == []
        with pytest.raises(ImportError):
            __import__("no_such_module")
        compile("torch.nn", "a test", "eval")
        assert [entry.split()[0] for entry in watched] == ["import", "compile"]
    finally:
        watched = None


# ---------------------------------------------------------------------------------------------- garbage

OPTIONS = sorted(
    {f"--{item.name.replace('_', '-')}" for item in dataclasses.fields(RunConfig)}
    | {"--config", "--out", "--resume", "--overwrite", "--prompt", "--top-k", "--temperature", "--json", "--split"}
    | {"--checkpoint", "--num-samples", "--eval-tokens", "-h", "--", "-", "--no-bias", "--max-new-tokens"}
)
NUMBERS = (
    st.integers().map(str) | st.floats().map(str) | st.sampled_from(["1" * 30, "0x10", "1_0", "", "-0.0", "1e400"])
)
WORDS = (
    st.text(st.characters(codec="utf-8"), max_size=8) | st.text(max_size=3) | NUMBERS | st.sampled_from(["a=b", "."])
)
ARGUMENTS = st.one_of(
    st.sampled_from(OPTIONS),
    WORDS,
    st.tuples(st.sampled_from(OPTIONS), WORDS).map("=".join),
    st.text().map("--".__add__),
)


@given(st.sampled_from([*COMMANDS, "x", ""]), st.lists(ARGUMENTS, max_size=5))
@example("train", ["--steps", "9" * 400])
@example("sample", ["\ud800"])
@example("sample", ["--threads", "9" * 30])
@example("train", ["--out", "\x00"])
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_never_a_bug(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, command: str, arguments: list[str]
) -> None:
    """Whatever is typed: help, or one line and an exit code that says whose fault it is; never 1, never a file."""

    def not_here(*arguments: object, **options: object) -> None:
        raise UsageError("training and measuring are not what is tested here")

    before = tree_hash(workplace)
    output, error = io.StringIO(), io.StringIO()
    with monkeypatch.context() as patch, contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
        patch.setattr(loop, "train", not_here)
        patch.setattr(suite, "run_benchmarks", not_here)
        code = main([command, *arguments])
    assert code in (0, 2, 3, 4, 5)
    if code:
        assert error.getvalue().startswith("error: ")
        assert error.getvalue().count("\n") == 1
    assert "Traceback" not in output.getvalue() + error.getvalue()
    assert tree_hash(workplace) == before
