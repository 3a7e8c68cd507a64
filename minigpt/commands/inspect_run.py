"""`minigpt evaluate`, `verify` and `report`: what a run is worth, whether its files are whole, and its page.

`report` also draws the page of an ablation, finished or not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from minigpt.base.errors import UsageError
from minigpt.base.flags import Parser, user_path
from minigpt.base.storage import remove_stale_temporaries, to_json, write_text
from minigpt.commands.run_ablation import write_pages


def add_evaluate_flags(parser: Parser) -> None:
    """The run and the text to evaluate it on."""
    add_run(parser)
    parser.add_argument("--split", default="val", choices=("train", "val", "test"), help="part of the corpus [val]")
    parser.add_argument("--eval-tokens", type=int, default=0, metavar="N", help="at most so many tokens; 0: all [0]")
    parser.add_argument("--checkpoint", default="last", metavar="WHICH", help="last, best or a step [last]")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps [auto]")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")


def run_evaluate(values: argparse.Namespace) -> int:
    """Print loss, perplexity, bits per byte and the health of every layer; returns 0."""
    if values.eval_tokens < 0:
        raise UsageError(f"eval-tokens must be 0 (all) or a positive whole number; got {values.eval_tokens}")
    from minigpt.training.inference import evaluate_run, open_run
    from minigpt.training.run_directory import newest_run
    from minigpt.training.terminal import evaluation_line, health_table

    opened = open_run(values.run or newest_run(), values.checkpoint, values.device)
    if values.split == "test":
        _warn_of_openings(opened.directory)
    evaluation = evaluate_run(opened, values.split, values.eval_tokens)
    if values.json:
        print(to_json({**evaluation.record(opened.checkpoint.step), "run": str(opened.directory)}))
        return 0
    print(evaluation_line(evaluation, f"{opened.directory}, step {opened.checkpoint.step}: "))
    print(health_table(evaluation.layers))
    if values.split == "test":
        print("the test part was opened; the run's metrics.jsonl records it")
    return 0


def _warn_of_openings(run: Path) -> None:
    """Say loudly that the test part was looked at before: what was chosen by it since is no longer tested by it."""
    from minigpt.training.run_directory import read_metrics

    steps = [record["step"] for record in read_metrics(run) if record.get("event") == "test_opened"]
    if steps:
        times = "once" if len(steps) == 1 else f"{len(steps)} times"
        when = ", ".join(map(str, steps[-5:]))
        print(
            f"WARNING: the test part of {run} was opened {times} before (at step {when}); whatever was chosen after "
            "looking at it is no longer tested by it",
            file=sys.stderr,
        )


def add_verify_flags(parser: Parser) -> None:
    """The run to check."""
    add_run(parser)
    parser.add_argument("--json", action="store_true", help="print the findings as one JSON object")


def run_verify(values: argparse.Namespace) -> int:
    """Print every finding; returns 0, or the exit code of the first failure."""
    from minigpt.training.run_directory import newest_run
    from minigpt.training.verification import verify

    findings = verify(values.run or newest_run())
    if values.json:
        print(to_json({finding.what: str(finding.error) if finding.error else "ok" for finding in findings}))
    else:
        for finding in findings:
            print(f"{finding.what}: {finding.error or 'ok'}")
    return next((finding.error.exit_code for finding in findings if finding.error), 0)


def add_report_flags(parser: Parser) -> None:
    """The run, or the ablation, to draw."""
    add_run(parser)


def run_report(values: argparse.Namespace) -> int:
    """Write `report.html` into the run or the ablation and say where; returns 0."""
    from minigpt.experiments import record
    from minigpt.training.run_directory import newest_run, refuse_unfinished

    directory = values.run or newest_run()
    refuse_unfinished(directory)
    if (directory / record.PLAN).is_file():
        print(f"wrote {write_pages(directory, record.analyse_directory(directory))}")
    else:
        print(f"wrote {write_report(directory)}")
    return 0


def write_report(run: Path) -> Path:
    """Draw the page of a run into its directory and return its path."""
    from minigpt.report.run_page import run_page

    path = run / "report.html"
    remove_stale_temporaries(run)
    write_text(path, run_page(run))
    return path


def add_run(parser: Parser) -> None:
    """The run directory that a command reads."""
    parser.add_argument("run", nargs="?", type=user_path, metavar="RUN", help="run directory [the newest under runs/]")
