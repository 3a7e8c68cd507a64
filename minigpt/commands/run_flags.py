"""Flags that several commands have, each declared once: which run and checkpoint, on which machine, with which seed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from minigpt.base.errors import UsageError
from minigpt.base.flags import Parser, path_text, user_path
from minigpt.training.config import MOST_THREADS

if TYPE_CHECKING:
    from minigpt.training.inference import OpenedRun


def add_run(parser: Parser) -> None:
    """The run directory that a command reads."""
    parser.add_argument("run", nargs="?", type=user_path, metavar="RUN", help="run directory [the newest under runs/]")


def add_checkpoint(parser: Parser) -> None:
    """Which checkpoint of the run."""
    parser.add_argument("--checkpoint", default="last", metavar="WHICH", help="last, best or a step [last]")


def add_moved_corpus(parser: Parser) -> None:
    """Where the run's text is by now."""
    help_ = "where the run's text is, if it was moved [as trained]"
    parser.add_argument("--corpus", type=path_text, metavar="PATH", help=help_)


def open_given(values: argparse.Namespace, device: str, corpus: str | None = None) -> OpenedRun:
    """Open the run and the checkpoint that the flags name, or the newest run."""
    from minigpt.training.inference import open_run
    from minigpt.training.run_directory import newest_run

    return open_run(values.run or newest_run(), values.checkpoint, device, corpus)


def add_device(parser: argparse._ActionsContainer) -> None:
    """Where to compute."""
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps [auto]")


def add_threads(parser: argparse._ActionsContainer, zero: str = "torch's choice, or a quota's") -> None:
    """How many threads to compute with, and what 0 means."""
    parser.add_argument("--threads", type=int, default=0, metavar="N", help=f"CPU threads; 0: {zero} [0]")


def check_threads(threads: int) -> None:
    """Raise `UsageError` for a number of threads that no process can have."""
    if not 0 <= threads < MOST_THREADS:
        raise UsageError(f"threads is out of range; got {threads}; 0 (chosen here) to {MOST_THREADS - 1}")


def check_seed(seed: int) -> None:
    """Raise `UsageError` for a seed that no generator takes."""
    if not 0 <= seed < 1 << 63:
        raise UsageError(f"seed must be 0 or a positive whole number below 2^63; got {seed}")
