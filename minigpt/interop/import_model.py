"""A model from elsewhere as a run of ours, at step 0: everything that reads a run works on it.

Its text is prepared now, since a run names the hash of its text. Nothing is evaluated. The logits of a Hugging Face
folder are compared with those of transformers, where that is installed, before anything is written.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from minigpt.base.errors import CheckpointError, UsageError
from minigpt.interop.export_hf import LARGEST_CHANGE, change_of_logits, quiet_transformers, require_transformers
from minigpt.interop.foreign_model import ForeignModel
from minigpt.interop.foreign_vocabulary import tokenizer_of
from minigpt.interop.hf_folder import read_hf_folder
from minigpt.interop.nanogpt_file import read_nanogpt
from minigpt.model import GPT
from minigpt.parts.architecture import Architecture
from minigpt.text.preparation import absolute_corpus, prepare_text
from minigpt.text.tokenizers import Tokenizer
from minigpt.training import checkpoints, run_directory, runtime
from minigpt.training.config import RunConfig
from minigpt.training.milestones import write_summary
from minigpt.training.run import Progress, assemble, preparation, save

LONGEST_CONTEXT = 8192
"""More positions must be asked for: attention's mask grows with their square in every layer."""


@dataclass(frozen=True)
class ImportSettings:
    """What the weights do not say: the vocabulary, the text, and how much of the context is wanted (None: all)."""

    corpus: str = "stdlib"
    text_field: str | None = None
    tokenizer: str | None = None
    block_size: int | None = None
    data_dir: str = "data"


@dataclass(frozen=True)
class Imported:
    """What an import found; `logit_change` is None where transformers could not be asked."""

    parameters: int
    tokenizer: str
    vocab_size: int
    unused_ids: int
    logit_change: float | None


def import_hf(folder: Path, out: Path, settings: ImportSettings, overwrite: bool) -> Imported:
    """Write the model in a Hugging Face folder as a run.

    Raises:
        UsageError: no model of ours computes the same, its tokenizer is not known, or `out` holds something.
        CheckpointError: weights are missing, damaged or do not fit; or our logits are not those of transformers.
        DataError: the text cannot be used.
    """
    run_directory.refuse_occupied(out, resume=False, overwrite=overwrite or run_directory.is_unfinished(out))
    return _write(read_hf_folder(folder), folder, out, settings)


def import_nanogpt(file: Path, out: Path, settings: ImportSettings, overwrite: bool) -> Imported:
    """Write the model in a checkpoint of nanoGPT as a run; raises as `import_hf` does."""
    run_directory.refuse_occupied(out, resume=False, overwrite=overwrite or run_directory.is_unfinished(out))
    return _write(read_nanogpt(file), file, out, settings)


def _write(foreign: ForeignModel, source: Path, out: Path, settings: ImportSettings) -> Imported:
    stored = foreign.config
    block_size = _context(stored.block_size, settings.block_size)
    tokenizer = tokenizer_of(source, settings.tokenizer, stored.vocab_size, settings.corpus, settings.text_field)
    foreign = foreign.shortened(tokenizer.vocab_size, block_size)
    model = foreign.build()
    change = _compared(model, source) if source.is_dir() else None
    config = _run_config(foreign, tokenizer, settings)
    store = prepare_text(config, tokenizer)
    run = assemble(config, out, store, model)
    unused = stored.vocab_size - tokenizer.vocab_size
    found = Imported(model.parameter_count(), tokenizer.spec, tokenizer.vocab_size, unused, change)
    event = {"kind": "event", "event": "imported", "step": 0, "source": str(source.resolve()), **asdict(found)}
    event["source_block_size"] = stored.block_size
    with preparation(run, "import", b"", [event | {"parameters_sha256": checkpoints.parameter_hash(model)}]):
        progress = Progress(committed_step=0)
        save(run, 0, asdict(progress), run.environment)
        write_summary(run, progress, "finished")
    return found


def _context(stored: int, asked: int | None) -> int:
    if asked is not None and not 1 <= asked <= stored:
        raise UsageError(f"block-size {asked} is not of this model; it has {stored:,} positions; choose 1 to {stored}")
    if asked is None and stored > LONGEST_CONTEXT:
        raise UsageError(f"the context has {stored:,} positions; say how many are wanted, such as --block-size 1024")
    return asked or stored


def _run_config(foreign: ForeignModel, tokenizer: Tokenizer, settings: ImportSettings) -> RunConfig:
    """A run of no steps, with the defaults for whatever the model does not say."""
    shape: dict[str, Any] = {item.name: getattr(foreign.config, item.name) for item in fields(Architecture)}
    config = RunConfig(
        **{**shape, "attention": "auto"},
        corpus=absolute_corpus(settings.corpus),
        text_field=settings.text_field,
        tokenizer=tokenizer.spec,
        data_dir=str(Path(settings.data_dir).absolute()),
        allow_data_change=tokenizer.spec != "byte",  # its vocabulary is kept, whatever the text would lead to
        steps=0,
        dtype="float32",
        compile="off",
    )
    return runtime.resolve(config)


def _compared(model: GPT, folder: Path) -> float | None:
    """How far our logits are from those of transformers; None without it.

    Raises:
        CheckpointError: too far for rounding.
    """
    try:
        require_transformers()
    except UsageError:
        return None
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        try:
            theirs = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
        except Exception as error:  # whatever transformers makes of a configuration that it does not like
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"transformers cannot load {folder}; {reason}; restore it from its source") from error
        change = change_of_logits(model, theirs.float())
    if not change <= LARGEST_CHANGE:
        raise CheckpointError(
            f"{folder} answers otherwise here than with transformers; logits differ by {change:.2g}; nothing was "
            "written; report this"
        )
    return change
