"""`minigpt neurons` and `minigpt doctor`: the instrument, and the check of the instrument."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minigpt.base import formats
from minigpt.base.errors import CheckpointError, UsageError
from minigpt.base.flags import Parser, path_text
from minigpt.base.health_columns import glossary_markdown
from minigpt.base.help_text import Introduction
from minigpt.base.storage import read_json, to_json
from minigpt.base.tables import Column, Table
from minigpt.commands.draw_runs import write_report
from minigpt.commands.run_flags import add_checkpoint, add_device, add_run, add_threads, check_threads, open_given
from minigpt.commands.showing import add_json_or_open, show


def add_neurons_flags(parser: Parser) -> None:
    """The run, and the text to count on."""
    parser.introduction = Introduction(
        examples=(("", "the newest run"), ("runs/tiny-relu-s1337 --tokens 65536", "a quick look at another"))
    )
    add_run(parser)
    parser.add_argument("--tokens", type=int, metavar="N", help="count on at most N tokens [1048576]")
    parser.add_argument(
        "--corpus", type=path_text, metavar="NAME", help="another text, or where the run's is by now [the run's]"
    )
    parser.add_argument(
        "--split", choices=("train", "val"), help="part of the text [val, or train if val is too short for --tokens]"
    )
    add_checkpoint(parser)
    add_device(parser)
    add_threads(parser)
    form = add_json_or_open(parser, "print the figures as one JSON object")
    form.add_argument("--glossary", action="store_true", help="print what each figure means, as Markdown, and end")


def run_neurons(values: argparse.Namespace) -> int:
    """Diagnose every neuron of a run, print the findings and leave them in its directory; returns 0."""
    if values.glossary:
        print(glossary_markdown())
        return 0
    if values.tokens is not None and values.tokens < 1:
        raise UsageError(f"tokens must be a positive whole number; got {values.tokens}; leave it out for 1,048,576")
    check_threads(values.threads)
    from minigpt.report.run_answer import answer
    from minigpt.training import runtime
    from minigpt.training.diagnose_run import diagnose_run, write
    from minigpt.training.terminal import diagnosis_text

    runtime.set_up_process(values.threads)
    opened = open_given(values, values.device)
    record, found = diagnose_run(opened, values.corpus, values.split, values.tokens or 0)
    written = write(opened, record, found)
    page = _redrawn(opened.directory)
    if values.json:
        print(to_json({**read_json(written[0], CheckpointError), "run": str(opened.directory)}))
        return 0
    print(diagnosis_text(opened.directory, record, answer(record, [])))
    print(
        f"wrote {', '.join(path.name for path in written)} into {opened.directory}"
        f" in {formats.duration(record['seconds'])}"
    )
    if page is not None:
        show(page, values.open)
    return 0


def _redrawn(run: Path) -> Path | None:
    """The page of a run with what was counted; none, and a note, where no training was logged: of imported weights."""
    try:
        return write_report(run)
    except CheckpointError as reason:
        print(f"note: no page; {reason}", file=sys.stderr)
        return None


def _checks_table(checks: Sequence[Any]) -> Table:
    columns = (
        Column.name("", "name"),
        Column.words("expected", "expected"),
        Column.words("measured", "measured"),
        Column.words("", lambda check: "ok" if check.passed else "DIFFERS"),
    )
    return Table("", columns, checks)


def add_doctor_flags(parser: Parser) -> None:
    """Where to compute."""
    parser.introduction = Introduction(examples=(("", "everything"), ("--device cuda", "on a GPU")))
    add_device(parser)
    add_threads(parser)
    parser.add_argument("--json", action="store_true", help="print the checks as one JSON object")


def run_doctor(values: argparse.Namespace) -> int:
    """Print of every check what was expected and what was measured; returns 1 if any differs."""
    check_threads(values.threads)
    from minigpt.neurons.calibration import calibrate
    from minigpt.training import runtime
    from minigpt.training.installation import installation_checks

    runtime.set_up_process(values.threads)
    device = runtime.resolve_device(values.device)
    checks = [*installation_checks(device), *calibrate(device)]
    failed = [check.name for check in checks if not check.passed]
    if values.json:
        print(to_json({"passed": not failed, "checks": [vars(check) for check in checks]}))
    else:
        print(_checks_table(checks).terminal())
        print(f"{len(failed)} of {len(checks)} checks differ: {', '.join(failed)}" if failed else "all is well")
    return 1 if failed else 0
