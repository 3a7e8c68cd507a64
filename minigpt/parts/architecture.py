"""The architecture: its settings, what each may be and which exclude each other.

Plain data without torch: the command line shows these fields as flags. `GPTConfig` in `model.py` adds the vocabulary,
and `RunConfig` in `training/config.py` everything else that a training needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from minigpt.base.errors import UsageError
from minigpt.base.flags import check_fields, flag

NORMS = ("layernorm", "rmsnorm", "batchnorm", "none")
POSITIONS = ("learned", "rope")
INITS = ("gpt2", "matched")
# Two ways to compute softmax attention; `MEAN` is another function.
ATTENTIONS = ("fused", "written")
MEAN = "mean"


@dataclass(frozen=True)
class Architecture:
    """The shape of a GPT; `d_ff=0` gives every layer the width whose parameters match a plain MLP of width 4C.

    Where layers differ, `activation` and `d_ff` are lists such as `0=510,1-3=512`.
    """

    activation: str = flag("relu", "model", "`minigpt activations` lists them; by layer: 0-1=relu,2-3=swiglu")
    n_layer: int = flag(4, "model", "number of blocks", at_least=1, below=1025)
    n_head: int = flag(4, "model", "attention heads", at_least=1)
    n_embd: int = flag(128, "model", "width of the residual stream", at_least=1, below=1 << 17)
    d_ff: int | str = flag(0, "model", "neurons of a layer; 0: all arms equal in size", at_least=0, below=1 << 20)
    block_size: int = flag(64, "model", "context, in tokens", at_least=1, below=1 << 20)
    bias: bool = flag(True, "model", "biases in linear layers and norms")
    norm: str = flag("layernorm", "model", "normalisation; batchnorm leaks the future in training", choices=NORMS)
    position: str = flag("learned", "model", "position encoding", choices=POSITIONS)
    residual: bool = flag(True, "model", "residual paths: on or off")
    tie_embeddings: bool = flag(True, "model", "one matrix for embedding and head")
    dropout: float = flag(0.0, "model", "dropout rate", at_least=0, below=1)
    init: str = flag("gpt2", "model", "initial scale; matched: unit-variance hidden", choices=INITS)
    init_bias: float = flag(0.0, "model", "bias of neurons at the start, in standard deviations of their z")
    attention: str = flag("fused", "model", "how attention is computed", choices=(*ATTENTIONS, MEAN))


def check_architecture(shape: Architecture) -> None:
    """Raise `UsageError` for the first value that its field does not allow, or that contradicts another."""
    check_fields(shape)
    if shape.n_embd % shape.n_head:
        raise UsageError(f"n-embd {shape.n_embd} is not divisible by n-head {shape.n_head}; choose a multiple")
    if shape.position == "rope" and shape.n_embd // shape.n_head % 2:
        head_width = shape.n_embd // shape.n_head
        raise UsageError(f"rotary positions need an even head width; got n-embd / n-head = {head_width}; choose others")
    if shape.position == "rope" and shape.attention == MEAN:
        raise UsageError("rotary positions turn queries and keys; attention mean has none; use --position learned")
    if shape.init_bias and not shape.bias:
        raise UsageError(f"init-bias {shape.init_bias:g} needs biases; bias is off; switch it on")
