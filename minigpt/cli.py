"""The command line: finds the command, and turns what goes wrong into one line and an exit code.

Commands import torch and everything heavy only when they run, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from minigpt.base import plugins, streams, thread_waiting
from minigpt.base.errors import (
    MinigptError,
    OutOfMemoryError,
    StopRequestedError,
    StorageError,
    UsageError,
    did_you_mean,
    is_out_of_memory,
)
from minigpt.base.flags import Parser, path_text
from minigpt.base.invocation import as_typed, typed
from minigpt.base.tables import terminal_width, wrapped
from minigpt.base.version import VERSION
from minigpt.commands import (
    alter_neurons,
    audit_model,
    draw_sky,
    examine_neurons,
    exchange_models,
    inspect_run,
    list_choices,
    list_runs,
    run_ablation,
    run_bench,
    run_claims,
    sample_text,
    shell_completion,
    train_model,
)


@dataclass(frozen=True)
class Command:
    """One word of the command line."""

    summary: str
    add_flags: Callable[[Parser], None]
    run: Callable[[argparse.Namespace], int]


COMMANDS = {
    "train": Command("train a GPT and watch its neurons", train_model.add_flags, train_model.run),
    "sample": Command("continue a prompt with a trained model", sample_text.add_flags, sample_text.run),
    "evaluate": Command(
        "loss, perplexity and neuron health of a run", inspect_run.add_evaluate_flags, inspect_run.run_evaluate
    ),
    "neurons": Command(
        "how many neurons are dead, how sure that is, whether they matter",
        examine_neurons.add_neurons_flags,
        examine_neurons.run_neurons,
    ),
    "doctor": Command(
        "check the installation, and the instrument on known answers",
        examine_neurons.add_doctor_flags,
        examine_neurons.run_doctor,
    ),
    "ablate": Command(
        "compare activations, or any settings, with error bars", run_ablation.add_flags, run_ablation.run
    ),
    "claims": Command("judge the claims of an article on ReLU in GPTs", run_claims.add_flags, run_claims.run),
    "bench": Command(
        "how fast it is here, against what the machine can do and other programs", run_bench.add_flags, run_bench.run
    ),
    "runs": Command("list the runs of a folder, and compare any of them", list_runs.add_flags, list_runs.run),
    "verify": Command(
        "check that what a run, an ablation, a ledger or an audit left is whole",
        inspect_run.add_verify_flags,
        inspect_run.run_verify,
    ),
    "report": Command(
        "draw a run, an ablation or a ledger, or a site of pages", inspect_run.add_report_flags, inspect_run.run_report
    ),
    "sky": Command("a picture of all neurons of a run or an audit", draw_sky.add_flags, draw_sky.run),
    "surgery": Command(
        "cut out dead neurons or give them a new start, in a new run", alter_neurons.add_flags, alter_neurons.run
    ),
    "audit": Command(
        "how many neurons of anybody's language model are dead, and whether it matters",
        audit_model.add_flags,
        audit_model.run,
    ),
    "export": Command(
        "write a run for other programs: Hugging Face", exchange_models.add_export_flags, exchange_models.run_export
    ),
    "import-hf": Command(
        "make a run of a Hugging Face folder", exchange_models.add_import_hf_flags, exchange_models.run_import_hf
    ),
    "import-nanogpt": Command(
        "make a run of a checkpoint of nanoGPT",
        exchange_models.add_import_nanogpt_flags,
        exchange_models.run_import_nanogpt,
    ),
    "corpora": Command("list the texts to train on", list_choices.add_corpora_flags, list_choices.run_corpora),
    "activations": Command(
        "list the activation functions", list_choices.add_activations_flags, list_choices.run_activations
    ),
    "completion": Command(
        "print a script that completes commands and flags in bash or zsh",
        shell_completion.add_flags,
        lambda values: print_completion(values.shell),
    ),
}

SECTIONS = {
    "train and use": ("train", "sample", "runs", "evaluate"),
    "look at neurons": ("neurons", "sky", "audit", "surgery"),
    "compare": ("ablate", "claims", "bench"),
    "files": ("report", "verify", "export", "import-hf", "import-nanogpt"),
    "know more": ("activations", "corpora", "doctor", "completion"),
}
# Commands that make or open a run; its activation may be the user's.
WITH_PLUGIN = frozenset(
    {"train", "sample", "evaluate", "neurons", "verify", "report", "surgery", "activations", "audit", "export"}
)


def console(*command: str) -> NoReturn:
    """Run the command line of this process, the words of `command` before its own, and end with its exit code."""
    signals = Signals()
    signals.install()  # for good: a second signal must not cut off what the first one had us say
    thread_waiting.choose()
    try:
        with streams.mended():
            exit_code = _run([*command, *sys.argv[1:]], signals)
    except (KeyboardInterrupt, StopRequestedError):  # before the command began
        exit_code = signals.report("interrupted", 128 + signals.first)
    if exit_code > 128:
        signals.ignore()  # the interpreter would restore their defaults on its way out
    gc.freeze()  # else the interpreter looks once more at every object of torch's modules, for a third of a second
    sys.exit(exit_code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; with `--debug` errors pass through with their traceback."""
    signals = Signals()
    previous = signals.install()
    try:
        with streams.mended():
            return _run(list(sys.argv[1:] if argv is None else argv), signals)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _run(arguments: list[str], signals: Signals) -> int:
    debug = "--debug" in arguments
    try:
        exit_code = _dispatch(arguments)
        sys.stdout.flush()
        return exit_code
    except SystemExit as leaving:  # argparse leaves this way after --help
        return int(leaving.code or 0)
    except streams.ReaderLeftError:
        return 0
    except KeyboardInterrupt:
        return signals.report("interrupted", 128 + signal.SIGINT)
    except StopRequestedError as stop:
        return signals.report(str(stop), stop.exit_code)
    except MinigptError as error:
        if debug:
            raise
        return signals.report(f"error: {error}", error.exit_code)
    except Exception as error:
        if signals.first:  # a library that was loading made something else of our exception
            return signals.report("interrupted", 128 + signals.first)
        if debug:
            raise
        return _report_unforeseen(error, signals.report)


class Signals:
    """Lets Ctrl-C, SIGTERM and a closed terminal unwind the stack, so that temporary files go.

    Inside a training and an ablation `interrupts.py` takes over. A hang-up that `nohup` ignores stays ignored.
    """

    def __init__(self) -> None:
        self.first = 0
        self._leaving = False

    def install(self) -> dict[int, Any]:
        """Handle the signals from now on and return what did before; nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        return {number: signal.signal(number, self._handle) for number in numbers}

    def ignore(self) -> None:
        """Let nothing more end this process, which is ending."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    def report(self, line: str, exit_code: int) -> int:
        """Say why the command ends, undisturbed by further signals."""
        self._leaving = True
        return _report(line, exit_code)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._leaving:
            if number == signal.SIGINT:
                os._exit(128 + number)
            return
        self.first = self.first or number
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise StopRequestedError(number, "terminated")


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "--help-all"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(f"minigpt {VERSION}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        raise UsageError(f"unknown command {name!r}{did_you_mean(name, COMMANDS) or ';'} known: {', '.join(COMMANDS)}")
    values = parser_of(name).parse(arguments[1:])
    if getattr(values, "plugin", None):
        plugins.load(values.plugin)
    return COMMANDS[name].run(values)


def parser_of(name: str) -> Parser:
    """The parser of a command, with the flags that every command has."""
    parser = Parser(prog=typed(name), description=COMMANDS[name].summary)
    COMMANDS[name].add_flags(parser)
    if name in WITH_PLUGIN:
        parser.add_argument_group("own code").add_argument(
            "--plugin",
            type=path_text,
            metavar="FILE.py",
            help="run this file or module first, which registers activations",
        )
    parser.add_flags_of_all()
    return parser


def print_completion(shell: str) -> int:
    """Print what makes a shell know every command and flag; returns 0."""
    print(shell_completion.script(shell, {name: parser_of(name) for name in COMMANDS}))
    return 0


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"usage: {typed()} COMMAND [--flag VALUE …]", ""]
    for title, names in SECTIONS.items():
        lines.append(f"{title}:")
        for name in names:
            lines += wrapped(
                f"  {name.ljust(width)}{COMMANDS[name].summary}", terminal_width(), " " * (width + 2)
            ).split("\n")
        lines.append("")
    lines.append(f"{typed()} COMMAND --help    explains a command")
    lines.append(f"{typed()} --version         says which minigpt this is")
    return "\n".join(lines)


def _report_unforeseen(error: Exception, report: Callable[[str, int], int]) -> int:
    """Tell a machine that refuses from a bug of ours."""
    if is_out_of_memory(error):
        advice = "use a smaller model, batch or number of samples"
        return report(f"error: out of memory; the machine has none left; {advice}", OutOfMemoryError.exit_code)
    if isinstance(error, OSError):
        place = f" {error.filename!r:.200}" if error.filename is not None else ""
        what = f"the system refused{place}; {error.strerror or error}"
        return report(f"error: {what}; check the path and its permissions", StorageError.exit_code)
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] != "minigpt":
        what = f"{error.name} is not installed for {sys.executable}"
        advice = "activate the environment that minigpt is installed in, or install it there: pip install -e ."
        return report(f"error: {what}; {advice}", UsageError.exit_code)
    kind = type(error).__name__
    return report(f"error: unexpected {kind}: {error}; this is a bug of minigpt; --debug shows where", 1)


def _report(line: str, exit_code: int) -> int:
    """Print one line, whatever line breaks the reason had, and pass the exit code on."""
    print(as_typed(" ".join(line.split("\n"))), file=sys.stderr)
    return exit_code
