"""Recording: the kernels that a function launches on a GPU, launched again as a whole by one call.

A small model's kernels are shorter than the time it takes to launch them one by one; a CUDA graph launches all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

_TRIAL_CALLS = 3

Result = TypeVar("Result")


class Recorded(Generic[Result]):
    """A function of tensors on a GPU as one CUDA graph; each call overwrites what the last one returned.

    The function must do the same operations whatever the tensors hold, and may not wait for the GPU. It is called a few
    times with `example` before it is recorded, since libraries prepare themselves at first calls: what that leaves
    behind must not matter.
    """

    def __init__(self, function: Callable[..., Result], *example: Tensor) -> None:
        # NOTE: kept, because the graph reads the function's own tensors where they lie, and holds on to none of them.
        self._function = function
        self._arguments = [tensor.clone() for tensor in example]
        device = example[0].device
        beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(beside):
            for _ in range(_TRIAL_CALLS):
                function(*self._arguments)
        torch.cuda.current_stream(device).wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(self._graph):
            self._result = function(*self._arguments)

    def __call__(self, *arguments: Tensor) -> Result:
        """Launch it for other tensors of the same shapes."""
        for place, tensor in zip(self._arguments, arguments, strict=True):
            place.copy_(tensor)
        self._graph.replay()
        return self._result
