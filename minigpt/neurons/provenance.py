"""Where the values of a forward pass come from: which linear layers they are elementwise functions of.

A small forward pass runs under `Provenance`, which sees every torch function. The output of a linear layer starts a
`Leaf`; elementwise functions pass leaves on and note which of them were bent (went through a nonlinearity) and whether
two were multiplied; what mixes features or tokens (attention, convolutions, sums over tokens) forgets them. So a
linear layer that reads a bent or multiplied value reads hidden neurons, whatever its classes and names are.

What is a neuron's site follows in `find_mlps.py`; nothing here knows of models.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Functions by what they do to provenance; names without trailing underscores, so in-place forms are the same.
_PASSING = _names(
    "view reshape contiguous to float half bfloat16 double type type_as clone detach transpose permute t flatten neg "
    "unflatten squeeze unsqueeze expand expand_as dropout alias view_as reshape_as swapaxes movedim __neg__ cpu cuda "
    "index_select take_along_dim gather masked_fill __get__"
)
_NARROWING = _names("chunk split unbind tensor_split narrow select __getitem__")
_CLAMPING = _names("clamp clip clamp_min clamp_max")
_BENDING = _names(
    "relu relu6 gelu silu mish softplus sigmoid tanh elu selu celu leaky_relu hardtanh hardswish hardsigmoid expm1 "
    "hardshrink softshrink tanhshrink logsigmoid softsign exp log log1p erf pow __pow__ square sqrt rsqrt abs "
    "maximum minimum where prelu threshold sin cos sign ceil heaviside rrelu reciprocal gt lt ge le"
    " __gt__ __lt__ __ge__ __le__ relu_squared logical_and"
)
_ADDING = _names("add sub __add__ __radd__ __sub__ __rsub__ __iadd__ __isub__ rsub subtract lerp")
_MULTIPLYING = _names("mul div __mul__ __rmul__ __truediv__ __imul__ __itruediv__ multiply divide true_divide")
_NORMALISING = _names("layer_norm rms_norm")
_COMPARING = _names("min max")  # elementwise, if of two tensors
_LINEAR = _names("linear mm matmul __matmul__ addmm bmm baddbmm")


@dataclass(frozen=True)
class Leaf:
    """Features of a linear layer's output: which call, and where they begin and how far apart they are in its row."""

    call: int
    start: int = 0
    step: int = 1


def every(step: int, start: int, width: int) -> slice:
    """`width` features of a row: every `step`-th from `start` on."""
    return slice(start, start + step * (width - 1) + 1, step)


@dataclass(frozen=True)
class Tag:
    """What is known of a value: the leaves it is an elementwise function of (none if features were mixed).

    `root` is equal for values that differ by views and casts only.
    """

    root: int
    leaves: frozenset[Leaf] = frozenset()
    bent: frozenset[Leaf] = frozenset()
    clamped: frozenset[Leaf] = frozenset()
    multiplied: bool = False
    through: tuple[str, ...] = ()  # the bending functions, in order

    @property
    def hidden(self) -> bool:
        """Whether a linear layer that reads this reads neurons: φ(z), φ(g)·u or g·u."""
        plain = len(self.leaves) == 1 and bool(self.bent | self.clamped)
        gated = len(self.leaves) == 2 and self.multiplied
        return plain or gated

    @property
    def straight(self) -> bool:
        """Whether it is linear in one leaf."""
        return len(self.leaves) == 1 and not (self.bent or self.clamped or self.multiplied)


@dataclass(frozen=True)
class LinearCall:
    """One product with a parameter, or a slice of a packed one: `weight` is what was used of it, in its own layout.

    If it is `adapted`, `output` is the sum of such a product and of others that are linear in the same input.

    Shapes: weight (out,in) if `rows_are_outputs`, else (in,out).
    """

    index: int
    parameter: nn.Parameter
    weight: Tensor
    rows_are_outputs: bool
    root: int  # of what it is linear in
    read: Tag  # of its input
    input: Tensor
    output: Tensor
    adapted: bool = False

    @property
    def widths(self) -> tuple[int, int]:
        """Features read and written."""
        written, read = self.weight.shape[-2:] if self.rows_are_outputs else reversed(self.weight.shape[-2:])
        return int(read), int(written)


class Provenance(TorchFunctionMode):
    """Record where the values of the forward passes inside this block come from.

    It keeps every value until it is dropped itself, so the input should be small.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[LinearCall] = []
        self.unfollowed: set[str] = set()  # functions that mixed values with a packed parameter
        self._tags: dict[int, Tag] = {}
        self._parameters: dict[int, nn.Parameter] = {}
        self._kept: list[Any] = []  # so that no identity is used twice
        self._roots = 0

    def tag(self, value: object) -> Tag | None:
        """What is known of a tensor; None for parameters, masks and other constants."""
        return self._tags.get(id(value))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        name = name if name.startswith("__") else name.removeprefix("_").rstrip("_")
        self._kept.append((args, kwargs, result))
        tensors = list(_tensors((args, kwargs)))
        outputs = list(_tensors(result))
        if name == "embedding":
            self._assign(outputs, self._opaque())
        elif name in _LINEAR and self._is_linear(name, args):
            self._linear(name, args, outputs)
        elif name in _PASSING | _NARROWING and tensors and self._parameter_of(tensors[0]) is not None:
            self._follow_parameter(tensors[0], outputs)
        elif any(id(tensor) in self._tags for tensor in tensors):
            self._follow(name, tensors, outputs)
        return result

    # ------------------------------------------------------------------------------------------------------- rules

    def _follow(self, name: str, tensors: list[Tensor], outputs: list[Tensor]) -> None:
        tags = [(tensor, self._tags[id(tensor)]) for tensor in tensors if id(tensor) in self._tags]
        first = tags[0][1]
        if name in _NARROWING and id(tensors[0]) in self._tags:
            for output in outputs:
                self._assign([output], self._narrowed(tensors[0], first, output))
        elif name in _PASSING and id(tensors[0]) in self._tags:
            self._assign(outputs, first)
        elif name in _NORMALISING and first.leaves:
            self._assign(outputs, replace(first, root=self._new_root()))
        elif name in _BENDING | _CLAMPING or (name in _COMPARING and len(tensors) > 1):
            self._assign(outputs, self._bent(name, tags))
        elif name in _MULTIPLYING or name in _ADDING:
            joined = first
            held = tensors[0] if id(tensors[0]) in self._tags else tags[0][0]
            for tensor, tag in tags[1:]:
                join = self._product if name in _MULTIPLYING else functools.partial(self._sum, outputs[0])
                joined = join(held, joined, tensor, tag)
                held = outputs[0]
            self._assign(outputs, replace(joined, root=self._new_root()))
        else:
            if not name.startswith("conv") and any(
                tensor.ndim == 3 and self._parameter_of(tensor) is not None for tensor in tensors
            ):
                self.unfollowed.add(name)
            self._assign(outputs, self._opaque())

    def _bent(self, name: str, tags: list[tuple[Tensor, Tag]]) -> Tag:
        leaves = frozenset().union(*(tag.leaves for _, tag in tags))
        if not leaves or any(not tag.leaves and _fills(tensor) for tensor, tag in tags):
            return self._opaque()
        joined = functools.reduce(_joined, (tag for _, tag in tags))
        through = tuple(dict.fromkeys([*joined.through, name]))
        bent, clamped = (joined.bent, leaves) if name in _CLAMPING else (leaves, joined.clamped)
        return replace(joined, root=self._new_root(), through=through, bent=bent, clamped=clamped)

    def _product(self, left: Tensor, a: Tag, right: Tensor, b: Tag) -> Tag:
        if not a.leaves or not b.leaves:
            return self._scaled(left, a, right, b)
        shared = a.leaves & b.leaves
        joined = _joined(a, b)
        return replace(joined, bent=joined.bent | shared, multiplied=joined.multiplied or not shared)

    def _sum(self, made: Tensor, left: Tensor, a: Tag, right: Tensor, b: Tag) -> Tag:
        if not a.leaves or not b.leaves:
            return self._scaled(left, a, right, b)
        if a.leaves & b.leaves or a.multiplied or b.multiplied:
            return _joined(a, b)
        roots = {self.calls[leaf.call].root for leaf in a.leaves | b.leaves}
        if len(roots) == 1 and a.straight and b.straight:
            # NOTE: a low-rank adapter beside a layer is a part of that layer, whose output is the sum.
            adapted = self._adapted(self.calls[next(iter(a.leaves)).call], made)
            return Tag(self._new_root(), frozenset({Leaf(adapted.index)}))
        return self._opaque()

    def _adapted(self, call: LinearCall, made: Tensor) -> LinearCall:
        """The layer of a product together with what is added to it."""
        found = replace(call, index=len(self.calls), read=self._opaque(), output=made, adapted=True)
        self.calls.append(found)
        return found

    def _scaled(self, left: Tensor, a: Tag, right: Tensor, b: Tag) -> Tag:
        """One of the two was mixed; if it is a number for each token, the other one keeps its leaves."""
        tagged, other = (a, right) if a.leaves else (b, left)
        return tagged if tagged.leaves and not _fills(other) else self._opaque()

    def _narrowed(self, source: Tensor, tag: Tag, output: Tensor) -> Tag:
        """The tag of a view: leaves whose features were cut out are separate leaves."""
        if not tag.straight or not source.ndim or not output.ndim or output.size(-1) == source.size(-1) == 1:
            return tag
        leaf = next(iter(tag.leaves))
        whole = self.calls[leaf.call].output.size(-1)
        if output.untyped_storage().data_ptr() != source.untyped_storage().data_ptr():
            return tag if output.size(-1) == source.size(-1) else self._opaque()
        row = source.stride(-2) if output.ndim == source.ndim > 1 else whole
        start = (output.storage_offset() - source.storage_offset()) % row // source.stride(-1)
        step = output.stride(-1) // source.stride(-1)
        if (start, step) == (0, 1) and output.size(-1) == source.size(-1) == whole:
            return tag
        return Tag(self._new_root(), frozenset({Leaf(leaf.call, leaf.start + start * leaf.step, leaf.step * step)}))

    # ------------------------------------------------------------------------------------------------------ linear

    def _is_linear(self, name: str, args: tuple[Any, ...]) -> bool:
        position = 2 if name in ("addmm", "baddbmm") else 1
        if len(args) <= position:
            return False
        weight, read = args[position], args[position - 1]
        return self._parameter_of(weight) is not None and weight.ndim >= 2 and isinstance(read, Tensor)

    def _linear(self, name: str, args: tuple[Any, ...], outputs: list[Tensor]) -> None:
        position = 2 if name in ("addmm", "baddbmm") else 1
        weight, read = args[position], args[position - 1]
        parameter = self._parameter_of(weight)
        assert parameter is not None
        tag = self._tags.get(id(read)) or self._opaque()
        root = self.calls[next(iter(tag.leaves)).call].root if tag.straight else tag.root
        turned = weight.stride()[-2:] != parameter.stride()[-2:]
        rows_are_outputs = (name == "linear") is not turned
        weight = weight.transpose(-1, -2) if turned else weight
        call = LinearCall(len(self.calls), parameter, weight, rows_are_outputs, root, tag, read, outputs[0])
        self.calls.append(call)
        self._assign(outputs, Tag(self._new_root(), frozenset({Leaf(call.index)})))

    def _parameter_of(self, value: object) -> nn.Parameter | None:
        return value if isinstance(value, nn.Parameter) else self._parameters.get(id(value))

    def _follow_parameter(self, source: Tensor, outputs: Iterable[Tensor]) -> None:
        parameter = self._parameter_of(source)
        if parameter is not None:
            for output in outputs:
                self._parameters[id(output)] = parameter

    # ----------------------------------------------------------------------------------------------------- numbers

    def _assign(self, outputs: Iterable[Tensor], tag: Tag) -> None:
        for output in outputs:
            self._tags[id(output)] = tag

    def _opaque(self) -> Tag:
        return Tag(self._new_root())

    def _new_root(self) -> int:
        self._roots += 1
        return self._roots


def _joined(a: Tag, b: Tag) -> Tag:
    """What holds of a function of two values that itself adds neither bending nor a product."""
    return Tag(
        root=a.root,
        leaves=a.leaves | b.leaves,
        bent=a.bent | b.bent,
        clamped=a.clamped | b.clamped,
        multiplied=a.multiplied or b.multiplied,
        through=tuple(dict.fromkeys([*a.through, *b.through])),
    )


def _tensors(value: object) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _fills(tensor: Tensor) -> bool:
    """Whether a tensor has a value for each feature, not one for each token."""
    return tensor.ndim > 0 and tensor.size(-1) > 1
