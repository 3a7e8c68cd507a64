"""What an audit costs beside the forward pass that it watches: a model of transformers in the sizes of SmolLM2-135M.

Weights are random, which changes no time. Both sides run the same batches of ids through the model without its output
layer, in turn; the audit's side has the probes of `minigpt audit` in place and reads their figures at the end.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from minigpt.benchmarks.bench_options import BenchOptions
from minigpt.benchmarks.paired_blocks import Track, alternate, paired_ratio, spread
from minigpt.interop.count_sites import watching
from minigpt.neurons.find_mlps import find_mlps, run_model
from minigpt.neurons.mlp_site import MLPSite
from minigpt.training.config import RunConfig

BATCH, CONTEXT = 4, 512
_SIZES = {
    "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1_536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip
_QUICK = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def measure_audit(config: RunConfig, options: BenchOptions, track: Track) -> list[dict[str, Any]]:
    """Measure an audit with and without the first position told apart; ratios are its tokens/s over the plain ones."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = _QUICK if options.quick else _SIZES
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes)).eval().requires_grad_(False).to(config.device)
    ids = torch.randint(sizes["vocab_size"], (BATCH, 64 if options.quick else CONTEXT)).to(config.device)
    places = {site.name: site for site in find_mlps(model, ids[:1, :16])}
    found = []
    for position_0 in ("include", "both"):
        sides = [partial(_seconds, model.base_model, ids, places, which) for which in (None, position_0)]
        for side in sides:
            side()
        plain, audited = alternate(sides, track(range(options.blocks), f"audit, position-0 {position_0}"))
        found.append(
            {
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "position_0": position_0,
                "tokens": ids.numel(),
                "ratio": asdict(paired_ratio(plain, audited)),
                "tokens_per_second": ids.numel() / spread(audited).median,
                "plain_tokens_per_second": ids.numel() / spread(plain).median,
            }
        )
    return found


@torch.no_grad()
def _seconds(body: nn.Module, ids: Tensor, places: dict[str, MLPSite], position_0: str | None) -> float:
    """Run one batch, watched by an audit's probes or, for None, alone."""
    begun = time.perf_counter()
    with contextlib.ExitStack() as stack:
        probes = stack.enter_context(watching(places, position_0)) if position_0 else None
        if probes:
            probes.expect(ids)
        made = run_model(body, ids)
        if probes:
            probes.counted()
    made[0, 0, 0].item()
    return time.perf_counter() - begun
