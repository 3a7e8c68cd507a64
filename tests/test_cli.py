"""The command line: what it accepts and lists, and how it ends when the machine or the program falls short."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from conftest import TINY_RUN, Capture, Command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minigpt import cli
from minigpt.base.errors import UsageError
from minigpt.base.flags import Parser, read_toml
from minigpt.cli import COMMANDS, main
from minigpt.commands import train_model
from minigpt.model import GPT, GPTConfig
from minigpt.training import checkpoints, loop, runtime
from minigpt.training.config import PRESETS, RunConfig, check
from minigpt.training.run import model_config


def config_of(*argv: str) -> RunConfig:
    """What these flags of `train` describe, before anything is resolved."""
    parser = Parser(prog="minigpt train", description="")
    train_model.add_flags(parser)
    return dataclasses.replace(RunConfig(), **train_model.configured(parser.parse(argv)))


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
            assert hints[0][item.name] == hints[1][item.name]
            if item.name != "attention":
                assert run[item.name].default == item.default, item.name


def test_a_path_with_a_nul_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """`report` of one used to be a bug of ours; no system takes such a path."""
    for words in (["report", "\0"], ["verify", "a\0b"], ["train", "--out", "\0"], ["train", "--corpus", "a\0"]):
        assert main(words) == 2, words
        error = capsys.readouterr().err
        assert "NUL" in error
        assert error.count("\n") == 1


HELP = """
import contextlib, io, sys
from minigpt.cli import COMMANDS, main
for command in ("", *COMMANDS):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        for flag in ("-h", "--help", "--help-all"):
            assert main([command, flag] if command else [flag]) == 0
    print(repr((command, text.getvalue())))
heavy = {"torch", "datasets", "scipy", "matplotlib", "numpy", "tiktoken", "transformers", "pyarrow", "tqdm"}
print(repr(sorted(heavy & set(sys.modules))))
"""


def test_help_all_lists_every_flag_and_imports_nothing_heavy() -> None:
    """Help of every command exits 0 and needs no torch, so that it answers at once."""
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
        # NOTE: argparse drops a value that is `--`; none of our flags has a use for it. A leading `~` means a home.
        str: st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])).filter(
            lambda text: text != "--" and not text.startswith("~")
        ),
        type(None): st.none(),
    }
    if item.name == "preset":
        return st.sampled_from(sorted(PRESETS))
    if item.name == "d_ff":
        return st.one_of(kinds[int], st.sampled_from(["0=510,1-3=512", "0=1,1=2"]))
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


# ---------------------------------------------------------------------------------------------- the machine


@pytest.mark.parametrize(
    ("changes", "compiler", "decided"),
    [
        ({"steps": 10**6}, "/usr/bin/g++", "on"),
        ({"steps": 10}, "/usr/bin/g++", "off"),
        ({"steps": 10**6, "dropout": 0.1}, "/usr/bin/g++", "off"),
        ({"steps": 10**6, "l1": 1.0}, "/usr/bin/g++", "off"),
        ({"steps": 10**6}, None, "off"),
        ({"steps": 10, "compile": "on"}, "/usr/bin/g++", "on"),
    ],
)
def test_auto_compiles_where_it_repays(
    changes: dict[str, Any], compiler: str | None, decided: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU: long trainings without dropout, if there is a compiler; what was asked for is obeyed."""
    monkeypatch.setattr(shutil, "which", lambda name: compiler)
    config = runtime.resolve(RunConfig(device="cpu", **changes))
    assert runtime.resolve_compile(config, flops_per_step=4 * 10**9).compile == decided


def test_what_cannot_be_compiled_is_refused(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """The L1 term with --compile on; and compiling without a compiler."""
    refused(2, f"train {TINY_RUN} --compile on --l1 1", says=("cannot compile", "L1", "--compile off"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    refused(2, f"train {TINY_RUN} --compile on", says=("cannot compile", "g++"))


@pytest.mark.parametrize(("device", "changes"), [("cpu", {}), ("cuda", {"grad_accumulation": 2})])
def test_cuda_graphs_need_a_gpu_and_one_pass_a_step(
    device: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second pass would overwrite the gradients of the first in silence."""
    monkeypatch.setattr(runtime, "resolve_device", lambda name: torch.device(device))
    with pytest.raises(UsageError, match="CUDA graphs need a GPU and one forward pass"):
        runtime.resolve(RunConfig(compile="graphs", dtype="float32", **changes))


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

    def exhausted(trainee: Any, step: int, *arguments: Any, **options: Any) -> Any:
        if step == 6:
            raise error
        return original(trainee, step, *arguments, **options)

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


def test_a_python_without_our_dependencies_is_no_bug(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who forgot to activate the environment hears so."""

    def missing(config: RunConfig) -> RunConfig:
        raise ModuleNotFoundError("No module named 'tqdm'", name="tqdm")

    monkeypatch.setattr(runtime, "resolve", missing)
    refused(2, "train", says=("tqdm is not installed for", "pip install"))


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM ends a process there at once")
def test_a_signal_does_not_take_the_place_of_an_error(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Torchrun ends the processes that survive while one of them is about to say what happened."""
    say = cli._report

    def interrupted(line: str, exit_code: int) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return say(line, exit_code)

    monkeypatch.setattr(cli, "_report", interrupted)
    assert main(["nonsense"]) == UsageError.exit_code
    assert capsys.readouterr().err.startswith("error: unknown command 'nonsense'")
    monkeypatch.setattr(cli, "_dispatch", lambda arguments: 1 // 0)
    assert main(["train"]) == 1
    assert capsys.readouterr().err.startswith("error: unexpected ZeroDivisionError")
