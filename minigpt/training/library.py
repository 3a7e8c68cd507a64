"""Training and its results from Python: what the command line does, for a notebook or a script.

Each function completes what its caller left open, as the commands do, and hands on to where the work is done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from minigpt.base import storage
from minigpt.base.errors import UsageError
from minigpt.sampling.generate import generate as generate_tokens
from minigpt.sampling.token_choice import TokenChoice
from minigpt.training import loop, run_directory, runtime
from minigpt.training.config import RunConfig
from minigpt.training.inference import OpenedRun, open_run
from minigpt.training.ranks import Ranks, joined


def train(
    config: RunConfig,
    out: Path | str | None = None,
    *,
    callbacks: Sequence[loop.EvaluationCallback] = (),
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = True,
) -> dict[str, Any]:
    """Train as configured and return the content of `summary.json`, with the run directory as `directory`.

    Without `out` the run gets a new directory under `runs/`. A configuration that was not resolved is. Each of
    `callbacks` is called after every evaluation with its record; `training.loop.train` says what it may not do.

    Raises:
        MinigptError: the subclasses say what; before training begins nothing on disk has changed.
    """
    if resume and out is None:
        raise UsageError("resume continues a run; got no directory; give the run's as out")
    resolved = complete(config)
    with joined() as ranks, run_place(None if out is None else Path(out), resolved, ranks) as directory:
        summary = loop.train(
            resolved, directory, resume=resume, overwrite=overwrite, quiet=quiet, ranks=ranks, callbacks=callbacks
        )
    return {**summary, "directory": directory}


def complete(config: RunConfig) -> RunConfig:
    """The configuration of a new run: whoever reads it, wherever that is, finds its text and tokens."""
    return runtime.resolve(run_directory.located(config))


@contextlib.contextmanager
def run_place(directory: Path | None, config: RunConfig, ranks: Ranks) -> Iterator[Path]:
    """The directory asked for, or a new one of this process: trainings that begin together get different names."""
    if directory is not None:
        yield directory
    elif ranks.leads:
        with storage.claimed_directory(run_directory.default_directories(config)) as claimed:
            yield claimed
    else:
        yield next(run_directory.default_directories(config))


def load_run(directory: Path | str, which: str = "last", device: str = "auto") -> OpenedRun:
    """Open the `last` or `best` checkpoint of a run, or that of a step: `.model`, `.tokenizer` and `.config`.

    Raises:
        UsageError: `which` is none of these, or the device is absent.
        CheckpointError: the run or the checkpoint is missing, damaged, or does not fit its tokenizer.
    """
    return open_run(Path(directory), which, device)


def generate(
    run: OpenedRun, prompt: str = "", *, max_new_tokens: int = 200, temperature: float = 0.8, seed: int = 1337
) -> str:
    """Continue `prompt` with a run's model and return the text that was added; temperature 0 takes the likeliest token.

    Raises:
        UsageError: a number is outside its range.
        DataError: the tokenizer does not know some of the prompt.
    """
    ids = torch.tensor(run.tokenizer.encode(prompt).tolist() or run.tokenizer.start)
    tokens = generate_tokens(run.model, ids, TokenChoice(temperature), max_new_tokens=max_new_tokens, seed=seed)
    return run.tokenizer.decode(int(token) for token in tokens)
