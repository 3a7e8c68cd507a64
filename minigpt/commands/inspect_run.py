"""`minigpt evaluate`, `verify` and `report`: what a run is worth, whether its files are whole, and its page.

`report` also draws ablations, finished or not, ledgers, and a site of all that `docs/` has data of.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from minigpt.base.errors import UsageError
from minigpt.base.flags import Parser, user_path
from minigpt.base.help_text import Introduction
from minigpt.base.storage import make_directory, to_json, write_text
from minigpt.claims.scale import LEDGER_FILE
from minigpt.commands import run_ablation, run_claims
from minigpt.commands.draw_runs import PAGE, write_report
from minigpt.commands.run_flags import add_checkpoint, add_device, add_moved_corpus, add_run, open_given
from minigpt.commands.showing import add_open_flag, show

DOCS = Path("docs")


def add_evaluate_flags(parser: Parser) -> None:
    """The run and the text to evaluate it on."""
    parser.introduction = Introduction(
        examples=(("", "the newest run"), ("--split test", "on the part kept for the end; the run records it"))
    )
    add_run(parser)
    add_moved_corpus(parser)
    parser.add_argument("--split", default="val", choices=("train", "val", "test"), help="part of the corpus [val]")
    parser.add_argument("--eval-tokens", type=int, default=0, metavar="N", help="at most N tokens; 0: all [0]")
    add_checkpoint(parser)
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")


def run_evaluate(values: argparse.Namespace) -> int:
    """Print loss, perplexity, bits per byte and the health of every layer; returns 0."""
    if values.eval_tokens < 0:
        raise UsageError(f"eval-tokens must be 0 (all) or a positive whole number; got {values.eval_tokens}")
    from minigpt.training.inference import evaluate_run
    from minigpt.training.terminal import evaluation_line, health_table

    opened = open_given(values, values.device, values.corpus)
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
            f"WARNING: the test part of {run} was opened {times} before (at step {when}); anything chosen after "
            "looking at it is no longer tested by it",
            file=sys.stderr,
        )


def add_verify_flags(parser: Parser) -> None:
    """What to check."""
    parser.introduction = Introduction(
        examples=(("", "the newest run"), ("runs/tiny-relu-s1337 --json", "another, for programs"))
    )
    help_ = "a run, an ablation, a ledger or an audit [the newest run under runs/]"
    parser.add_argument("run", nargs="?", type=user_path, metavar="DIRECTORY", help=help_)
    parser.add_argument("--json", action="store_true", help="print the findings as one JSON object")


def run_verify(values: argparse.Namespace) -> int:
    """Print every finding; returns 0, or the exit code of the first failure."""
    from minigpt.commands.verify_folder import verify_folder
    from minigpt.training.run_directory import newest_run

    findings = verify_folder(values.run or newest_run())
    if values.json:
        print(to_json({finding.what: str(finding.error) if finding.error else "ok" for finding in findings}))
    else:
        for finding in findings:
            print(f"{finding.what}: {finding.error or 'ok'}")
    return next((finding.error.exit_code for finding in findings if finding.error), 0)


def add_report_flags(parser: Parser) -> None:
    """What to draw, and where a site goes."""
    parser.introduction = Introduction(
        examples=(("", "the newest run"), ("docs --site site", "every ledger and ablation below docs/"))
    )
    help_ = "a run, an ablation or a ledger [the newest run under runs/]"
    parser.add_argument("directory", nargs="?", type=user_path, metavar="DIRECTORY", help=help_)
    help_ = f"write the pages of every ledger and ablation in DIRECTORY [{DOCS}] below SITE"
    parser.add_argument("--site", type=user_path, metavar="SITE", help=help_)
    add_open_flag(parser)


def run_report(values: argparse.Namespace) -> int:
    """Draw a run, an ablation or a ledger in its directory, or a site, and say where; returns 0."""
    from minigpt.training.run_directory import newest_run

    if values.site is not None:
        pages = _write_site(values.directory or DOCS, values.site)
    else:
        pages = [_write_page(values.directory or newest_run())]
    print("\n".join(f"wrote {page}" for page in pages))
    show(pages[0], values.open)
    return 0


def _write_page(directory: Path) -> Path:
    from minigpt.experiments import record
    from minigpt.training.run_directory import refuse_unfinished

    refuse_unfinished(directory)
    if (directory / LEDGER_FILE).is_file():
        return run_claims.write_pages(directory)
    if (directory / record.PLAN).is_file():
        return run_ablation.write_pages(directory, record.analyse_directory(directory), again=True)
    return write_report(directory)


def _write_site(source: Path, site: Path) -> list[Path]:
    """Write the HTML of each ledger and each ablation's analysis in `source` into a folder of its name."""
    from minigpt.experiments.record import ANALYSIS
    from minigpt.report.ablation_page import ablation_page

    ledgers = sorted(path.parent for path in source.glob(f"*/{LEDGER_FILE}"))
    ablations = sorted(path.parent for path in source.glob(f"*/{ANALYSIS}"))
    pages = [run_claims.write_pages(path, site / path.name) for path in ledgers]
    pages += [_write(site / path.name / PAGE, ablation_page(path, alone=True)) for path in ablations]
    if not pages:
        raise UsageError(
            f"no folder of {source} holds a ledger or an ablation; write `minigpt report docs --site site`"
        )
    return pages


def _write(path: Path, page: str) -> Path:
    make_directory(path.parent)
    write_text(path, page)
    return path
