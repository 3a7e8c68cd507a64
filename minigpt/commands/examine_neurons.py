"""`minigpt neurons` and `minigpt doctor`: the instrument, and the check of the instrument."""

from __future__ import annotations

import argparse

from minigpt.base.errors import CheckpointError, UsageError
from minigpt.base.flags import Parser, path_text
from minigpt.base.storage import read_json, to_json
from minigpt.commands.inspect_run import add_run


def add_neurons_flags(parser: Parser) -> None:
    """The run, and the text to count on."""
    add_run(parser)
    parser.add_argument("--tokens", type=int, metavar="N", help="count on at most so many tokens [1048576]")
    parser.add_argument(
        "--corpus", type=path_text, metavar="NAME", help="another text, in the run's own tokenizer [the run's]"
    )
    parser.add_argument(
        "--split", choices=("train", "val"), help="part of the text [val, or train if val is too short for --tokens]"
    )
    parser.add_argument("--checkpoint", default="last", metavar="WHICH", help="last, best or a step [last]")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps [auto]")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0: torch's choice [0]")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")


def run_neurons(values: argparse.Namespace) -> int:
    """Examine every neuron of a run, print the findings and leave them in its directory; returns 0."""
    if values.tokens is not None and values.tokens < 1:
        raise UsageError(f"tokens must be a positive whole number; got {values.tokens}; leave it out for 1,048,576")
    _check_threads(values.threads)
    from minigpt.training import examination, runtime
    from minigpt.training.findings import findings
    from minigpt.training.inference import open_run
    from minigpt.training.run_directory import newest_run

    runtime.set_up_process(values.threads)
    opened = open_run(values.run or newest_run(), values.checkpoint, values.device)
    record, found = examination.examine(opened, values.corpus, values.split, values.tokens or 0)
    written = examination.write(opened, record, found)
    if values.json:
        print(to_json({**read_json(written[0], CheckpointError), "run": str(opened.directory)}))
        return 0
    print(f"{opened.directory}, {findings(record)}")
    print(f"wrote {', '.join(path.name for path in written)} into {opened.directory} in {record['seconds']:.0f} s")
    return 0


def _check_threads(threads: int) -> None:
    from minigpt.training.config import MOST_THREADS

    if not 0 <= threads < MOST_THREADS:
        raise UsageError(f"threads is out of range; got {threads}; 0 (torch's choice) to {MOST_THREADS - 1}")


def add_doctor_flags(parser: Parser) -> None:
    """Where to compute."""
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps [auto]")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0: torch's choice [0]")
    parser.add_argument("--json", action="store_true", help="print the checks as one JSON object")


def run_doctor(values: argparse.Namespace) -> int:
    """Print of every check what was expected and what was measured; returns 1 if any differs."""
    _check_threads(values.threads)
    from minigpt.neurons.calibration import calibrate
    from minigpt.training import runtime
    from minigpt.training.installation import installation_checks
    from minigpt.training.terminal import aligned

    runtime.set_up_process(values.threads)
    device = runtime.resolve_device(values.device)
    checks = [*installation_checks(device), *calibrate(device)]
    failed = [check.name for check in checks if not check.passed]
    if values.json:
        print(to_json({"passed": not failed, "checks": [vars(check) for check in checks]}))
    else:
        width = max(len(check.name) for check in checks)
        rows = [
            [check.name.ljust(width), check.expected, check.measured, "ok" if check.passed else "DIFFERS"]
            for check in checks
        ]
        print("\n".join(aligned([["", "expected", "measured", ""], *rows])))
        print(f"{len(failed)} of {len(checks)} checks differ: {', '.join(failed)}" if failed else "all is well")
    return 1 if failed else 0
