"""`minigpt audit MODEL`: the neurons of anybody's language model."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from minigpt.base import formats
from minigpt.base.errors import UsageError
from minigpt.base.flags import Parser, path_text, user_path
from minigpt.base.health_columns import AUDIT, TRUSTED_TOKENS, by_question, health_tables, reasons_for_missing
from minigpt.base.help_text import Introduction
from minigpt.base.storage import lock_directory, remove_tree, to_json, write_text
from minigpt.base.tables import Table, terminal_width, wrapped
from minigpt.commands.run_flags import add_device, add_threads, check_threads
from minigpt.commands.showing import add_json_or_open, show

PAGE = "audit.html"
AUDITS = Path("audits")

INTRODUCTION = Introduction(
    examples=(
        ("runs/tiny-relu-s1337", "a run of minigpt"),
        ("FOLDER --text my.txt --tokens 1000000", "a model of Hugging Face on disk, on your text"),
    ),
    common=("--text", "--tokens", "--context", "--dtype", "--device", "--out", "--overwrite", "--json"),
)


def add_flags(parser: Parser) -> None:
    """The model, the text, and how to count."""
    parser.introduction = INTRODUCTION
    parser.add_argument(
        "model",
        type=path_text,
        metavar="MODEL",
        help="a folder in Hugging Face layout, a .gguf, a name on the Hub, a .pt of nanoGPT, or a run",
    )
    text = parser.add_argument_group("text")
    text.add_argument(
        "--text",
        type=path_text,
        action="append",
        default=[],
        metavar="NAME",
        help="a corpus as in training, or a .bin of raw ids; may be repeated [stdlib, or the run's]",
    )
    text.add_argument("--text-field", metavar="NAME", help="which field of rows is the text")
    text.add_argument("--split", choices=("train", "val", "all"), help="part of the text [all; val for a run of ours]")
    text.add_argument("--tokens", type=int, metavar="N", help="count on at most N tokens [1048576]")
    text.add_argument(
        "--context", type=int, default=0, metavar="N", help="tokens of a window [the model's, up to 2048]"
    )
    text.add_argument(
        "--tokenizer", type=path_text, metavar="NAME", help="byte, gpt2, a folder or a tokenizer.json [the model's]"
    )
    text.add_argument(
        "--position-0",
        choices=("include", "exclude", "both"),
        default="include",
        help="whether the first token of a window counts, where many models park attention [include]",
    )
    text.add_argument(
        "--slopes",
        action="store_true",
        help="also count where the activation is flat or linear, which takes longer",
    )
    text.add_argument(
        "--expendable",
        action="store_true",
        help="also search which neurons could be replaced by their means for 1 %% more perplexity",
    )
    text.add_argument(
        "--expendable-tokens",
        type=int,
        metavar="N",
        help="the same, predicting N tokens that were held out of the count [8192]",
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="in which to compute; where an activation is exactly 0 depends on it [float32]",
    )
    add_device(machine)
    add_threads(machine)
    machine.add_argument("--batch-tokens", type=int, default=0, metavar="N", help="tokens at once; 0: by device [0]")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=user_path, metavar="DIR", help="where it goes [audits/NAME]")
    output.add_argument("--overwrite", action="store_true", help="replace an audit that is there")
    add_json_or_open(output, "print the figures as one JSON object")


def run(values: argparse.Namespace) -> int:
    """Audit a model, print what was found and leave it in a directory; returns 0."""
    _check(values)
    out = values.out or AUDITS / _name(values.model)
    _refuse_occupied(out, values.overwrite)
    from minigpt.interop.audit import AuditOptions, audit, write
    from minigpt.report.audit_page import audit_page
    from minigpt.training import runtime
    from minigpt.training.diagnose_run import LOSS_TOKENS

    runtime.set_up_process(values.threads)
    options = AuditOptions(
        texts=tuple(values.text),
        split=values.split,
        text_field=values.text_field,
        tokens=values.tokens,
        context=values.context,
        dtype=values.dtype,
        position_0=values.position_0,
        slopes=values.slopes,
        expendable=values.expendable_tokens or (LOSS_TOKENS if values.expendable else 0),
        tokenizer=values.tokenizer,
        device=values.device,
        batch_tokens=values.batch_tokens,
    )
    with lock_directory(out):
        if values.overwrite:
            _clear(out)
        found = audit(values.model, options, out)
        written = write(found, out)
        write_text(out / PAGE, audit_page(out))
    if values.json:
        print(to_json(found.record))
        return 0
    print(audit_text(found.record))
    names = ", ".join([*(path.name for path in written), PAGE])
    print(f"wrote {names} into {out} in {formats.duration(found.record['seconds'])}")
    show(out / PAGE, values.open)
    return 0


def _check(values: argparse.Namespace) -> None:
    by_default = {"context": 0, "batch_tokens": 0}  # chosen by the model, or by the device
    for name, least in (("tokens", 1), ("context", 2), ("batch_tokens", 1), ("expendable_tokens", 1)):
        number = getattr(values, name)
        if number != by_default.get(name) and number < least:
            raise UsageError(f"{name.replace('_', '-')} is too small; got {number}; at least {least}")
    check_threads(values.threads)


def _name(model: str) -> str:
    """The name of an audit's directory: the last part of a path without its ending, a name on the Hub as it is."""
    path = Path(model)
    named = path.resolve().name if path.is_dir() else model if not path.exists() else path.stem
    return re.sub(r"[^\w.-]+", "--", named).strip(".-") or "model"


def _refuse_occupied(out: Path, overwrite: bool) -> None:
    """Raise `UsageError` if a directory holds a finished audit, or anything that is none."""
    if overwrite or not out.exists():
        return
    if (out / "audit.json").exists():
        raise UsageError(f"{out} holds a finished audit; choose another --out, or --overwrite")
    if not out.is_dir() or any(not path.name.startswith((".", "partial", "audit")) for path in out.iterdir()):
        raise UsageError(f"{out} holds something that is no audit; choose another --out")


def _clear(out: Path) -> None:
    from minigpt.interop.audit import RECORD, TABLE
    from minigpt.interop.count_sites import PARTIAL
    from minigpt.interop.spare_sites import SEARCHED

    for name in (RECORD, TABLE, PAGE, PARTIAL, SEARCHED):
        remove_tree(out / name)


def audit_text(record: dict[str, Any]) -> str:
    """What `audit.json` holds: the answer, then tables by layer, each with what its columns mean below."""
    width = terminal_width()
    head = f"{record['name']} ({record['family']}), {record['parameters']:,} parameters"
    lines = [record["answer"], *([record["published"]] if record["published"] else [])]
    parts = [head, *(wrapped(line, width) for line in lines)]
    parts += [table.terminal() for table in _tables(record)]
    missing: dict[tuple[str, str], list[str]] = {}
    for key, where, why in reasons_for_missing(record["layers"]):
        missing.setdefault((where, why), []).append(key.replace("_", " "))
    reasons = [
        f"{formats.MISSING} no {', '.join(keys)} in layer {where}: {why}" for (where, why), keys in missing.items()
    ]
    return "\n\n".join([*parts, *(["\n".join(wrapped(line, width) for line in reasons)] if reasons else [])])


def _tables(record: dict[str, Any]) -> list[Table]:
    mark = "" if record["tokens"] >= TRUSTED_TOKENS else "!"
    keys = [key for key in AUDIT if record["model"]["dead"] or not key.startswith("chao1/")]
    return health_tables(by_question(keys, record["layers"]), record["layers"], record["model"], mark=mark)
