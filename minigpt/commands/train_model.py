"""`minigpt train`: from flags to a finished run, and what to look at next."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt.base import formats, streams
from minigpt.base.errors import UsageError
from minigpt.base.flags import Parser, add_fields, given, path_text, read_toml, user_path
from minigpt.base.help_text import Introduction
from minigpt.base.invocation import typed
from minigpt.base.tables import terminal_width
from minigpt.commands.draw_runs import write_report
from minigpt.commands.showing import add_open_flag, check_open, show
from minigpt.training.config import FREE_ON_RESUME, RunConfig, with_preset
from minigpt.training.ranks import Ranks, joined

if TYPE_CHECKING:
    from minigpt.training.inference import OpenedRun

SAMPLE_TOKENS = 240
PROMPT = "The "
INTRODUCTION = Introduction(
    examples=(
        ("--activation swiglu --steps 2000", "another activation, a longer training"),
        ("--lr 3e-3 --schedule constant --warmup-steps 0", "makes ReLU neurons die"),
    ),
    common=(
        *("--preset", "--corpus", "--tokenizer", "--activation", "--n-layer", "--n-embd", "--block-size"),
        *("--steps", "--batch-size", "--lr", "--schedule", "--warmup-steps", "--eval-every", "--seed", "--device"),
        *("--config", "--out", "--resume", "--overwrite"),
    ),
)


def add_flags(parser: Parser) -> None:
    """Every field of the configuration, and where the run is."""
    parser.introduction = INTRODUCTION
    parser.with_preset = with_preset
    add_fields(parser, RunConfig)
    group = parser.add_argument_group("run")
    group.add_argument(
        "--config", type=user_path, metavar="FILE.toml", help="read flags from a file; flags override it"
    )
    group.add_argument("--out", type=user_path, metavar="DIR", help="run directory [runs/PRESET-ACTIVATION-sSEED]")
    group.add_argument(
        "--resume",
        nargs="?",
        const="",
        type=path_text,
        metavar="RUN",
        help="continue a run: RUN, else --out, else the newest",
    )
    group.add_argument("--overwrite", action="store_true", help="replace the run at --out")
    add_open_flag(group)


def run(values: argparse.Namespace) -> int:
    """Train, alone or with the other processes of a torchrun; returns 0."""
    with streams.lasting(), joined() as ranks:
        return _train(values, ranks)


def _train(values: argparse.Namespace, ranks: Ranks) -> int:
    asked = configured(values)
    config = dataclasses.replace(RunConfig(), **asked)
    if values.resume is not None and values.overwrite:
        raise UsageError("--resume continues a run and --overwrite replaces it; got both; choose one")
    directory = _given_directory(values)
    from minigpt.text.preparation import absolute_corpus
    from minigpt.training import run_directory, runtime
    from minigpt.training.library import complete, run_place
    from minigpt.training.terminal import EMULATION

    if "corpus" in asked:
        asked["corpus"] = absolute_corpus(asked["corpus"])
    if values.resume is not None:
        directory = directory or run_directory.newest_run()
        config = _resumed_config(directory, asked, config, explicit=bool(values.resume))
        summary = run_directory.read_finished(directory)
        if summary is not None:
            longer = run_directory.longer_training(directory, config, 2 * config.steps)
            print(f"{directory} is finished; it has {summary['steps']} steps; use --overwrite or another --out")
            print(f"to train its weights further, as a new run: {longer}")
            if values.open:
                show(write_report(directory), values.open)
            return 0
    else:
        config = complete(config)
    if config.dtype == "bfloat16" and runtime.fastest_dtype(runtime.resolve_device(config.device)) != "bfloat16":
        print(f"note: {EMULATION}", file=sys.stderr)
    check_open(values.open, "" if config.eval_every else "--eval-every 0")
    with run_place(directory, config, ranks) as place:
        return _train_in(place, config, values, ranks)


def _train_in(directory: Path, config: RunConfig, values: argparse.Namespace, ranks: Ranks) -> int:
    from minigpt.training.loop import train

    summary = train(config, directory, resume=values.resume is not None, overwrite=values.overwrite, ranks=ranks)
    if ranks.leads:
        _show_result(directory, summary, values.open)
    return 0


def configured(values: argparse.Namespace) -> dict[str, Any]:
    """What preset, file and flags set, in that order of precedence."""
    from_file = read_toml(values.config, RunConfig) if values.config else {}
    return with_preset(from_file | given(values, RunConfig))


def _given_directory(values: argparse.Namespace) -> Path | None:
    """The run directory that --resume or --out names; None if neither does."""
    if values.resume and values.out and Path(values.resume) != values.out:
        raise UsageError(f"--resume {values.resume} and --out {values.out} name two runs; give one")
    directory = Path(values.resume) if values.resume else values.out
    if directory is not None and any(ord(character) < 32 for character in str(directory)):
        raise UsageError(f"--out holds a control character; got {str(directory)!r}; use printable text")
    return directory


def _resumed_config(directory: Path, asked: dict[str, Any], config: RunConfig, explicit: bool) -> RunConfig:
    """The configuration of the run to continue; the one asked for if a crash came before it was written."""
    from minigpt.text.preparation import absolute_corpus, check_there
    from minigpt.training import run_directory, runtime
    from minigpt.training.inference import check_before_resuming
    from minigpt.training.library import complete

    if not explicit and not run_directory.is_occupied(directory):
        return complete(config)
    stored = run_directory.read_config(directory)
    check_before_resuming(directory, stored)
    if asked.get("corpus") == absolute_corpus(stored.corpus):
        asked = asked | {"corpus": stored.corpus}  # a run of an older version keeps the path as it was given
    resolved = runtime.resolve(dataclasses.replace(stored, **asked))
    run_directory.check_resumable(directory, stored, asked, resolved)
    check_there(resolved.corpus, directory)
    may_differ = FREE_ON_RESUME | run_directory.moved_text(stored, resolved)
    free = {name: value for name, value in asked.items() if name in may_differ}
    if asked.get("compile", "auto") not in ("auto", stored.compile):
        print(f"warning: not bit-exact: compile was {stored.compile} and is {asked['compile']}", file=sys.stderr)
        free["compile"] = asked["compile"]
    return dataclasses.replace(stored, **free)


def _show_result(directory: Path, summary: dict[str, Any], opens: bool) -> None:
    """Print the table by layer, a sample of text, where everything is and what to try next."""
    from minigpt.neurons.health import from_record
    from minigpt.text.tokenizers import without_open_space
    from minigpt.training.inference import open_run
    from minigpt.training.terminal import health_table

    opened = open_run(directory)
    record = summary["val"]
    if record is not None:
        print(f"\n{health_table([from_record(layer) for layer in record['layers']])}")
        _show_entropy(opened, record)
    _show_sample(opened)
    quoted = shlex.quote(str(directory))
    print(f"\n{summary['steps']:,} steps in {formats.elapsed(summary['seconds'])}; everything is in {directory}/")
    if record is not None:
        show(write_report(directory), opens)
    suggested = shlex.quote(without_open_space(opened.tokenizer, PROMPT))
    prompt = "" if opened.tokenizer.unknown(PROMPT) else f" --prompt {suggested}"
    print(f"next:  {typed('sample')} {quoted}{prompt}")
    print(f"       {typed('neurons')} {quoted}")
    print(f"       {typed('evaluate')} {quoted} --split test")
    print(f"       {typed('train')} --activation swiglu")
    if record is not None and record["dead_fraction"] == 0:
        print("to make ReLU neurons die:")
        print(f"       {typed('train')} --lr 3e-3 --schedule constant --warmup-steps 0")


def _show_entropy(opened: OpenedRun, record: dict[str, Any]) -> None:
    """Compare with the true entropy of the text where it is known."""
    from minigpt.training.inference import exact_nats_per_token

    exact = exact_nats_per_token(opened, record["split"])
    if exact is not None:
        above = record["loss"] - exact
        print(f"exact entropy of this text: {exact:.4f} nats/token; the model is {above:.4f} above it")


def _show_sample(opened: OpenedRun) -> None:
    import torch

    from minigpt.sampling.generate import generate
    from minigpt.sampling.token_choice import TokenChoice

    start = torch.tensor(opened.tokenizer.start)
    tokens = generate(opened.model, start, TokenChoice(0.8), max_new_tokens=SAMPLE_TOKENS, seed=opened.config.seed)
    text = formats.visible(opened.tokenizer.decode(int(token) for token in tokens).strip())
    width = max(20, terminal_width() - 4)
    lines = [piece for line in text.splitlines() for piece in textwrap.wrap(line, width) or [""]]
    print("\na sample:\n" + "\n".join(f"    {line}" for line in lines))
