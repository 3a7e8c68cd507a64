"""The command line: what it accepts, and that each mistake costs one line, its exit code and nothing on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from conftest import TINY_MODEL, TINY_RUN, Command, tree_hash
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from minigpt.cli import COMMANDS, main
from minigpt.commands import train
from minigpt.errors import UsageError
from minigpt.flags import Parser, read_toml
from minigpt.model import GPT, GPTConfig
from minigpt.training import checkpoints, loop, runtime
from minigpt.training.config import PRESETS, RunConfig, check
from minigpt.training.run import model_config

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def refused(minigpt: Command, workplace: Path, capsys: Capture):  # type: ignore[no-untyped-def]
    """Assert that a command fails with one line that says certain things, and that nothing on disk changed."""

    def attempt(code: int, command: str, *more: str, says: tuple[str, ...] = ()) -> str:
        before = tree_hash(workplace)
        assert minigpt(command, *more) == code
        output, error = capsys.readouterr()
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert error.endswith("\n")
        assert "Traceback" not in output + error
        for part in says:
            assert part in error
        assert tree_hash(workplace) == before
        return error

    return attempt


def config_of(*argv: str) -> RunConfig:
    """What these flags of `train` describe, before anything is resolved."""
    parser = Parser(prog="minigpt train", description="")
    train.add_flags(parser)
    return dataclasses.replace(RunConfig(), **train.configured(parser.parse(argv)))


# ---------------------------------------------------------------------------------------------- mistakes


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
        ("train --preset tinny", ("unknown preset 'tinny'", "did you mean 'tiny'?", "nanogpt-cpu")),
        ("train --optimizer adamv", ("unknown optimizer 'adamv'", "adamw")),
        ("train --schedule cosin", ("unknown schedule 'cosin'", "cosine")),
        ("train --norm batchnorm", ("unknown norm 'batchnorm'", "rmsnorm")),
        ("train --position alibi", ("unknown position 'alibi'", "rope")),
        ("train --dtype float8", ("unknown dtype 'float8'", "bfloat16")),
        ("train --compile maybe", ("unknown compile 'maybe'", "auto, on, off")),
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


@pytest.mark.parametrize(
    ("corpus", "says"),
    [
        ("missing.txt", ("'missing.txt'", "stdlib")),
        ("stdlip", ("did you mean 'stdlib'?",)),
        ("shakespear", ("did you mean 'shakespeare'?",)),
        ("empty.txt", ("empty.txt is empty", "0 bytes")),
        ("binary.txt", ("not UTF-8", "offset 3")),
        ("late.txt", ("not UTF-8", "0xff", "offset 15007")),
        ("folder", ("no text in folder folder", ".txt")),
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
    (workplace / "folder" / "note.md").write_text("no text file")
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


def test_an_occupied_place_is_refused(refused, minigpt: Command, tiny_run: Path, workplace: Path, capsys) -> None:
    """A run, somebody's files, a file, a place below a file: what stands there stays."""
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


# ---------------------------------------------------------------------------------------------- the machine


def test_what_cannot_be_compiled_is_refused(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """The L1 term with --compile on; and compiling without a compiler."""
    refused(2, f"train {TINY_RUN} --compile on --l1 1", says=("cannot compile", "L1", "--compile off"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    refused(2, f"train {TINY_RUN} --compile on", says=("cannot compile", "g++"))


def test_muon_on_an_old_torch_is_refused(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names both versions."""
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    refused(2, f"train {TINY_RUN} --optimizer muon", says=("torch 2.9", torch.__version__))


EXHAUSTED = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA: device is full"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes"),
]


@pytest.mark.parametrize("error", EXHAUSTED, ids=lambda error: type(error).__name__)
def test_running_out_of_memory_is_advised_on(
    minigpt: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, error: Exception
) -> None:
    """Exit 8 with a batch that is half as large, the same number of tokens a step, and no save on the way out."""
    original = loop.take_step

    def exhausted(*arguments: Any) -> Any:
        if arguments[5] == 6:
            raise error
        return original(*arguments)

    monkeypatch.setattr(loop, "take_step", exhausted)
    assert minigpt(f"train {TINY_RUN} --out run") == 8
    line = capsys.readouterr().err
    assert line.startswith("error: out of memory")
    assert "--batch-size 2 --grad-accumulation 2" in line
    assert line.count("\n") == 1
    assert checkpoints.steps_of(workplace / "run") == [0, 4]
    assert minigpt("verify run") == 0


def test_a_model_that_does_not_fit_is_out_of_memory(
    minigpt: Command, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """While it is built for training, and wherever else memory ends: 8, not 1."""
    errors: list[Exception] = []

    def exhausted(*arguments: object, **options: object) -> None:
        raise errors[-1]

    capsys.readouterr()
    monkeypatch.setattr(loop, "GPT", exhausted)
    monkeypatch.setattr("minigpt.training.inference.GPT", exhausted)
    for error in EXHAUSTED:
        errors.append(error)
        assert minigpt(f"train {TINY_RUN} --out large") == 8
        assert "--batch-size" in capsys.readouterr().err
        assert not Path("large").exists()
        assert minigpt("sample run") == 8
        assert capsys.readouterr().err.startswith("error: out of memory")


def test_a_bug_is_one_line_and_debug_shows_where(refused, minigpt: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 1 for what nobody foresaw; --debug lets every error through."""

    def bug(config: RunConfig) -> RunConfig:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(runtime, "resolve", bug)
    refused(1, "train", says=("unexpected ZeroDivisionError: two lines", "--debug"))
    with pytest.raises(ZeroDivisionError):
        minigpt("train --debug")
    with pytest.raises(UsageError):
        minigpt("train --lr abc --debug")


# ---------------------------------------------------------------------------------------------- what is accepted


def test_spellings_of_a_flag() -> None:
    """Dashes and underscores, a space and an equals sign, switches with and without a value."""
    for argv in (["--n-layer", "7"], ["--n_layer", "7"], ["--n-layer=7"], ["--n_layer=7"]):
        assert config_of(*argv).n_layer == 7
    assert config_of("--tie-embeddings").tie_embeddings is True
    for text, value in {
        "true": True,
        "on": True,
        "YES": True,
        "1": True,
        "false": False,
        "Off": False,
        "0": False,
    }.items():
        assert config_of("--bias", text).bias is value
        assert config_of(f"--residual={text}").residual is value
    assert config_of("--bias", "--steps", "3").bias is True
    assert config_of("--lr=1e-2", "--lr", "2e-2").lr == 0.02


def test_a_value_may_contain_an_equals_sign(minigpt: Command, workplace: Path) -> None:
    """The mix by layer is written with them."""
    mix = "0=relu,1=gelu"
    assert config_of("--activation", mix).activation == config_of(f"--activation={mix}").activation == mix
    assert minigpt(f"train {TINY_RUN} --steps 1 --activation=0=relu,1=gelu --out run") == 0
    layers = json.loads((workplace / "run/summary.json").read_text())["val"]["layers"]
    assert [layer["activation"] for layer in layers] == ["relu", "gelu"]


def test_precedence(workplace: Path) -> None:
    """Defaults, then the preset, then the file, then flags; the file may name the preset."""
    (workplace / "c.toml").write_text('preset = "nanogpt-cpu"\nbatch-size = 99\nlr = 1\nn_head = 8\n')
    config = config_of("--config", "c.toml", "--batch-size", "7")
    assert (config.preset, config.steps, config.batch_size, config.lr, config.n_head) == (
        "nanogpt-cpu",
        2000,
        7,
        1.0,
        8,
    )
    assert config.seed == RunConfig.seed
    assert config_of("--config", "c.toml", "--preset", "tiny").steps == RunConfig.steps


def test_the_presets_are_what_they_are_named_after() -> None:
    """nanoGPT's two character models with its settings, and GPT-2 small with its 124 million parameters."""
    cpu = config_of("--preset", "nanogpt-cpu")
    assert (cpu.n_layer, cpu.n_head, cpu.n_embd, cpu.block_size, cpu.batch_size) == (4, 4, 128, 64, 12)
    assert (cpu.bias, cpu.dropout, cpu.steps, cpu.lr, cpu.min_lr, cpu.warmup_steps) == (False, 0, 2000, 1e-3, 1e-4, 100)
    char = config_of("--preset", "nanogpt-char")
    assert (char.n_layer, char.n_head, char.n_embd, char.block_size, char.batch_size) == (6, 6, 384, 256, 64)
    assert (char.bias, char.dropout, char.steps) == (False, 0.2, 5000)
    for config in (cpu, char):
        assert (config.beta1, config.beta2, config.weight_decay, config.grad_clip) == (0.9, 0.99, 0.1, 1.0)
        assert (config.tokenizer, config.val_fraction, config.test_fraction) == ("char", 0.1, 0.0)
        assert (config.schedule, config.optimizer, config.grad_accumulation) == ("cosine", "adamw", 1)
    small = config_of("--preset", "gpt2-small")
    with torch.device("meta"):
        parameters = GPT(
            model_config(runtime.resolve(dataclasses.replace(small, device="cpu")), 50257)
        ).parameter_count()
    assert round(parameters / 1e6) == 124
    for name in PRESETS:
        check(config_of("--preset", name))


def test_run_and_model_configuration_agree() -> None:
    """Every field of the architecture is a flag of the same name, type and default."""
    run = {item.name: item for item in dataclasses.fields(RunConfig)}
    hints = get_type_hints(RunConfig), get_type_hints(GPTConfig)
    for item in dataclasses.fields(GPTConfig):
        if item.name != "vocab_size":
            assert hints[0][item.name] is hints[1][item.name]
            if item.name != "attention":
                assert run[item.name].default == item.default, item.name


HELP = """
import contextlib, io, sys
from minigpt.cli import COMMANDS, main
for command in ("", *COMMANDS):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        for flag in ("-h", "--help"):
            assert main([command, flag] if command else [flag]) == 0
    print(repr((command, text.getvalue())))
heavy = {"torch", "datasets", "scipy", "matplotlib", "numpy", "tiktoken", "transformers", "pyarrow", "tqdm"}
print(repr(sorted(heavy & set(sys.modules))))
"""


def test_help_lists_every_flag_and_imports_nothing_heavy() -> None:
    """`--help` of every command exits 0 and needs no torch, so that it answers at once."""
    done = subprocess.run(
        [sys.executable, "-c", HELP], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    *texts, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    assert done.stderr == ""
    helps = dict(map(eval, texts))
    assert all(name in helps[""] for name in COMMANDS)
    for name, command in COMMANDS.items():
        parser = Parser(prog=name, description="")
        command.add_flags(parser)
        for action in parser._actions:
            assert (action.option_strings or [action.metavar])[-1] in helps[name]
            assert action.help
    assert all(f"--{item.name.replace('_', '-')}" in helps["train"] for item in dataclasses.fields(RunConfig))


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

    def no_training(*arguments: object, **options: object) -> None:
        raise UsageError("training is not what is tested here")

    before = tree_hash(workplace)
    output, error = io.StringIO(), io.StringIO()
    with monkeypatch.context() as patch, contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
        patch.setattr(loop, "train", no_training)
        code = main([command, *arguments])
    assert code in (0, 2, 3, 4, 5)
    if code:
        assert error.getvalue().startswith("error: ")
        assert error.getvalue().count("\n") == 1
    assert "Traceback" not in output.getvalue() + error.getvalue()
    assert tree_hash(workplace) == before


def toml(config: RunConfig) -> str:
    """A configuration as TOML; a value that follows from the others is left out."""
    values = {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
    return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items())


def value_of(item: dataclasses.Field[Any], hint: Any) -> st.SearchStrategy[Any]:
    """Values that a field allows, by type alone."""
    kinds = {
        int: st.integers(0, 2**62),
        float: st.floats(allow_nan=False, allow_infinity=False),
        bool: st.booleans(),
        str: st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
        type(None): st.none(),
    }
    if item.name == "preset":
        return st.sampled_from(sorted(PRESETS))
    return st.one_of([kinds[option] for option in get_args(hint) or (hint,)])


CONFIGS = st.builds(
    RunConfig,
    **{item.name: value_of(item, get_type_hints(RunConfig)[item.name]) for item in dataclasses.fields(RunConfig)},
)


@given(CONFIGS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_configuration_survives_toml_and_flags(workplace: Path, config: RunConfig) -> None:
    """parse(dump(c)) == c, through a file and through the command line."""
    path = workplace / "config.toml"
    path.write_text(toml(config), encoding="utf-8", newline="")
    assert RunConfig(**read_toml(path, RunConfig)) == config
    flags = [f"--{name}={value}" for name, value in dataclasses.asdict(config).items() if value is not None]
    stated = {name for name, value in dataclasses.asdict(config).items() if value is not None}
    parsed = config_of(*flags)
    assert all(getattr(parsed, name) == getattr(config, name) for name in stated)
