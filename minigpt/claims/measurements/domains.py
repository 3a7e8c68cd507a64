"""How well a run of bytes predicts texts of other kinds than its own."""

from __future__ import annotations

from dataclasses import replace

from minigpt.claims.measurement import Figures, measurement
from minigpt.claims.measurements.reading import batches, mean_loss
from minigpt.text.preparation import prepare_text
from minigpt.text.store import TokenStore
from minigpt.training.inference import OpenedRun

DOMAINS = ("stdlib", "stdlib-code", "grammar:1")
TOKENS = 32_768


@measurement("domain_losses")
def domain_losses(run: OpenedRun, store: TokenStore) -> Figures:
    """Nats per token on the validation part of each domain; None for one with another vocabulary than the run's."""
    return {domain: _loss_on(domain, run) for domain in DOMAINS}


def _loss_on(domain: str, run: OpenedRun) -> float | None:
    text = prepare_text(replace(run.config, corpus=domain))
    if text.tokenizer.to_json() != run.tokenizer.to_json():
        return None
    return mean_loss(run, batches(run.model, text.tokens("val"), TOKENS))
