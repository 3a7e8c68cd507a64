"""A run as a folder that `AutoModelForCausalLM` and `AutoTokenizer` load, read back before it is trusted."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from minigpt.base import randomness, storage
from minigpt.base.errors import CheckpointError, UsageError
from minigpt.interop.correspondence import class_for, hf_config, to_theirs
from minigpt.interop.hf_tokenizer import hf_tokenizer
from minigpt.model import GPT
from minigpt.text.tokenizers import Tokenizer

LARGEST_CHANGE = 1e-5  # of a logit in float32, relative to the largest
TOKENIZER_FILE = "minigpt_tokenizer.json"
"""Our own form of the tokenizer, written first, which tells an export of ours and which an import prefers."""
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
_FILES = (CONFIG_FILE, WEIGHTS_FILE, "tokenizer.json", "tokenizer_config.json", TOKENIZER_FILE)


def export_hf(model: GPT, tokenizer: Tokenizer, folder: Path, overwrite: bool = False) -> float:
    """Write `model` and `tokenizer` into a new folder; return the largest change of a logit, read back from there.

    With `overwrite` it may hold an earlier export, begun or whole, which is replaced.

    Raises:
        UsageError: no class of transformers computes what the model does, transformers is missing, or the folder is
            not empty.
        CheckpointError: what was written answers otherwise than the model.
    """
    require_transformers()
    found = class_for(model.config)
    _clear(folder, overwrite)
    storage.make_directory(folder)
    with quiet_transformers():
        _write_tokenizer(tokenizer, folder)
        weights = _weights(model)
        storage.write_bytes(folder / WEIGHTS_FILE, safetensors.torch.save(weights, {"format": "pt"}))
        architecture = {"architectures": [found.architecture], "model_type": found.model_type, "dtype": "float32"}
        storage.write_json(folder / CONFIG_FILE, architecture | hf_config(model.config))
        change = _change_of_logits(model, folder)
    if not change <= LARGEST_CHANGE:
        raise CheckpointError(f"{folder} answers otherwise than the model; logits differ by {change:.2g}; report this")
    return change


def _clear(folder: Path, overwrite: bool) -> None:
    """Make room where that is allowed; what is not of an export of ours is never deleted."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; an export needs a folder; choose another name")
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if found and not overwrite:
        raise UsageError(f"{folder} is not empty; use --overwrite to replace an earlier export, or choose another name")
    if found and not (TOKENIZER_FILE in found and found <= set(_FILES)):
        raise UsageError(f"{folder} holds more than an export, so --overwrite will not touch it; choose another name")
    for name in sorted(found, key=_FILES.index):  # the tokenizer of ours, which tells what it is, goes last
        storage.remove_tree(folder / name)


def require_transformers() -> None:
    """Raise `UsageError` unless transformers can be imported."""
    try:
        import transformers  # noqa: F401
    except ImportError as reason:
        raise UsageError(f"this needs transformers; {reason}; in minigpt's folder: pip install -e '.[hf]'") from reason


def _weights(model: GPT) -> dict[str, Tensor]:
    """All tensors under their names; biases that their class has and ours lacks are zeros."""
    from transformers import AutoConfig, AutoModelForCausalLM

    found, config = class_for(model.config), model.config
    weights = to_theirs(model.stored_tensors(), found.rules, config.n_layer)
    weights = {name: tensor.detach().cpu().float().contiguous() for name, tensor in weights.items()}
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(AutoConfig.for_model(found.model_type, **hf_config(config)))
    for name, parameter in empty.named_parameters():
        if name not in weights:
            assert name.endswith(".bias"), f"{name} has no tensor of ours"
            weights[name] = torch.zeros(parameter.shape)
    return weights


def _write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    theirs = hf_tokenizer(tokenizer)
    storage.write_json(folder / TOKENIZER_FILE, tokenizer.to_json())
    storage.write_text(folder / "tokenizer.json", theirs.backend_tokenizer.to_str())
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    settings |= {name: str(token) for name, token in theirs.special_tokens_map.items()}
    storage.write_json(folder / "tokenizer_config.json", settings)


def _change_of_logits(model: GPT, folder: Path) -> float:
    """Largest difference of a logit between the model and what a stranger loads, relative to the largest logit."""
    from transformers import AutoModelForCausalLM

    loaded, report = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    unmatched = {name: keys for name, keys in report.items() if keys}
    if unmatched:
        raise CheckpointError(f"{folder} was not loaded whole; {unmatched}; report this")
    return change_of_logits(model, loaded)


@torch.no_grad()
def change_of_logits(model: GPT, theirs: nn.Module) -> float:
    """Largest difference between two models in the logits of our vocabulary, relative to the largest logit of ours.

    The random ids fill the whole context, so that every position is compared.
    """
    config, device = model.config, model.device
    shape = (2, config.block_size)
    ids = torch.randint(config.vocab_size, shape, generator=randomness.generator(0, "export check"))
    difference, scale = torch.zeros(()), torch.ones(())
    theirs.eval()
    try:
        with model.cpu().evaluating():
            for row in ids:
                ours = model(row[None])
                logits: Tensor = theirs(row[None]).logits[..., : config.vocab_size]
                difference = torch.maximum(difference, (ours - logits).abs().max())
                scale = torch.maximum(scale, ours.abs().max())
    finally:
        model.to(device)
    return float(difference / scale)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without the progress bars and advice of transformers, which are for its own users."""
    from transformers.utils import logging as theirs

    logger = logging.getLogger("transformers")
    level, bars = logger.level, theirs.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            theirs.enable_progress_bar()
