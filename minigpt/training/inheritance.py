"""A start from another run's weights (`--init-from`): read, compared, taken over, and some neurons operated on.

The parent is only read, and its newest good checkpoint is what counts. What it was trained on, how fast, with which
activation and dropout may differ; the architecture and the vocabulary may not, except that an alphabet may have grown:
new characters get random weights. The neurons to be recycled first are judged on the new run's own training text. All
of it is a pure function of the parent's weights and the configuration, and is done once: a run that has a checkpoint
goes on from there and does not look at its parent again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from minigpt.base import storage
from minigpt.base.errors import CheckpointError, UsageError
from minigpt.base.flags import expanded
from minigpt.base.health_columns import TRUSTED_TOKENS
from minigpt.model import GPT
from minigpt.neurons.life import Event
from minigpt.parts.architecture import MEAN
from minigpt.text.store import TokenStore
from minigpt.text.tokenizers import CharTokenizer, Tokenizer
from minigpt.training import checkpoints, run_directory
from minigpt.training.config import RunConfig
from minigpt.training.recycling import recycle_neurons
from minigpt.training.run import Run, model_config, vocabulary_hash
from minigpt.training.terminal import print_notice

# A rare neuron taken for dead would be operated on for nothing: it is judged on several times what is trusted.
JUDGED_TOKENS = 4 * TRUSTED_TOKENS
SHARED = ("n_layer", "n_head", "n_embd", "block_size", "bias", "norm", "position", "residual", "tie_embeddings")


@dataclass(frozen=True)
class Parent:
    """The run that another one starts from, at its newest good checkpoint."""

    directory: Path
    config: RunConfig
    checkpoint: checkpoints.Checkpoint


def parent_identity(config: RunConfig) -> dict[str, str]:
    """What the identity of a run says of its parent: hashes of the weights, and of the moments if it takes them over.

    Empty for a run that starts from random weights.

    Raises:
        CheckpointError: the parent has no usable checkpoint.
    """
    if config.init_from is None:
        return {}
    data = _read_parent(config.init_from).checkpoint.data
    return _identity(data, config.init_moments)


def load_parent(config: RunConfig, directory: Path, store: TokenStore, model: GPT) -> Parent | None:
    """Put the weights of the run that a configuration names into `model`; None if it starts from random ones.

    Raises:
        UsageError: the parent has another architecture, vocabulary or, if its moments are wanted, optimizer.
        CheckpointError: it has no usable checkpoint, or its tensors do not fit.
    """
    if config.init_from is None:
        return None
    parent = _read_parent(config.init_from)
    if directory.resolve() == parent.directory.resolve():
        raise UsageError(f"a run cannot start from itself; --init-from and --out are {directory}; choose another --out")
    grown = _places_in_larger_alphabet(parent, store.tokenizer)
    _check_kinship(config, vocabulary_hash(store), parent, grown is not None)
    if grown is None:
        checkpoints.load_model(parent.checkpoint, model)
    else:
        _load_into_larger(parent, grown, config, model)
    return parent


def _places_in_larger_alphabet(parent: Parent, ours: Tokenizer) -> Tensor | None:
    """Which id each of the parent's characters (V,) has here; None unless the alphabet is the parent's and more."""
    theirs = run_directory.read_run_tokenizer(parent.directory)
    if not (isinstance(theirs, CharTokenizer) and isinstance(ours, CharTokenizer)):
        return None
    if theirs.characters == ours.characters or ours.unknown(theirs.characters):
        return None
    return torch.from_numpy(ours.encode(theirs.characters))


def _load_into_larger(parent: Parent, places: Tensor, config: RunConfig, model: GPT) -> None:
    """Put the parent's weights into a model with more characters, whose own rows stay as they are."""
    smaller = GPT(model_config(config, len(places)))
    checkpoints.load_model(parent.checkpoint, smaller)
    stored = smaller.stored_tensors()
    with torch.no_grad():
        for name, tensor in model.stored_tensors().items():
            if tensor.shape == stored[name].shape:
                tensor.copy_(stored[name])
            else:
                tensor[places.to(tensor.device)] = stored[name].to(tensor.device)


def inherit(run: Run, parent: Parent, between_batches: Callable[[], None]) -> list[Event]:
    """Take over what else the configuration names, operate, and return what the log says of it; nothing is written.

    `between_batches` may raise to stop early.

    Raises:
        CheckpointError: the parent's moments do not fit.
    """
    config = run.config
    if config.init_moments:
        checkpoints.load_optimizer(parent.checkpoint, run.model, run.optimizer)
    run.identity.update(_identity(parent.checkpoint.data, config.init_moments))
    event = {
        "kind": "event",
        "event": "inherited",
        "step": 0,
        "source": str(parent.directory),
        "source_step": parent.checkpoint.step,
        "moments": config.init_moments,
    }
    if config.init_surgery == "none":
        return [event]
    return [event, recycle_neurons(run, config.init_surgery, 0, between_batches, JUDGED_TOKENS)]


def _read_parent(place: str) -> Parent:
    directory = Path(expanded(place))
    config = run_directory.read_config(directory)
    checkpoint = checkpoints.newest(directory, notice=print_notice)
    if checkpoint is None:
        raise CheckpointError(f"{directory} has no checkpoint to start from; train it first, or choose another run")
    return Parent(directory, config, checkpoint)


def _identity(data: dict[str, bytes], with_moments: bool) -> dict[str, str]:
    names = (checkpoints.MODEL_FILE, checkpoints.OPTIMIZER_FILE) if with_moments else (checkpoints.MODEL_FILE,)
    return {"parent": "/".join(storage.sha256_bytes(data[name]) for name in names)}


def _check_kinship(config: RunConfig, vocabulary: str, parent: Parent, grown: bool) -> None:
    ours, theirs = _architecture(config), _architecture(parent.config)
    differing = [f"{name} {ours[name]} (there {theirs[name]})" for name in ours if ours[name] != theirs[name]]
    if differing:
        listed = ", ".join(differing).replace("_", "-")
        raise UsageError(f"cannot start from {parent.directory}; the architectures differ: {listed}; make them equal")
    if grown and config.init_moments:
        raise UsageError("init-moments needs the same vocabulary; this text has more characters; leave it out")
    if not grown and parent.checkpoint.identity.get("tokenizer") != vocabulary:
        raise UsageError(
            f"cannot start from {parent.directory}; its vocabulary is another one; use its text, or train both runs "
            "with --tokenizer byte, which is the same for every text"
        )
    if config.init_moments and config.optimizer != parent.config.optimizer:
        got = f"{config.optimizer}, there {parent.config.optimizer}"
        raise UsageError(f"init-moments needs the same optimizer; got {got}; leave it out or use --optimizer alike")


def _architecture(config: RunConfig) -> dict[str, object]:
    """What two runs must have in common for the one to start from the other's weights."""
    shared: dict[str, object] = {name: getattr(config, name) for name in SHARED}
    widths = model_config(config, vocab_size=1).layer_widths
    return shared | {"d_ff": widths, "attention": "mean" if config.attention == MEAN else "softmax"}
