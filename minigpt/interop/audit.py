"""The audit of anybody's language model: which of its neurons never fire, how sure that is, and whether it matters.

    MODEL ─open_model→ model ─find_mlps→ sites ─count_sites on a text→ health → audit.json, .csv, .html

A layer of `audit.json` has the keys of `neurons.json` as far as a count at sites can give them, and besides them the
site's name, block and expert. What it cannot give is absent, or None with the reason under `undefined`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minigpt.base import storage
from minigpt.base.errors import DivergedError, UsageError
from minigpt.base.health_columns import TRUSTED_TOKENS
from minigpt.interop.audit_answer import answer, published
from minigpt.interop.audit_table import audit_table
from minigpt.interop.audit_text import AuditOptions, AuditText, read_text
from minigpt.interop.count_sites import PARTIAL, Tally, count_sites, write_partial
from minigpt.interop.open_model import OpenedModel, open_model
from minigpt.interop.open_module import open_module
from minigpt.interop.spare_sites import SEARCHED, Spared, spare_sites
from minigpt.neurons.census import VERDICTS, judge
from minigpt.neurons.expendable import as_record as expendable_record
from minigpt.neurons.find_mlps import evaluating, find_mlps, run_model
from minigpt.neurons.health import LayerHealth, as_record
from minigpt.neurons.hooks import Hook, hooked
from minigpt.neurons.layer_figures import SLOPE_FIGURES, certainty, curves, slope_shares
from minigpt.neurons.layer_statistics import LayerStatistics
from minigpt.neurons.mlp_site import MLPSite
from minigpt.neurons.site_health import site_certificate, site_contribution, sites_health
from minigpt.neurons.site_probe import known_activation
from minigpt.neurons.slopes import undefined_slope
from minigpt.training import runtime

__all__ = ["RECORD", "TABLE", "Audit", "AuditOptions", "audit", "write"]

FORMAT_VERSION = 1
RECORD, TABLE = "audit.json", "audit.csv"
LONGEST_CONTEXT = 2048  # tokens of a window unless another number is asked for
_BATCH_TOKENS = {"cpu": 4_096, "cuda": 65_536, "mps": 16_384}
_ROUNDINGS = 64  # by which another last token may change what comes before it
NO_Z = "z could not be told from what the activation reads"
_TRACED = (1, 16)  # windows and tokens that show where the neurons are


@dataclass(frozen=True)
class Audit:
    """What was found: the record of `audit.json`, and the text of `audit.csv`."""

    record: dict[str, Any]
    table: str


def audit(
    model: str | Path | nn.Module,
    options: AuditOptions | None = None,
    out: str | Path | None = None,
    *,
    tokenizer: Any = None,
    ids: Tensor | None = None,
) -> Audit:
    """Audit the model that a place names, or one in memory, on the text of the options or on token `ids` (N,).

    What is counted is committed to `out` now and then, until `write` is called; nothing is, without `out`. A model in
    memory is counted on its device and in its dtype, and left as it was; `tokenizer` is its own.

    Raises:
        UsageError: it is no causal language model, its neurons are not recognised, or options do not fit together.
        CheckpointError: the model is missing, damaged or incomplete, or `out` holds another unfinished audit.
        DataError: there is no tokenizer, or the text is too short.
        DivergedError: hidden values are not finite.
    """
    options = options or AuditOptions()
    if isinstance(model, nn.Module):
        opened = open_module(model, tokenizer)
        weights = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
        options = replace(options, dtype=opened.stored_dtype, device=str(weights.device))
    elif tokenizer is not None:
        raise UsageError("a tokenizer in memory goes with a model in memory; got a place; name its tokenizer instead")
    else:
        opened = open_model(str(model), options.dtype, runtime.resolve_device(options.device), options.tokenizer)
    with evaluating(opened.model):
        return _audit(opened, options, None if out is None else Path(out), ids)


def _audit(opened: OpenedModel, options: AuditOptions, out: Path | None, ids: Tensor | None) -> Audit:
    device = next(opened.model.parameters()).device
    context = options.context or min(opened.context, LONGEST_CONTEXT)
    if context > opened.context:
        raise UsageError(f"context is too large; got {context}; {opened.name} was made for {opened.context}")
    text = read_text(opened, options, context, ids)
    example = next(text.batches(_TRACED[0]))[:, : _TRACED[1]].to(device)
    _refuse_not_finite(opened, example)
    _refuse_looking_ahead(opened, example)
    places = _places(opened, example, options)
    batch_size = max(1, (options.batch_tokens or _BATCH_TOKENS[device.type]) // context)
    identity = {
        "model": _weights_hash(opened.model),
        "text": text.sha256,
        "tokens": text.limit,
        "context": context,
        "window start": list(text.start),
        "batch size": batch_size,
        "dtype": options.dtype,
        "position-0": options.position_0,
        "slopes": options.slopes,
        "sites": list(places),
    }
    body = opened.body if _holds(opened.body, places) else opened.model
    partial = None if out is None else out / PARTIAL
    tally = count_sites(body, places, text, batch_size, options.position_0, options.slopes, partial, identity)
    spared = None
    if options.expendable:
        if partial is not None:
            write_partial(partial, identity, tally)
        assert tally.with_position_0 is not None, "the means are those of every position"
        searched = None if out is None else out / SEARCHED
        spared = spare_sites(opened, places, text, tally.with_position_0, searched, identity)
    return _found(opened, text, places, tally, spared, options, identity)


def write(found: Audit, out: str | Path) -> list[Path]:
    """Leave what was found in a directory and return the paths of the files; nothing unfinished stays there."""
    out = Path(out)
    storage.make_directory(out)
    files = {TABLE: storage.write_text(out / TABLE, found.table)}
    storage.write_sealed(out / RECORD, {**found.record, "files": files})
    for name in (PARTIAL, SEARCHED):
        storage.remove_tree(out / name)
    return [out / RECORD, out / TABLE]


# ----------------------------------------------------------------------------------------------------------- the model


@torch.no_grad()
def _refuse_not_finite(opened: OpenedModel, ids: Tensor) -> None:
    """Raise `DivergedError` if a value is not finite; names the first layer that makes such a one."""
    found: list[str] = []

    def watch(name: str) -> Hook:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(name)

        return hook

    leaves = ((name, module) for name, module in opened.body.named_modules() if not any(module.children()))
    with hooked((module, watch(name)) for name, module in leaves):
        run_model(opened.body, ids)
    if found:
        advice = "check the weights, or use --dtype float32"
        raise DivergedError(f"{opened.name} computes values that are not finite; the first in {found[0]}; {advice}")


@torch.no_grad()
def _refuse_looking_ahead(opened: OpenedModel, ids: Tensor) -> None:
    """Raise `UsageError` if another last token changes what a model makes of earlier ones: then it is an encoder."""
    other = ids.clone()
    other[:, -1] = (other[:, -1] + 1) % opened.vocab_size
    ours, theirs = run_model(opened.body, ids)[:, :-1].float(), run_model(opened.body, other)[:, :-1].float()
    rounding = min(_ROUNDINGS * torch.finfo(next(opened.model.parameters()).dtype).eps, 1e-2)
    if (ours - theirs).abs().max() > rounding * ours.abs().max():
        raise UsageError(f"{opened.name} ({opened.family}) reads later tokens too; an audit needs a causal model")


def _places(opened: OpenedModel, example: Tensor, options: AuditOptions) -> dict[str, MLPSite]:
    """The sites by name, an expert's with its number."""
    sites = find_mlps(opened.model, example)
    for site in sites:
        if not site.stored.is_floating_point():
            raise UsageError(f"{site.name} has no float weight (it is quantised); give the model before quantisation")
    experts = [site for site in sites if site.seldom]
    if experts and options.position_0 != "include":
        raise UsageError(
            f"experts see tokens without their positions; got position-0 {options.position_0}; use include"
        )
    if experts and options.expendable:
        raise UsageError(
            f"{opened.name} has {len(experts)} experts, which see a part of the tokens each; what one of them could "
            "spare cannot be told from this text; leave out --expendable"
        )
    if options.expendable and options.position_0 == "exclude":
        raise UsageError("--expendable replaces neurons at every position; got --position-0 exclude; use both")
    return {site.label: site for site in sites}


def _holds(body: nn.Module, places: Mapping[str, MLPSite]) -> bool:
    inside = {id(module) for module in body.modules()}
    return all(id(site.down) in inside for site in places.values())


def _weights_hash(model: nn.Module) -> str:
    """One hash over names, shapes and values of all parameters."""
    hashes = [
        f"{name} {tuple(parameter.shape)} "
        + storage.sha256_bytes(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, parameter in sorted(model.named_parameters())
    ]
    return storage.sha256_bytes("\n".join(hashes).encode("utf-8"))


# ---------------------------------------------------------------------------------------------------- what was found


def _found(
    opened: OpenedModel,
    text: AuditText,
    places: Mapping[str, MLPSite],
    tally: Tally,
    spared: Spared | None,
    options: AuditOptions,
    identity: Mapping[str, Any],
) -> Audit:
    certified = {name: site_certificate(site, options.dtype) for name, site in places.items()}
    everywhere, later = tally.with_position_0, tally.without_position_0
    counted = everywhere if everywhere is not None else later
    assert counted is not None
    layers = _layers(places, counted, certified)
    searched = spared.layers if spared else [None] * len(layers)
    layers = [layer | expendable_record(one) for layer, one in zip(layers, searched, strict=True)]
    without = _layers(places, later, certified) if everywhere is not None and later is not None else None
    # NOTE: not what a site counted: an expert sees some of the tokens, a layer that is shared sees each several times.
    first = 1 if everywhere is None else 0
    tokens = sum(ids[:, first:].numel() for ids in text.batches(64))
    neurons = sum(layer["neurons"] for layer in layers)
    dead = sum(layer["chao1"]["never"] for layer in layers if layer["tokens"])
    record: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "name": opened.name,
        "kind": opened.kind,
        "family": opened.family,
        "parameters": opened.parameters,
        "stored_dtype": opened.stored_dtype,
        "dequantised": opened.kind == "gguf",
        "dtype": options.dtype,
        "model_sha256": identity["model"],
        "corpus": text.corpus,
        "split": text.split,
        "text_sha256": text.sha256,
        "context": text.context,
        "window_start": list(text.start),
        "tokens": tokens,
        "position_0": options.position_0,
        "trusted": tokens >= TRUSTED_TOKENS,
        "layers": layers,
        "without_position_0": without,
        "model": {"neurons": neurons, "dead": dead, "dead_fraction": dead / neurons}
        | (expendable_record(spared.model) if spared else {}),
        "expendable_tokens": spared.tokens if spared else None,
        "seconds": tally.seconds,
        "tokens_per_second": tokens / tally.seconds,
        "environment": runtime.environment(str(next(opened.model.parameters()).device)),
    }
    record |= {"published": published(record), "answer": answer(record)}
    return Audit(record, audit_table(places, counted, certified, spared))


def _layers(
    places: Mapping[str, MLPSite], counted: Sequence[LayerStatistics], certified: Mapping[str, Tensor | None]
) -> list[dict[str, Any]]:
    health = sites_health(places, counted)
    return [
        _layer(name, site, found, judged, certified[name])
        for (name, site), found, judged in zip(places.items(), counted, health, strict=True)
    ]


def _layer(
    name: str, site: MLPSite, found: LayerStatistics, judged: LayerHealth, certified: Tensor | None
) -> dict[str, Any]:
    """One layer as `audit.json` has it."""
    place = {"name": name, "block": site.block, "expert": site.expert, "gated": site.gated}
    figures = {key: _known(value) for key, value in as_record(judged).items()}
    if not found.tokens:
        return {**place, **figures, "undefined": {"dead_fraction": "no token was sent to this expert"}}
    verdicts = judge(found, certified)
    return {
        **place,
        **figures,
        **certainty(found, {verdict: verdicts.count(verdict) for verdict in VERDICTS}, certified is not None),
        **slope_shares(found),
        "trapped_fraction": None,
        **curves(found, site_contribution(site, found)),
        "undefined": _undefined(site, found, certified),
    }


def _undefined(site: MLPSite, found: LayerStatistics, certified: Tensor | None) -> dict[str, str]:
    """Why figures of a layer are missing, by name."""
    reasons = {"trapped_fraction": "an audit takes no gradients"}
    if certified is None:
        reasons["certified_dead_fraction"] = "its activation is not exactly 0 for z <= 0, or no norm bounds its input"
    if not found.z_known:
        reasons["never_positive_fraction"] = NO_Z
    if found.deep is None:
        reasons["dead_upper_sequences"] = (
            "experts see tokens without their sequences"
            if site.seldom
            else "position 0 was counted apart, or the layer runs more than once in a forward pass"
        )
    if found.deep is None or found.deep.slopes is None:
        reasons |= dict.fromkeys(SLOPE_FIGURES, _no_slope(site, found))
    return reasons


def _no_slope(site: MLPSite, found: LayerStatistics) -> str:
    activation = known_activation(site)
    if not found.z_known:
        return NO_Z
    if activation is None:
        return f"the slope of {site.activation} is not known"
    return undefined_slope(activation) or "slopes are counted by sequence and with --slopes only"


def _known(value: Any) -> Any:
    """A figure, or None for one that is not known."""
    if isinstance(value, dict):
        return {key: _known(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
