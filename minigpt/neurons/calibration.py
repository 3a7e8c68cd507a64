"""The instrument measured on answers that are known beforehand.

Gaussian pre-activations N(−k, 1) fire with probability Φ(−k) exactly; neurons that are planted in a tiny model are
dead, rare, constant or duplicates by construction; the certificate's bound is attained by an input that it names.
Every check says what was expected and what the instrument made of it. Random numbers have fixed seeds, so that on one
machine a check passes always or never.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minigpt.base import randomness
from minigpt.base.health_columns import INERT_SHARE, TRUSTED_TOKENS
from minigpt.model import GPT, Block, GPTConfig
from minigpt.neurons.census import NeuronTable, neuron_table
from minigpt.neurons.certificate import adversarial_input, largest_preactivation
from minigpt.neurons.knockout import Batch, mean_hidden, replaced, zero
from minigpt.neurons.layer_statistics import LayerStatistics
from minigpt.neurons.probe import NeuronProbe, plain_blocks

CONFIDENCE = 0.999
THRESHOLDS = (0, 1, 2, 3, 4, 5)
GAUSSIAN_TOKENS = 1 << 20
_NEURONS_EACH = 8
_SILENT_THRESHOLD, _SILENT_TOKENS, _SILENT_NEURONS = 4, 10_000, 1024
_CLOSE = 1e-6

# Tokens of the planted model's text: RARE occurs in it a few times, UNMET never.
VOCABULARY, RARE, RARE_TIMES, UNMET = 8, 6, 3, 7
# Neurons of the planted model.
PROVEN, SILENT, SELDOM, ALWAYS, CONSTANT, TWIN, OTHER_TWIN, UNREAD = range(8)


@dataclass(frozen=True)
class Check:
    """One thing looked at: what was expected of it, what was found, and whether that will do."""

    name: str
    expected: str
    measured: str
    passed: bool


def calibrate(device: torch.device) -> list[Check]:
    """Run every check of the instrument on a device; takes seconds."""
    return [*gaussian_checks(device), silent_check(device), *planted_checks(device), *certificate_checks()]


# Gaussian pre-activations


def gaussian_checks(device: torch.device) -> list[Check]:
    """Firing rates of z ~ N(−k, 1): each inside the interval that its count allows (Clopper & Pearson 1934)."""
    counted = _count_gaussian([k for k in THRESHOLDS for _ in range(_NEURONS_EACH)], GAUSSIAN_TOKENS, device)
    fired = counted.fired.view(len(THRESHOLDS), _NEURONS_EACH).sum(1).tolist()
    trials = counted.tokens * _NEURONS_EACH
    return [
        _binomial_check(f"firing rate of z ~ N({-k}, 1)", _gaussian_rate(k), times, trials)
        for k, times in zip(THRESHOLDS, fired, strict=True)
    ]


def silent_check(device: torch.device) -> Check:
    """Neurons at −4σ are alive, yet most are silent on 10,000 tokens: one batch must call them dead."""
    counted = _count_gaussian([_SILENT_THRESHOLD] * _SILENT_NEURONS, _SILENT_TOKENS, device)
    chance = (1 - _gaussian_rate(_SILENT_THRESHOLD)) ** counted.tokens
    silent = int((counted.fired == 0).sum())
    name = f"share of live neurons, z ~ N({-_SILENT_THRESHOLD}, 1), silent on {counted.tokens:,} tokens"
    return _binomial_check(name, chance, silent, _SILENT_NEURONS)


def _gaussian_rate(threshold: float) -> float:
    """Φ(−threshold)."""
    return math.erfc(threshold / math.sqrt(2)) / 2


def _count_gaussian(thresholds: Sequence[float], tokens: int, device: torch.device) -> LayerStatistics:
    """What the probe counts if a layer's pre-activations are N(−threshold, 1), by neuron."""
    neurons = len(thresholds)
    model = GPT(GPTConfig(vocab_size=2, block_size=2, n_layer=1, n_head=1, n_embd=2, d_ff=neurons)).to(device)
    activation = plain_blocks(model)[0].mlp.act
    shift = torch.tensor(thresholds, dtype=torch.float32)
    random = randomness.generator(0, "calibration")
    rows = max(1, 2**18 // neurons)
    with NeuronProbe(model) as probe, torch.no_grad():
        for first in range(0, tokens, rows):
            z = torch.randn(1, min(rows, tokens - first), neurons, generator=random) - shift
            activation(z.to(device))
    return probe.statistics()[0]


def _binomial_check(name: str, rate: float, times: int, trials: int) -> Check:
    from scipy import stats

    interval = stats.binomtest(times, trials).proportion_ci(CONFIDENCE, "exact")
    measured = f"{times / trials:.3g}, in [{interval.low:.3g}, {interval.high:.3g}]"
    return Check(name, f"{rate:.3g}", measured, bool(interval.low <= rate <= interval.high))


# Planted neurons


def planted_checks(device: torch.device) -> list[Check]:
    """Neurons that are what they are by construction, counted on a text whose tokens are counted without the probe."""
    model, batches = planted_model().to(device), planted_text()
    with NeuronProbe(model, deep=True) as probe, torch.no_grad():
        for inputs, _ in batches:
            model(inputs.to(device))
    counted = probe.statistics()[0]
    table = neuron_table(0, plain_blocks(model)[0], counted, "float32")
    occurrences = torch.cat([inputs.flatten() for inputs, _ in batches]).bincount(minlength=VOCABULARY)
    tokens = int(occurrences.sum())
    inert = table.contribution <= INERT_SHARE * table.contribution.mean()
    return [
        _equal("verdict on w = 0, b = -1", "certified", table.verdict[PROVEN]),
        _equal("verdict on a neuron of a token that never comes", "dead", table.verdict[SILENT]),
        _equal("verdict on a neuron of one rare token", "rare", table.verdict[SELDOM]),
        _equal("firings of that neuron", RARE_TIMES, int(counted.fired[SELDOM])),
        _equal("firings of a neuron that is always on", tokens, int(counted.fired[ALWAYS])),
        _equal("firings of a neuron of token 1", int(occurrences[1]), int(counted.fired[TWIN])),
        _equal("a constant neuron is inert, not dormant", (True, False), (bool(inert[CONSTANT]), _dormant(table))),
        _equal("a neuron that nobody reads is inert, alive", (True, "alive"), (bool(inert[UNREAD]), _unread(table))),
        *_duplicate_checks(model, batches, table),
        _zeroing_check(model, batches, table),
    ]


def planted_model() -> GPT:
    """One layer whose neurons read single tokens: an embedding of unit vectors, attention silenced.

    LayerNorm makes a unit vector of C = 8 into √7 at its own coordinate and −1/√7 at the others, so a neuron with the
    weight 1 at coordinate t and the bias −1 fires on token t alone.
    """
    config = GPTConfig(
        vocab_size=VOCABULARY,
        block_size=64,
        n_layer=1,
        n_head=1,
        n_embd=VOCABULARY,
        d_ff=16,
        tie_embeddings=False,
    )
    model = GPT(config, seed=0).eval()
    block = plain_blocks(model)[0]
    assert model.wpe is not None
    with torch.no_grad():
        model.wte.weight.copy_(torch.eye(VOCABULARY))
        model.wpe.weight.zero_()
        block.attn.w_out.weight.zero_()
        _plant(block, PROVEN, token=None, bias=-1)
        _plant(block, SILENT, UNMET, bias=-1)
        _plant(block, SELDOM, RARE, bias=-1)
        _plant(block, ALWAYS, token=0, bias=5)
        _plant(block, CONSTANT, token=None, bias=1)
        for neuron in (TWIN, OTHER_TWIN):
            _plant(block, neuron, token=1, bias=-1)
        block.mlp.w_out.weight.normal_(generator=randomness.generator(0, "planted"))
        block.mlp.w_out.weight[:, OTHER_TWIN] = -block.mlp.w_out.weight[:, TWIN]
        block.mlp.w_out.weight[:, UNREAD] = 0
    return model


def _plant(block: Block, neuron: int, token: int | None, bias: float) -> None:
    w_in = block.mlp.w_in
    w_in.weight[neuron] = 0
    w_in.bias[neuron] = bias
    if token is not None:
        w_in.weight[neuron, token] = 1


def planted_text() -> list[Batch]:
    """Enough tokens for trusted figures: uniformly 0 to 5, the rare one a few times, the unmet one never."""
    ids = torch.randint(RARE, (TRUSTED_TOKENS + 1,), generator=randomness.generator(0, "planted text"))
    ids[torch.arange(1, RARE_TIMES + 1) * 1000] = RARE
    inputs, targets = ids[:-1].view(-1, 64, 64), ids[1:].view(-1, 64, 64)
    return list(zip(inputs, targets, strict=True))


def _duplicate_checks(model: GPT, batches: Sequence[Batch], table: NeuronTable) -> list[Check]:
    """Two neurons that always agree and write the opposite: each contributes, together they are nothing."""
    one, other = table.contribution[[TWIN, OTHER_TWIN]].tolist()
    pair = torch.zeros(len(table.verdict), dtype=torch.bool)
    pair[[TWIN, OTHER_TWIN]] = True
    inputs = batches[0][0].to(model.device)
    with torch.no_grad():
        whole = model(inputs)
        with replaced(model, [pair], mean_hidden(model, batches)):
            change = (model(inputs) - whole).abs().max().item()
    return [
        Check("two opposed duplicates contribute alike", f"{one:.4g}", f"{other:.4g}", 0 < one == other),
        Check("logits change without both of them", f"0, within {_CLOSE:g}", f"{change:.1g}", change <= _CLOSE),
    ]


def _zeroing_check(model: GPT, batches: Sequence[Batch], table: NeuronTable) -> Check:
    done = zero(model, batches[:1], [table.firing_rate == 0])
    change = done.largest_logit_change
    return Check("logits change with all dead neurons at 0", "0", f"{change:g}", change == 0)


def _dormant(table: NeuronTable) -> bool:
    return bool(table.mean_abs_h[CONSTANT] <= 0.1 * table.mean_abs_h.mean())


def _unread(table: NeuronTable) -> str:
    return table.verdict[UNREAD]


def _equal(name: str, expected: object, measured: object) -> Check:
    return Check(name, _words(expected), _words(measured), expected == measured)


def _words(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


# The certificate


def certificate_checks() -> list[Check]:
    """The bound of a layer of random weights is attained by the input it names, and passed by no random one."""
    model = GPT(GPTConfig(vocab_size=2, block_size=2, n_layer=1, n_head=1, n_embd=32), seed=0).double()
    block = plain_blocks(model)[0]
    random = randomness.generator(0, "certificate")
    with torch.no_grad():
        for parameter in (*block.ln_2.parameters(), *block.mlp.w_in.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=random))
        bound = largest_preactivation(block)
        worst = torch.stack([adversarial_input(block, neuron) for neuron in range(len(bound))])
        reached = _preactivations(block, 1e3 * worst).diagonal()  # large beside the norm's eps
        others = _preactivations(block, torch.randn(10_000, 32, generator=random)).amax(0)
    gap = ((reached - bound).abs() / bound.abs().clamp_min(1)).max().item()
    excess = (others - bound).max().item()
    return [
        Check("the certificate's bound is attained", "to 1e-05", f"to {gap:.0e}", gap <= 1e-5),
        Check("and passed by none of 10,000 random inputs", "below 0", f"{excess:.3g}", excess < 0),
    ]


def _preactivations(block: Block, x: Tensor) -> Tensor:
    z: Tensor = block.mlp.w_in(block.ln_2(x.double()))
    return z
