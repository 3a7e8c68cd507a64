"""Looking into a model while it runs: hooks that are gone after the block that needs them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

# Takes the module, its arguments and its output; what it returns, unless None, takes the output's place.
Hook = Callable[[Any, tuple[Any, ...], Tensor], Tensor | None]


def never_fires(module: nn.Module) -> bool:
    """Whether hooks on this module would be silently ignored, because it was compiled."""
    return module._compiled_call_impl is not None or hasattr(module, "_orig_mod")


@contextlib.contextmanager
def hooked(hooks: Iterable[tuple[nn.Module, Hook]]) -> Iterator[None]:
    """Inside this block each hook is called whenever its module, uncompiled, has computed its output."""
    with contextlib.ExitStack() as stack:
        for module, hook in hooks:
            stack.callback(module.register_forward_hook(hook).remove)
        yield
