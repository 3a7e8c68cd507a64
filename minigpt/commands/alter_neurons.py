"""`minigpt surgery`: a trained run with its dead neurons cut out, or others given a new start, as a new run."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from typing import TYPE_CHECKING

from minigpt.base.errors import UsageError
from minigpt.base.flags import Parser, user_path
from minigpt.base.help_text import Introduction
from minigpt.base.invocation import typed
from minigpt.base.storage import to_json
from minigpt.base.tables import Column, Table
from minigpt.commands.run_flags import add_checkpoint, add_device, add_moved_corpus, add_run, check_seed, open_given

if TYPE_CHECKING:
    from minigpt.training.operate_on_run import Operation, Outcome

TOKENS = 1_048_576
_COLUMNS = (
    Column.name("layer", "layer"),
    Column("neurons", "neurons_before"),
    Column("pruned", lambda layer: len(layer.pruned) - layer.folded),
    Column("constant", "folded"),
    Column("fired on held", "fired_on_held"),
    Column("recycled", lambda layer: len(layer.recycled)),
    Column("left", "neurons"),
)


def add_flags(parser: Parser) -> None:
    """The run, what to do to its neurons, and on what evidence."""
    parser.introduction = Introduction(
        examples=(
            ("--prune dead --out runs/pruned", "the newest run without its dead neurons"),
            ("runs/tiny-relu-s1337 --recycle dead --out runs/revived", "dead neurons with new weights"),
        )
    )
    add_run(parser)
    parser.add_argument(
        "--recycle", default="none", metavar="WHICH", help="none, dead, dormant:0.025, random:8 or random:dead [none]"
    )
    parser.add_argument(
        "--prune",
        default="none",
        choices=("none", "dead", "certified"),
        help="cut out what never fires and fold in what is constant, or only what the weights prove dead [none]",
    )
    parser.add_argument("--out", type=user_path, required=True, metavar="DIR", help="where the new run is written")
    add_moved_corpus(parser)
    parser.add_argument(
        "--split", default="train", choices=("train", "val"), help="part of the corpus to probe [train]"
    )
    parser.add_argument(
        "--tokens", type=int, default=TOKENS, metavar="N", help=f"probe at most N tokens of it; 0: all [{TOKENS}]"
    )
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="seed of the new weights [the run's]")
    add_checkpoint(parser)
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print the outcome as one JSON object")


def run(values: argparse.Namespace) -> int:
    """Operate, and say what was done and what it changed; returns 0."""
    if values.tokens < 0:
        raise UsageError(f"tokens must be 0 (all) or a positive whole number; got {values.tokens}")
    if values.seed is not None:
        check_seed(values.seed)
    from minigpt.training.operate_on_run import Operation, operate

    opened = open_given(values, values.device, values.corpus)
    seed = opened.config.seed if values.seed is None else values.seed
    operation = Operation(values.recycle, values.prune, values.split, values.tokens, seed)
    outcome = operate(opened, values.out, operation)
    if values.json:
        print(to_json({"run": str(opened.directory), "out": str(values.out)} | dataclasses.asdict(outcome)))
        return 0
    _show(operation, outcome)
    quoted = shlex.quote(str(values.out))
    print(f"wrote {values.out}/\nnext:  {typed('evaluate')} {quoted}\n       {typed('train')} --resume {quoted}")
    return 0


def _show(operation: Operation, outcome: Outcome) -> None:
    """Print a table by layer, and what the operation saved and changed."""
    print(Table("", _COLUMNS, outcome.layers).terminal())
    held = f"{outcome.held_tokens:,} tokens of {outcome.held_split}"
    print(f"evidence: {outcome.tokens:,} tokens of {operation.split}, then {held}; what fired only there was kept")
    saved = outcome.parameters_before - outcome.parameters
    print(f"parameters: {outcome.parameters_before:,} - {saved:,} = {outcome.parameters:,}")
    change = f"largest change of a logit {outcome.logit_change:.1e} of the largest"
    print(f"on {held}: loss {outcome.loss_before:.4f} before, {outcome.loss:.4f} after; {change}")
