"""What a token costs: the one count of floating-point operations, which needs no model to be built.

Source: Chowdhery et al. 2022 (PaLM), appendix B; the saving of the causal mask is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

# Forward once, backward twice; and each weight takes a multiplication and an addition.
_PASSES, _PER_WEIGHT = 3, 2


def flops_per_token(
    n_embd: int,
    block_size: int,
    vocab_size: int,
    widths: Sequence[int],
    branches: Sequence[int],
    softmax_attention: bool,
) -> int:
    """Forward and backward operations per token: 6N + 12·L·C·T, N the weights used in products.

    A causal mean instead of softmax attention has neither queries nor keys: half of either term's attention.

    Shapes: widths, branches (L,): neurons of each layer, and how many rows of `w_in` each neuron has.
    """
    projections = 4 if softmax_attention else 2  # queries, keys, values and output; or the last two
    products_with_context = 2 if softmax_attention else 1
    attention = len(widths) * projections * n_embd**2
    mlps = sum((rows + 1) * n_embd * width for width, rows in zip(widths, branches, strict=True))
    weights = attention + mlps + n_embd * vocab_size
    pairs = len(widths) * products_with_context * n_embd * block_size
    return _PASSES * _PER_WEIGHT * (weights + pairs)
