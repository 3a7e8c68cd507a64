"""`minigpt export`, `import-hf` and `import-nanogpt`: runs written for other programs, and models taken in."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from minigpt.base.errors import UsageError
from minigpt.base.flags import Parser, expanded, path_text, user_path
from minigpt.base.help_text import Introduction
from minigpt.base.invocation import typed
from minigpt.base.storage import to_json
from minigpt.commands.run_flags import add_checkpoint, add_run, open_given

if TYPE_CHECKING:
    from minigpt.interop.import_model import Imported, ImportSettings

FORMATS = ("hf",)


def add_export_flags(parser: Parser) -> None:
    """The run, and where it goes."""
    parser.introduction = Introduction(
        examples=(
            ("--to hf my-model", "the newest run as a model of Hugging Face"),
            ("runs/tiny-relu-s1337 --to hf my-model --overwrite", "another, over an earlier export"),
        )
    )
    add_run(parser)
    parser.add_argument(
        "--to", nargs=2, required=True, metavar=("hf", "FOLDER"), help="write FOLDER in the layout of Hugging Face"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in FOLDER")
    add_checkpoint(parser)
    parser.add_argument("--json", action="store_true", help="print what was written as one JSON object")


def run_export(values: argparse.Namespace) -> int:
    """Export, and say what was written and how far its logits are from the run's; returns 0."""
    kind, folder = values.to[0], Path(expanded(values.to[1]))
    if kind not in FORMATS:
        raise UsageError(f"unknown format {kind!r}; allowed: {', '.join(FORMATS)}; write --to hf FOLDER")
    from minigpt.interop.correspondence import class_for
    from minigpt.interop.export_hf import export_hf

    opened = open_given(values, "cpu")
    change = export_hf(opened.model, opened.tokenizer, folder, overwrite=values.overwrite)
    architecture, step = class_for(opened.model.config).architecture, opened.checkpoint.step
    if values.json:
        written = {"run": str(opened.directory), "step": step, "folder": str(folder)}
        print(to_json({**written, "class": architecture, "tokenizer": opened.tokenizer.spec, "logit_change": change}))
        return 0
    print(f"wrote {folder}/: {architecture} and its tokenizer ({opened.tokenizer.spec}), from step {step}")
    print(f"read back by transformers; largest change of a logit {change:.1e} of the largest")
    print(
        f"next:  python -c \"from transformers import pipeline; print(pipeline('text-generation', {str(folder)!r}))\""
    )
    return 0


def add_import_hf_flags(parser: Parser) -> None:
    """The folder, where the run goes, and what the weights do not say."""
    parser.introduction = Introduction(
        examples=(
            ("FOLDER --out runs/imported", "a model of Hugging Face"),
            ("FOLDER --out runs/imported --corpus my.txt", "evaluated on your text"),
        )
    )
    parser.add_argument("source", type=user_path, metavar="FOLDER", help="folder with config.json and safetensors")
    _add_import_flags(parser, "what the folder has")


def add_import_nanogpt_flags(parser: Parser) -> None:
    """The checkpoint, where the run goes, and what the weights do not say."""
    parser.introduction = Introduction(
        examples=(
            ("ckpt.pt --out runs/imported", "a model with GPT-2's vocabulary"),
            ("ckpt.pt --out runs/imported --tokenizer char --corpus my.txt", "one of characters"),
        )
    )
    parser.add_argument("source", type=user_path, metavar="FILE", help="a checkpoint of nanoGPT, ckpt.pt")
    _add_import_flags(parser, "gpt2 where the size is GPT-2's")


def _add_import_flags(parser: Parser, default_tokenizer: str) -> None:
    parser.add_argument("--out", type=user_path, required=True, metavar="RUN", help="where the run is written")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is there")
    help_ = f"byte, char (the alphabet of the corpus), gpt2, or a tokenizer.json of minigpt [{default_tokenizer}]"
    parser.add_argument("--tokenizer", metavar="NAME", help=help_)
    parser.add_argument(
        "--corpus", type=path_text, default="stdlib", metavar="TEXT", help="text to evaluate it on [stdlib]"
    )
    parser.add_argument("--text-field", metavar="NAME", help="field of rows that is the text")
    parser.add_argument("--block-size", type=int, metavar="N", help="use the first N positions only [all]")
    parser.add_argument(
        "--data-dir", type=path_text, default="data", metavar="DIR", help="where prepared tokens are kept [data]"
    )
    parser.add_argument("--json", action="store_true", help="print what was written as one JSON object")


def run_import_hf(values: argparse.Namespace) -> int:
    """Import a Hugging Face folder and say what came of it; returns 0."""
    from minigpt.interop.import_model import import_hf

    return _report(values, import_hf(values.source, values.out, _settings(values), values.overwrite))


def run_import_nanogpt(values: argparse.Namespace) -> int:
    """Import a checkpoint of nanoGPT and say what came of it; returns 0."""
    from minigpt.interop.import_model import import_nanogpt

    return _report(values, import_nanogpt(values.source, values.out, _settings(values), values.overwrite))


def _settings(values: argparse.Namespace) -> ImportSettings:
    from minigpt.interop.import_model import ImportSettings

    names = [item.name for item in dataclasses.fields(ImportSettings)]
    return ImportSettings(**{name: getattr(values, name) for name in names})


def _report(values: argparse.Namespace, found: Imported) -> int:
    if values.json:
        print(to_json({"source": str(values.source), "out": str(values.out)} | dataclasses.asdict(found)))
        return 0
    vocabulary = f"tokenizer {found.tokenizer}, {found.vocab_size:,} ids"
    cut = f"; {found.unused_ids} padded ids were cut off" if found.unused_ids else ""
    print(f"wrote {values.out}/: {found.parameters:,} parameters, {vocabulary}{cut}")
    print(_compared(values.source, found))
    quoted = shlex.quote(str(values.out))
    print(f"next:  {typed('evaluate')} {quoted}\n       {typed('neurons')} {quoted}")
    return 0


def _compared(source: Path, found: Imported) -> str:
    if found.logit_change is not None:
        return f"compared with transformers: largest change of a logit {found.logit_change:.1e} of the largest"
    if source.is_dir():
        return (
            "note: not compared with transformers, which is not installed; in minigpt's folder: pip install -e '.[hf]'"
        )
    return "note: the logits were not compared; nanoGPT is no package"
