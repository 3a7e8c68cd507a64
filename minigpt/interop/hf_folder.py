"""A folder in Hugging Face layout, read as data: `config.json` and safetensors, in one file or in shards."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from minigpt.base import storage
from minigpt.base.errors import CheckpointError
from minigpt.interop.correspondence import importable_class, our_config
from minigpt.interop.export_hf import CONFIG_FILE, WEIGHTS_FILE
from minigpt.interop.foreign_model import ForeignModel, fit

_INDEX = "model.safetensors.index.json"


def read_hf_folder(folder: Path) -> ForeignModel:
    """The model in a folder, as one of ours.

    Raises:
        UsageError: no model of ours computes what it does; the message names the part.
        CheckpointError: there is no configuration, or weights are missing, damaged or do not fit.
    """
    theirs = _read_config(folder)
    config = our_config(theirs)
    rules = importable_class(theirs).rules
    weights = _with_prefix(_read_weights(folder), rules[0].theirs[0].partition(".")[0])
    return fit(config, weights, rules, str(folder))


def _read_config(folder: Path) -> dict[str, Any]:
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file, not a Hugging Face folder; for nanoGPT's use import-nanogpt")
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(
            f"no Hugging Face model at {folder}; it has no {CONFIG_FILE}; give the folder that holds it"
        )
    theirs = read_json(folder / CONFIG_FILE)
    if not isinstance(theirs, dict):
        raise CheckpointError(f"{folder / CONFIG_FILE} is no configuration; got {type(theirs).__name__}; restore it")
    return theirs


def read_json(path: Path) -> Any:
    """One JSON document; through links, of which a download cache is full."""
    return storage.read_json(path.resolve(), CheckpointError)


def _read_weights(folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS_FILE).is_file():
        return _read_all(folder, [WEIGHTS_FILE])
    if (folder / _INDEX).is_file():
        index = read_json(folder / _INDEX)
        places = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(places, dict) or not all(_is_plain(name) for name in places.values()):
            raise CheckpointError(f"{folder / _INDEX} is no index; it names no files of this folder; restore it")
        return _read_all(folder, sorted(set(places.values())))
    if any(folder.glob("*.bin")):
        command = f"AutoModelForCausalLM.from_pretrained({str(folder)!r}).save_pretrained('converted')"
        raise CheckpointError(
            f"{folder} has its weights in pickles only, which can run code and are not opened; if you trust them, "
            f"convert them in Python: {command}"
        )
    raise CheckpointError(f"{folder} has no weights; neither {WEIGHTS_FILE} nor {_INDEX} is there; restore it")


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name


def _read_all(folder: Path, names: Iterable[str]) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name in names:
        try:
            weights |= safetensors.torch.load_file(folder / name)
        except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"{folder / name} cannot be read; {error}; restore it from its source") from error
    return weights


def _with_prefix(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Names as the class with a head has them: some folders, GPT-2's own too, hold the model without one."""
    if any(name.startswith(f"{prefix}.") for name in weights):
        return weights
    return {name if name.startswith("lm_head.") else f"{prefix}.{name}": tensor for name, tensor in weights.items()}
