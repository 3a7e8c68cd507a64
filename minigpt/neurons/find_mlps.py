"""Find the hidden neurons of any causal language model: the linear layers that read φ(z) or φ(g)·u.

Nothing here goes by the names of classes. One small forward pass shows which linear layers read elementwise functions
of other linear layers (`provenance.py`); of those, the ones that write a vector as wide as the one that was read are
an MLP's. Each is then tested: setting h_j to 0 must equal setting column j of the weight to 0. What fails, or a model
whose blocks disagree, is refused with the reason.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minigpt.activations import build_activation, list_activations
from minigpt.base.errors import UsageError
from minigpt.neurons.hooks import hooked, never_fires
from minigpt.neurons.mlp_site import MLPSite
from minigpt.neurons.provenance import Leaf, LinearCall, Provenance, Tag, every

PRODUCTS = frozenset({"linear", "addmm", "mm", "matmul", "__matmul__"})
TOLERANCE = 1e-4  # relative, of φ(z) against h, in the model's own dtype
REMEDY = "name the modules yourself with NeuronProbe.for_modules({...})"


def find_mlps(model: nn.Module, example_ids: Tensor) -> list[MLPSite]:
    """Every MLP site of `model`, in the order of its blocks; example_ids (B,T) are any valid token ids.

    Raises:
        UsageError: no site was found, a site failed its test, or the blocks of the model disagree; with the reason.
    """
    refuse_unfit(model)
    with evaluating(model):
        trace = _trace(model, example_ids)
        sites = [site for call in trace.calls if (site := _site(model, trace, call)) is not None]
        sites = _with_all_experts(model, _once(sites))
        if trace.provenance.unfollowed:
            functions = ", ".join(sorted(trace.provenance.unfollowed))
            raise UsageError(f"packed experts go through {functions}, which cannot be followed; {REMEDY}")
        if not sites:
            raise UsageError(f"no MLP was recognised in {type(model).__name__}; {REMEDY}")
        _refuse_disagreement(model, sites)
        _test(model, example_ids, sites)
    return sites


def refuse_unfit(model: nn.Module) -> None:
    """Raise `UsageError` for a model whose hooks would not fire, or that has no values."""
    if any(never_fires(module) for module in model.modules()):
        raise UsageError("hooks never fire in a compiled model; got one; pass the module that was compiled")
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        raise UsageError("weights are on the meta device; got a model without values; load it without offloading")


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout and gradients, experts one by one where the model offers that; all undone afterwards."""
    training = model.training
    experts = getattr(getattr(model, "config", None), "_experts_implementation", None)
    switch = getattr(model, "set_experts_implementation", None)
    model.eval()
    try:
        if experts is not None and switch is not None:
            switch("eager")
        with torch.no_grad():
            yield
    finally:
        model.train(training)
        if experts is not None and switch is not None:
            switch(experts)


# ---------------------------------------------------------------------------------------------------------- the trace


@dataclass(frozen=True)
class _Trace:
    provenance: Provenance
    calls: list[LinearCall]
    owners: dict[int, tuple[str, str, nn.Module]]  # by parameter: module path, its name there, the module
    makers: dict[int, nn.Module]  # by root: the module that made the value


def _trace(model: nn.Module, ids: Tensor) -> _Trace:
    makers: dict[int, nn.Module] = {}
    provenance = Provenance()

    def made(module: nn.Module, inputs: Any, output: Any) -> None:
        tag = provenance.tag(output) if isinstance(output, Tensor) else None
        if tag is not None and inputs and output is not inputs[0]:
            makers.setdefault(tag.root, module)

    with hooked((module, made) for module in model.modules()), provenance:
        run_model(model, ids)
    owners: dict[int, tuple[str, str, nn.Module]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), (path, name, module))
    return _Trace(provenance, provenance.calls, owners, makers)


def run_model(model: nn.Module, ids: Tensor) -> Tensor:
    """What a model makes of ids (B,T), without keeping keys and values for later tokens."""
    cached = "use_cache" in inspect.signature(model.forward).parameters
    output = model(ids, use_cache=False) if cached else model(ids)
    made: Tensor = output if isinstance(output, Tensor) else output[0]
    return made


def _site(model: nn.Module, trace: _Trace, call: LinearCall) -> MLPSite | None:
    """The site that a product reads neurons at; None if it reads something else or is no MLP's."""
    tag = call.read
    if not tag.hidden or id(call.parameter) not in trace.owners:
        return None
    ups = [trace.calls[leaf.call] for leaf in tag.leaves]
    if len({up.root for up in ups}) != 1 or any(up.widths[0] != call.widths[1] for up in ups):
        return None
    path, parameter, down = trace.owners[id(call.parameter)]
    gate = _gate(tag)
    width = call.widths[0]
    z = None if gate is None else trace.calls[gate.call].output[..., every(gate.step, gate.start, width)]
    value = next((leaf for leaf in tag.leaves if leaf != gate), None)
    u = None if value is None else trace.calls[value.call].output[..., every(value.step, value.start, width)]
    module, gate_parameter = (None, "") if gate is None else _maker(trace, trace.calls[gate.call])
    around = [made for made in trace.calls if made.adapted and made.parameter is call.parameter]
    return MLPSite(
        name=path,
        block=_block(path),
        neurons=width,
        activation=_activation(z, u, call.input) or _composed(tag.through, u is not None),
        gated=len(tag.leaves) == 2,
        down=down,
        parameter=parameter,
        expert=_expert(call),
        gate=module,
        gate_parameter=gate_parameter,
        start=gate.start if gate else 0,
        step=gate.step if gate else 1,
        norm=trace.makers.get(ups[0].root),
        rows_are_outputs=call.rows_are_outputs,
        writer=_maker(trace, around[-1])[0] if around else None,
    )


def _maker(trace: _Trace, call: LinearCall) -> tuple[nn.Module | None, str]:
    """The module whose output a product is, and the name of its weight there; with an adapter, none has all of it."""
    if call.adapted:
        tag = trace.provenance.tag(call.output)
        return (None if tag is None else trace.makers.get(tag.root)), ""
    owner = trace.owners.get(id(call.parameter))
    return (owner[2], owner[1]) if owner else (None, "")


def _gate(tag: Tag) -> Leaf | None:
    """The leaf that is z: of two the bent one, or the clamped one, or the first; None if both are bent."""
    for marked in (tag.leaves if len(tag.leaves) == 1 else frozenset(), tag.bent, tag.clamped):
        if marked:
            return next(iter(marked)) if len(marked) == 1 else None
    return min(tag.leaves, key=lambda leaf: (leaf.call, leaf.start))


def _activation(z: Tensor | None, u: Tensor | None, h: Tensor) -> str | None:
    """The name of the φ of the registry with φ(z) = h, or φ(z)·u = h; None if there is none."""
    if z is None or z.numel() != h.numel():
        return None
    z, h = z.reshape(-1).float(), h.reshape(-1).float()
    u = None if u is None else u.reshape(-1).float()
    scale = h.abs().max().item() or 1.0
    for entry in list_activations():
        if not entry.elementwise or entry.gated is not (u is not None):
            continue
        phi = build_activation(entry.name).phi(z)
        made = phi if u is None else phi * u
        if (made - h).abs().max().item() <= TOLERANCE * scale:
            return entry.name
    return None


def _composed(through: Sequence[str], gated: bool) -> str:
    """A name for an activation that the registry lacks: the functions it is composed of."""
    return f"{'gated ' if gated else ''}{'·'.join(through) or 'product'} (composed)"


def _expert(call: LinearCall) -> int | None:
    """Which slice of a packed parameter a product used; None if it used all of it."""
    if call.parameter.ndim == 2:
        return None
    per_expert = call.parameter[0].numel()
    return (call.weight.storage_offset() - call.parameter.storage_offset()) // per_expert


def _block(path: str) -> int:
    """The first number in a module's path, which counts the blocks; -1 if there is none."""
    numbers = re.findall(r"(?:^|\.)(\d+)(?=\.|$)", path)
    return int(numbers[0]) if numbers else -1


# --------------------------------------------------------------------------------------------------- all of them, once


def _once(sites: Sequence[MLPSite]) -> list[MLPSite]:
    """Each place once: a shared layer is called for every block, an expert for every batch."""
    return list({(id(site.down), site.parameter, site.expert): site for site in sites}.values())


def _with_all_experts(model: nn.Module, sites: Sequence[MLPSite]) -> list[MLPSite]:
    """The experts too that the example did not reach: slices of the same parameter, or siblings in a list."""
    modules = dict(model.named_modules())
    found: list[MLPSite] = []
    seen: set[tuple[int, str, int | None]] = set()
    for site in sites:
        for twin in (*_slices(site), *_siblings(site, modules)):
            key = (id(twin.down), twin.parameter, twin.expert)
            if key not in seen:
                seen.add(key)
                found.append(twin)
    return sorted(found, key=lambda site: (site.block, site.name, site.expert or 0))


def _slices(site: MLPSite) -> list[MLPSite]:
    if site.expert is None:
        return [site]
    count = len(getattr(site.down, site.parameter))
    return [replace(site, expert=number) for number in range(count)]


def _siblings(site: MLPSite, modules: dict[str, nn.Module]) -> list[MLPSite]:
    match = re.fullmatch(r"(.*\.experts\.)(\d+)(\..*)", site.name)
    if match is None or site.gate is None:
        return []
    gate_path = next(path for path, module in modules.items() if module is site.gate)
    twins = []
    for number in range(len(modules[match[1].rstrip(".")]._modules)):
        name = f"{match[1]}{number}{match[3]}"
        gate = gate_path.replace(f"{match[1]}{match[2]}.", f"{match[1]}{number}.")
        twins.append(replace(site, name=name, down=modules[name], gate=modules[gate]))
    return twins


def _refuse_disagreement(model: nn.Module, sites: Sequence[MLPSite]) -> None:
    """Every block of a list that has sites must have one, besides experts."""
    lists = {path: len(module) for path, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    for path, length in lists.items():
        if ".experts" in path or path.endswith("experts"):
            continue
        inside = [
            (int(site.name.removeprefix(f"{path}.").split(".")[0]), site)
            for site in sites
            if site.name.startswith(f"{path}.")
        ]
        blocks = {number for number, _ in inside}
        missing = sorted(set(range(length)) - blocks)
        if inside and missing:
            raise UsageError(
                f"the blocks of {type(model).__name__} disagree; an MLP was recognised in {len(blocks)} of the "
                f"{length} blocks of {path}, none in {', '.join(map(str, missing[:5]))}; {REMEDY}"
            )
        dense = Counter(number for number, site in inside if not site.seldom)
        if len(set(dense.values())) > 1 and not any(site.expert is not None for _, site in inside):
            raise UsageError(f"the blocks of {type(model).__name__} disagree in their number of MLPs; {REMEDY}")


# ----------------------------------------------------------------------------------------------------------- the test


class _Silenced(TorchFunctionMode):
    """Set feature `neuron` of everything that is multiplied with one weight to 0."""

    def __init__(self, weight: Tensor, neuron: int) -> None:
        super().__init__()
        self._place, self._shape, self._neuron = weight.data_ptr(), weight.shape, neuron
        self.met = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for position, value in enumerate(args):
            if (
                position > 0
                and isinstance(value, Tensor)
                and getattr(func, "__name__", "") in PRODUCTS
                and value.data_ptr() == self._place
                and value.numel() == self._shape.numel()
            ):
                read = args[position - 1].clone()
                read[..., self._neuron] = 0
                args = (*args[: position - 1], read, *args[position:])
                self.met = True
                break
        return func(*args, **(kwargs or {}))


def _test(model: nn.Module, ids: Tensor, sites: Sequence[MLPSite]) -> None:
    """Setting h_j to 0 must be setting column j of the weight to 0, at one neuron of each site."""
    for site in sites:
        weight = site.stored
        neuron = site.neurons // 2
        with _Silenced(weight, neuron) as silenced:
            by_value = run_model(model, ids).float()
        if not silenced.met:
            continue  # an expert that the example did not reach
        column = weight[:, neuron] if site.rows_are_outputs else weight[neuron]
        kept = column.clone()
        try:
            column.zero_()
            by_weight = run_model(model, ids).float()
        finally:
            column.copy_(kept)
        difference = (by_value - by_weight).abs().max().item()
        if not difference <= 1e-5 * max(1.0, by_weight.abs().max().item()):
            raise UsageError(
                f"{site.name} is not where its neurons are read; silencing one changes logits by {difference:.2g} more "
                f"than clearing its column; {REMEDY}"
            )
