"""A model from elsewhere as one of ours: every tensor has its place and shape, or all that do not are named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from minigpt.base.errors import CheckpointError
from minigpt.interop.correspondence import Rule, to_ours, to_theirs
from minigpt.model import GPT, GPTConfig

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# Masks and frequencies that older versions stored beside the weights; they follow from the configuration.
_NO_WEIGHTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
_HEAD = "lm_head.weight"
_NAMED = 20


@dataclass(frozen=True)
class ForeignModel:
    """What a model of ours needs to compute the same: its configuration, and its weights in float32 by our names."""

    config: GPTConfig
    weights: dict[str, Tensor]

    def shortened(self, vocab_size: int, block_size: int) -> ForeignModel:
        """The same with the first ids and positions only."""
        kept = {"wte.weight": vocab_size, "lm_head.weight": vocab_size, "wpe.weight": block_size}
        weights = {name: tensor[: kept.get(name, len(tensor))] for name, tensor in self.weights.items()}
        return ForeignModel(replace(self.config, vocab_size=vocab_size, block_size=block_size), weights)

    def build(self) -> GPT:
        """The model, on the CPU and in evaluation mode."""
        model = GPT(self.config)
        with torch.no_grad():
            for name, tensor in model.stored_tensors().items():
                tensor.copy_(self.weights[name])
        return model.eval()


def fit(config: GPTConfig, theirs: Mapping[str, Tensor], rules: tuple[Rule, ...], source: str) -> ForeignModel:
    """Give their tensors our names, after checking that they are those of the configuration.

    A model that has biases in some places only gets zeros in the others; where all are zero and the configuration
    says that there are none, they are left out.

    Raises:
        CheckpointError: tensors are missing, left over, not finite or of another shape or type; all are listed.
    """
    theirs = {name: tensor for name, tensor in theirs.items() if not name.endswith(_NO_WEIGHTS)}
    expected = _expected(config, rules)
    possible = expected | _expected(replace(config, bias=True), rules)
    problems = [f"{name} is missing" for name in expected if name not in theirs]
    problems += [f"{name} has no place in such a model" for name in theirs if name not in {*possible, _HEAD}]
    for name in theirs.keys() & possible.keys():
        got, wanted = theirs[name], possible[name]
        if got.shape != wanted.shape or got.dtype not in _DTYPES:
            problems.append(f"{name} is {tuple(got.shape)} {got.dtype}, not {tuple(wanted.shape)} in floating point")
        elif not torch.isfinite(got).all():
            problems.append(f"{name} is not finite")
    if config.tie_embeddings and not problems:
        problems += _untied(theirs, rules)
    if problems:
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        listed = "; ".join(sorted(problems)[:_NAMED])
        raise CheckpointError(f"{source} does not fit its configuration; {listed}{more}; restore it from its source")
    needed = {name: tensor.float() for name, tensor in theirs.items() if name in possible}
    extra = needed.keys() - expected.keys()
    if any(bool(needed[name].any()) for name in extra):
        config, expected = replace(config, bias=True), possible
        needed |= {name: torch.zeros(tensor.shape) for name, tensor in possible.items() if name not in needed}
    return ForeignModel(config, to_ours({name: needed[name] for name in expected}, rules, config.n_layer))


def _expected(config: GPTConfig, rules: tuple[Rule, ...]) -> dict[str, Tensor]:
    """Their tensors, by name, without content."""
    with torch.device("meta"):
        return to_theirs(GPT(config).stored_tensors(), rules, config.n_layer)


def _untied(theirs: Mapping[str, Tensor], rules: tuple[Rule, ...]) -> list[str]:
    """What is wrong if the head is said to be the embedding and is stored as something else."""
    embedding = theirs[rules[0].theirs[0]]
    head = theirs.get(_HEAD, embedding)
    return [] if torch.equal(head, embedding) else [f"{_HEAD} is not the embedding that it is said to be tied to"]
