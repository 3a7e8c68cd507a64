"""A GPU that has devices and no values: torch checks on it that no operation mixes devices.

torch's own `FakeTensorMode` does the checking; what is here makes it work in a torch that is built without CUDA.
What would wait for a value (`tolist`, `item`, `if tensor:`) reads ones. Only the first GPU exists, as `cuda:0`.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode

GPU = torch.device("cuda:0")
# Places of c10/core/DeviceType.h in c10's table of what to do when the current device changes.
_CUDA, _META = 1, 14
_ONES: dict[str, Any] = {"item": 1.0, "__bool__": True, "__int__": 1, "__float__": 1.0, "__index__": 1}
_GUARDS = "_ZN3c104impl26device_guard_impl_registryE"


@contextlib.contextmanager
def fake_gpu() -> Iterator[None]:
    """Inside this block tensors have no values, and `cuda:0` is a device like any other."""
    seen = {"is_available": True, "device_count": 1, "is_bf16_supported": True, "mem_get_info": (1 << 36, 1 << 36)}
    with contextlib.ExitStack() as stack:
        for name, answer in seen.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, return_value=answer))
        stack.enter_context(mock.patch.object(Tensor, "backward", _backward))
        stack.enter_context(mock.patch.object(torch.autograd, "grad", _grad))
        stack.enter_context(mock.patch.object(nn.Module, "_apply", _apply))
        stack.enter_context(_guard())
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_ValuesAreOnes())
        yield


def _apply(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """What `Module.to` does, which cannot exchange fake parameters; tied ones stay tied."""
    made: dict[int, Tensor] = {}
    for part in module.modules():
        for kept in (part._parameters, part._buffers):
            for name, tensor in kept.items():
                if tensor is not None and id(tensor) not in made:
                    # NOTE: of a single number torch keeps the value, and would move that to a GPU that is not there.
                    unknown = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
                    changed = change(unknown)
                    made[id(tensor)] = nn.Parameter(changed) if isinstance(tensor, nn.Parameter) else changed
                if tensor is not None:
                    kept[name] = made[id(tensor)]
    return module


@contextlib.contextmanager
def _guard() -> Iterator[None]:
    """Let torch, built without CUDA, switch to a CUDA device by doing nothing, as it does for `meta`."""
    library = next((Path(torch.__file__).parent / "lib").glob("*c10.*"))
    guards = (ctypes.c_void_p * (_META + 1)).in_dll(ctypes.CDLL(str(library)), _GUARDS)
    before = guards[_CUDA]
    guards[_CUDA] = before or guards[_META]
    try:
        yield
    finally:
        guards[_CUDA] = before


class _ValuesAreOnes(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in _ONES:
            return _ONES[name]
        if name in ("tolist", "numpy"):
            ones = np.ones(tuple(args[0].shape), dtype=str(args[0].dtype).removeprefix("torch."))
            return ones if name == "numpy" else ones.tolist()
        if name == "__deepcopy__":  # torch's own looks at the data
            copy = args[0].detach().clone()
            return nn.Parameter(copy) if isinstance(args[0], nn.Parameter) else copy
        return function(*args, **(kwargs or {}))


def _backward(loss: Tensor) -> None:
    """What `Tensor.backward` does: add the gradients to those of the leaves."""
    for leaf, gradient in _gradients(loss, torch.ones_like(loss)).items():
        leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient


def _grad(output: Tensor, inputs: Any, grad_outputs: Tensor | None = None) -> tuple[Tensor, ...]:
    """What `torch.autograd.grad` does, for leaves."""
    found = _gradients(output, torch.ones_like(output) if grad_outputs is None else grad_outputs)
    return tuple(found[leaf] for leaf in (inputs if isinstance(inputs, list) else [inputs]))


@torch.no_grad()
def _gradients(output: Tensor, gradient: Tensor) -> dict[Tensor, Tensor]:
    """Call the nodes of a graph in turn: autograd's own engine would ask for a GPU's streams."""
    if output.grad_fn is None:
        return {output: gradient}
    pending: dict[Any, dict[int, Tensor]] = {output.grad_fn: {output.output_nr: gradient}}
    found: dict[Tensor, Tensor] = {}
    for node in _in_order(output.grad_fn):
        received = [_fitted(pending[node].get(place), made) for place, made in enumerate(node._input_metadata)]
        if hasattr(node, "variable"):
            [found[node.variable]] = received
            continue
        given = node(*received) if callable(node) else node.apply(*received)
        for part, (following, place) in zip(_tuple(given), node.next_functions, strict=True):
            if following is not None and part is not None:
                sums = pending.setdefault(following, {})
                sums[place] = sums[place] + part if place in sums else part
    return found


def _fitted(gradient: Tensor | None, output: Any) -> Tensor | None:
    """A gradient as the engine hands it on: in the shape and dtype of the output that it is the gradient of."""
    if gradient is None:
        return None
    assert gradient.device == output.device, f"a gradient on {gradient.device} of a tensor on {output.device}"
    return gradient.sum_to_size(output.shape).to(output.dtype)


def _in_order(root: Any) -> list[Any]:
    """The nodes below a root, each after all that give it a gradient."""
    order: list[Any] = []
    seen: set[Any] = set()

    def visit(node: Any) -> None:
        seen.add(node)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                visit(following)
        order.append(node)

    visit(root)
    return order[::-1]


def _tuple(given: Any) -> tuple[Any, ...]:
    return given if isinstance(given, tuple) else (given,)
