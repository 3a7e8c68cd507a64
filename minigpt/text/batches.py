"""Windows of token ids: random ones to train on, and an exact pass over a split to evaluate.

Windows run across the borders of documents, where the separator is; attention is not cut there.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from minigpt.base import randomness

# Token ids (N,): an array, often mapped from a file, or a copy on a GPU, which indexes no uint16.
Tokens = np.ndarray | Tensor
COPY = np.dtype(np.int32)
TOKENS_SHARE_OF_GPU = 0.25


def window_starts(seed: int, step: int, windows: int, tokens: int, block_size: int, purpose: str = "data") -> Tensor:
    """Where the windows of one training step begin (windows,): a pure function of seed, purpose and step."""
    random = randomness.generator(seed, purpose, step)
    return torch.randint(tokens - block_size, (windows,), generator=random)


def token_noise(seed: int, step: int, windows: int, block_size: int, vocab_size: int, share: float) -> Tensor:
    """What takes the place of each token of a training step's windows: a random token, or −1 where it stays.

    Shapes: (windows, T+1), so that a token is the same as target and as input; a pure function of its arguments.
    """
    random = randomness.generator(seed, "token noise", step)
    shape = (windows, block_size + 1)
    replaced = torch.rand(shape, generator=random) < share
    return torch.where(replaced, torch.randint(vocab_size, shape, generator=random), -1)


def near(ids: Tokens, device: torch.device) -> Tokens:
    """The tokens (N,) where windows are read fastest: copied to a GPU if they take little of its free memory there."""
    if device.type != "cuda" or isinstance(ids, Tensor):
        return ids
    free, _ = torch.cuda.mem_get_info(device)
    fits = len(ids) * COPY.itemsize < TOKENS_SHARE_OF_GPU * free
    return torch.from_numpy(ids.astype(COPY)).to(device) if fits else ids


def gather(ids: Tokens, starts: Tensor, block_size: int, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Read the windows beginning at `starts` (B,) as inputs and next-token targets, each int64 (B,T), where ids are.

    `noise` (B,T+1) is what `token_noise` gave for these windows.
    """
    if isinstance(ids, Tensor):
        places = starts.to(ids.device)[:, None] + torch.arange(block_size + 1, device=ids.device)
        windows = ids[places].long()  # (B,T+1)
    else:
        windows = torch.from_numpy(ids[starts.numpy()[:, None] + np.arange(block_size + 1)].astype(np.int64))
    if noise is not None:
        noise = noise.to(windows.device)
        windows = torch.where(noise < 0, windows, noise)
    return windows[:, :-1], windows[:, 1:]


def evaluation_batches(
    ids: np.ndarray, block_size: int, batch_size: int, limit: int = 0, part: str = "all"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cover a split by windows side by side, so that each token is predicted once; the last window may be short.

    With a `limit`, only that number of tokens is predicted (rounded up to whole windows), in windows spread evenly. The
    parts `even` and `odd` take every other window: what was chosen on one of them can be judged on the other.
    """
    first, stride = {"all": (0, 1), "even": (0, 2), "odd": (1, 2)}[part]
    complete = (len(ids) - 1) // block_size
    windows = np.arange(first, complete, stride)
    wanted = -(-limit // block_size) if limit else len(windows)
    spread = min(wanted, len(windows))
    chosen = windows[np.arange(spread) * len(windows) // max(spread, 1)]
    for begin in range(0, spread, batch_size):
        starts = torch.from_numpy(chosen[begin : begin + batch_size] * block_size)
        yield gather(ids, starts, block_size)
    rest = len(ids) - 1 - complete * block_size
    if rest > 0 and wanted >= len(windows) and complete % stride == first:
        yield gather(ids, torch.tensor([complete * block_size]), rest)
