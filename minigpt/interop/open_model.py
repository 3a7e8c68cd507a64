"""Open anybody's language model to look at it: a folder, a GGUF file, a name on the Hub, a `.pt` of nanoGPT, a run.

No code that comes with a model is run: `trust_remote_code` stays off, and a pickle is read as weights only. What does
not load whole, or is no causal language model, is refused with the reason.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minigpt.base import storage
from minigpt.base.errors import CheckpointError, DataError, UsageError
from minigpt.interop.export_hf import quiet_transformers, require_transformers
from minigpt.interop.nanogpt_file import GPT2_SIZES, read_nanogpt
from minigpt.text import hub
from minigpt.text.encoding import Encoder
from minigpt.text.tokenizers import build_tokenizer, load_tokenizer
from minigpt.training import run_directory
from minigpt.training.inference import open_run

NANOGPT_ENDINGS = (".pt", ".pth", ".ckpt")
GGUF_ENDING = ".gguf"
# A name, or an owner and a name, as the Hub allows them.
_HUB_PART = r"[A-Za-z0-9_](?!.*(?:--|\.\.))[A-Za-z0-9._-]*(?<![.-])"
_HUB_NAME = re.compile(rf"(?=.{{1,96}}\Z)(?!.*\.git\Z){_HUB_PART}(?:/{_HUB_PART})?")
_MOST_NAMED = 3
_HUB_PATIENCE = 1.5  # seconds


@dataclass(frozen=True)
class OpenedModel:
    """A model in evaluation mode, in the dtype asked for.

    kind          `transformers`, `gguf`, `nanogpt` or `minigpt`
    body          what is called with ids (B,T): the model without its output layer where that can be left out
    tokenizer     None if it has none
    stored_dtype  how its weights are stored, or were quantised
    own_text      corpus and its fractions (val, test), of a run
    """

    name: str
    kind: str
    family: str
    model: nn.Module
    body: nn.Module
    tokenizer: Encoder | None
    context: int
    vocab_size: int
    stored_dtype: str
    own_text: tuple[str, float, float] | None = None

    @property
    def parameters(self) -> int:
        """Number of values, tied ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())


class TheirTokenizer:
    """A tokenizer of transformers as an `Encoder`: ids of plain text, without special tokens."""

    def __init__(self, theirs: Any) -> None:
        self.theirs = theirs

    @property
    def separator(self) -> tuple[int, ...]:
        """What is between two documents: the end of text, where there is one."""
        end = self.theirs.eos_token_id
        return tuple(self.theirs.encode("\n\n", add_special_tokens=False)) if end is None else (end,)

    @property
    def window_start(self) -> tuple[int, ...]:
        """What the model expects at the start of every window, as its tokenizer puts it there."""
        ids = self.theirs.encode("")
        return (ids[0],) if ids and ids[0] == self.theirs.bos_token_id else ()

    def encode(self, text: str) -> Any:
        """Ids of a piece of text (N,)."""
        import numpy as np

        try:
            return np.array(self.theirs.encode(text, add_special_tokens=False, verbose=False), dtype=np.int64)
        except Exception as reason:  # tokenizers raise bare exceptions
            raise DataError(f"the model's tokenizer cannot encode the text; {reason}; give another --text") from reason


def open_model(place: str, dtype: str, device: torch.device, tokenizer: str | None) -> OpenedModel:
    """Open the model that `place` names; `dtype` is one of torch's float types.

    Raises:
        UsageError: it is no causal language model, or a package is missing.
        CheckpointError: it is missing, damaged, incomplete, or cannot be fetched.
    """
    path = Path(place)
    if path.is_dir():
        opened = _open_run(path) if (path / "checkpoints").is_dir() else _open_folder(path)
    elif path.suffix.lower() == GGUF_ENDING:
        opened = _open_gguf(path)
    elif path.suffix.lower() in NANOGPT_ENDINGS:
        opened = _open_nanogpt(path)
    elif path.exists() or not _HUB_NAME.fullmatch(place):
        what = "is neither a folder, a .gguf nor a .pt" if path.exists() else "does not exist, and no Hub name"
        raise CheckpointError(f"cannot audit {place}; it {what}; give a folder with config.json, or a file of these")
    else:
        opened = _open_hub_name(place)
    opened.model.eval().requires_grad_(False).to(device=device, dtype=getattr(torch, dtype))
    chosen = _named_tokenizer(tokenizer) if tokenizer else opened.tokenizer
    return replace(opened, tokenizer=chosen)


def _open_run(run: Path) -> OpenedModel:
    opened = open_run(run, device="cpu")
    config = opened.config
    return OpenedModel(
        name=run.absolute().name,
        kind="minigpt",
        family=f"minigpt, {config.activation}",
        model=opened.model,
        body=opened.model,
        tokenizer=opened.tokenizer,
        context=opened.model.config.block_size,
        vocab_size=opened.model.config.vocab_size,
        stored_dtype="float32",
        own_text=(config.corpus, config.val_fraction, config.test_fraction),
    )


# -------------------------------------------------------------------------------------------------------- transformers


def _open_folder(folder: Path) -> OpenedModel:
    if not (folder / "config.json").is_file():
        advice = "give a folder in Hugging Face layout or a run of minigpt"
        raise CheckpointError(f"{folder} has no config.json; it cannot be said what model it is; {advice}")
    return _open_theirs(str(folder), folder.absolute().name, "transformers")


def _open_hub_name(name: str) -> OpenedModel:
    require_transformers()
    from huggingface_hub import try_to_load_from_cache

    fetched = isinstance(try_to_load_from_cache(name, "config.json"), str)
    if not fetched and not hub.answers(_HUB_PATIENCE):
        raise CheckpointError(
            f"cannot open {name}; it is no folder or file here, and the Hugging Face Hub cannot be reached; "
            "give a folder, or fetch the model while there is a network"
        )
    return _open_theirs(name, name.replace("/", "--"), "transformers", local_files_only=fetched)


def _open_gguf(path: Path) -> OpenedModel:
    require_transformers()
    try:
        import accelerate  # type: ignore[import-untyped]  # noqa: F401
        from gguf import GGUFReader
    except ImportError as reason:
        raise UsageError(f"a GGUF file needs two packages; {reason}; pip install gguf accelerate") from reason
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give a .gguf file")
    try:
        kinds = Counter(tensor.tensor_type.name for tensor in GGUFReader(path).tensors if len(tensor.shape) > 1)
    except (ValueError, OSError, KeyError, IndexError) as reason:
        raise CheckpointError(f"{path} is no readable GGUF file; {_first_line(reason)}; fetch it again") from reason
    opened = _open_theirs(str(path.parent), path.stem, "gguf", gguf_file=path.name)
    return replace(opened, stored_dtype=kinds.most_common(1)[0][0] if kinds else "unknown")


def _open_theirs(place: str, name: str, kind: str, local_files_only: bool = True, **where: Any) -> OpenedModel:
    require_transformers()
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

    safe: dict[str, Any] = {"local_files_only": local_files_only, **where}
    with quiet_transformers(), _without_bars():
        with _loading(name, None):
            config = AutoConfig.from_pretrained(place, trust_remote_code=False, **safe)
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise UsageError(f"{name} is of type {config.model_type}, no causal language model; an audit needs one")
        quantised = getattr(config, "quantization_config", None)
        stored = getattr(config, "dtype", None) or "float32"
        with _loading(name, quantised):
            model, report = AutoModelForCausalLM.from_pretrained(
                place,
                trust_remote_code=False,
                torch_dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported then, and refused in one line below
                **safe,
            )
        _refuse_incomplete(name, report)
        refuse_without_floats(name, model)
        tokenizer = _their_tokenizer(place, safe)
    context = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2048
    body = model.base_model
    return OpenedModel(
        name=name,
        kind=kind,
        family=config.model_type,
        model=model,
        body=body,
        tokenizer=tokenizer,
        context=int(context),
        vocab_size=int(model.get_input_embeddings().num_embeddings),
        stored_dtype=str(stored).removeprefix("torch."),
    )


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Off a terminal, without the bar that shows the dequantising, which nothing else turns off."""
    with contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _loading(name: str, quantised: Any) -> Iterator[None]:
    """Turn what transformers raises into one line."""
    try:
        yield
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, TypeError, AttributeError) as reason:
        text = str(reason)
        if "gated" in text.lower() or type(reason).__name__ == "GatedRepoError":
            advice = "accept its licence on its page, then `hf auth login`"
            raise CheckpointError(f"{name} is gated; the Hub wants to know who asks; {advice}") from reason
        if quantised is not None:
            advice = "an audit needs float weights; give the model before quantisation"
            raise UsageError(f"cannot load the quantised {name}; {_first_line(reason)}; {advice}") from reason
        if "trust_remote_code" in text:
            advice = "an audit runs no code of a model; load it yourself and use NeuronProbe.for_modules({...})"
            raise UsageError(f"{name} brings its own code; {advice}") from reason
        raise CheckpointError(f"cannot load {name}; {_first_line(reason)}; check its files") from reason


def _refuse_incomplete(name: str, report: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` if weights are missing or of other shapes: they would be random numbers."""
    for key, what in (("missing_keys", "has no weights for"), ("mismatched_keys", "has weights of other shapes for")):
        keys = sorted(str(item[0] if isinstance(item, tuple | list) else item) for item in report.get(key) or ())
        if keys:
            more = f" and {len(keys) - _MOST_NAMED} more" if len(keys) > _MOST_NAMED else ""
            raise CheckpointError(
                f"{name} {what} {', '.join(keys[:_MOST_NAMED])}{more}; what is missing would be random; "
                "give the whole model"
            )


def refuse_without_floats(name: str, model: nn.Module) -> None:
    """Raise `UsageError` if a weight matrix is no float: what a neuron writes could not be read."""
    for path, module in model.named_modules():
        weight = getattr(module, "weight", None)
        packed = callable(weight) or (isinstance(weight, Tensor) and not weight.is_floating_point())
        if packed or "Quant" in type(module).__name__:
            raise UsageError(
                f"{name} is quantised; {path} is a {type(module).__name__} without float weights; "
                "give the model before quantisation, or a GGUF file, which is dequantised"
            )


def _their_tokenizer(place: str, safe: dict[str, Any]) -> TheirTokenizer | None:
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **safe)
        # NOTE: where there is no tokenizer, an empty one is made up.
        return TheirTokenizer(found) if set(found.get_vocab()) - set(found.all_special_tokens) else None
    except Exception:  # whatever a missing or foreign tokenizer raises: `--tokenizer` or raw ids take its place
        return None


def _first_line(reason: BaseException) -> str:
    lines = [line.strip() for line in str(reason).splitlines() if line.strip()]
    return (lines[0] if lines else type(reason).__name__)[:300].rstrip(".")


# ------------------------------------------------------------------------------------------------------------- nanoGPT


def _open_nanogpt(path: Path) -> OpenedModel:
    """A checkpoint of nanoGPT, as our own GPT."""
    model = read_nanogpt(path).build()
    vocabulary = model.config.vocab_size
    return OpenedModel(
        name=path.absolute().parent.name if path.stem == "ckpt" else path.stem,
        kind="nanogpt",
        family="nanoGPT",
        model=model,
        body=model,
        tokenizer=_gpt2_tokenizer() if vocabulary in GPT2_SIZES else None,
        context=model.config.block_size,
        vocab_size=vocabulary,
        stored_dtype="float32",
    )


# ---------------------------------------------------------------------------------------------------------- tokenizers


def _gpt2_tokenizer() -> Encoder | None:
    with contextlib.suppress(DataError):
        return build_tokenizer("gpt2", list, list)
    return None


def _named_tokenizer(spec: str) -> Encoder:
    """`byte`, `gpt2`, a folder in Hugging Face layout, or a tokenizer.json of ours."""
    path = Path(spec)
    if path.is_dir() and not (path / "checkpoints").is_dir():
        require_transformers()
        with quiet_transformers():
            found = _their_tokenizer(spec, {"local_files_only": True})
        if found is None:
            raise DataError(f"{spec} has no tokenizer that transformers reads; give another --tokenizer")
        return found
    if path.exists():
        path = path / run_directory.TOKENIZER if path.is_dir() else path
        return load_tokenizer(storage.read_json(path, DataError), str(path))
    if spec not in ("byte", "gpt2"):
        raise UsageError(f"unknown tokenizer {spec!r}; allowed: byte, gpt2, a folder or a tokenizer.json")
    return build_tokenizer(spec, list, list)
