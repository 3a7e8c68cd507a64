"""Files as `minigpt neurons` and a watched training leave them, made up: their figures are plausible, not measured."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from minigpt.base.storage import write_sealed

TOKENS, SEQUENCES = 161_316, 2_521
HOSTILE = '</script><script>alert(1)</script>"><img src=x onerror=alert(2)>'
STEERING = "\u202e\x1b[31m\u2028\ud800"  # right-to-left override, an escape, a line separator, half a character
SENTENCE = "the file is read by a context manager ; an exception ( see below ) closes it\n"
WORDS = SENTENCE.split(" ")


def write_neuron_files(run: Path, layers: int = 2, neurons: int = 64, step: int = 12, kept: int = 12) -> None:
    """Leave `neurons.json neurons.csv explorer.json` in a run."""
    chance = random.Random(7)
    records = [layer_record(layer, neurons, chance) for layer in range(layers)]
    whole = {
        "format": 1, "step": step, "split": "val", "corpus": "stdlib", "corpus_sha256": "0" * 64, "tokens": TOKENS,
        "sequences": SEQUENCES, "block_size": 64, "layers": records, "model": model_record(records), "seconds": 21.5,
    }  # fmt: skip
    (run / "neurons.json").write_text(json.dumps(whole), encoding="utf-8")
    (run / "neurons.csv").write_text(neuron_table(records), encoding="utf-8")
    explored = [
        {
            "layer": layer,
            "curve": [[-1, 0], [0, 0], [1, 1]],
            "neurons": [explored_neuron(number, chance) for number in range(kept)],
        }
        for layer in range(layers)
    ]
    (run / "explorer.json").write_text(json.dumps({"format": 1, "layers": explored}), encoding="utf-8")


def write_audit(folder: Path, layers: int = 2, neurons: int = 64) -> None:
    """Leave `audit.json audit.csv` in a folder, as an audit of somebody's model does."""
    chance = random.Random(7)
    records = [{**layer_record(layer, neurons, chance), "name": f"h.{layer}.mlp"} for layer in range(layers)]
    settings = {
        "kind": "folder", "parameters": 124_000, "model_sha256": "0" * 64, "stored_dtype": "float32",
        "dtype": "float32", "corpus": "stdlib", "split": "val", "text_sha256": "0" * 64, "context": 64,
        "window_start": [], "seconds": 3.0, "position_0": "include", "tokens_per_second": 50_000.0,
    }  # fmt: skip
    found = {
        "format": 1, "name": HOSTILE, "family": "gpt2", "layers": records, "tokens": TOKENS, "published": None,
        "answer": "3.9 % of the neurons never fired.", "dequantised": False, "without_position_0": None,
        "model": {"dead": 5, "neurons": layers * neurons, "dead_fraction": 5 / (layers * neurons)},
        "environment": {"torch": "2.13.0"},
    }  # fmt: skip
    (folder / "audit.csv").write_text(neuron_table(records), encoding="utf-8")
    write_sealed(folder / "audit.json", {**settings, **found})


def neuron_table(records: list[dict[str, Any]]) -> str:
    """What `neurons.csv` says of these layers, in the columns that pages read."""
    lines = ["layer,neuron,verdict,firing_rate,open_rate,max_z"]
    for layer in records:
        words = [verdict for verdict, number in layer["verdicts"].items() for _ in range(number)]
        rates = {"certified": 0.0, "dead": 0.0, "rare": 5e-5, "alive": 0.2}
        lines += [
            f"{layer['layer']},{n},{word},{rates[word]},{rates[word]},{1.0 if rates[word] else -0.4}"
            for n, word in enumerate(words)
        ]
    return "\n".join([*lines, ""])


def layer_record(layer: int, neurons: int, chance: random.Random) -> dict[str, Any]:
    """One layer of `neurons.json`; the deeper, the deader."""
    certified, dead, rare = layer, 2 * layer + 1, 3
    never = certified + dead
    weights = sorted((chance.lognormvariate(0, 1) for _ in range(neurons)), reverse=True)
    shares = [index / 20 for index in range(21)]
    edges = [-6 + index / 4 for index in range(25)]
    bells = [math.exp(-(((edge + 1.2) / 0.6) ** 2)) for edge in edges[:-1]]
    return {
        "layer": layer, "activation": "relu", "neurons": neurons, "tokens": TOKENS, "sequences": SEQUENCES,
        "dead_fraction": never / neurons, "dead_upper": 5.7e-5, "dead_upper_one": 1.857e-5,
        "dead_upper_sequences": 3.66e-3, "never_positive_fraction": never / neurons, "density": 0.2772 * 0.95**layer,
        "rare_fraction": rare / neurons, "always_fraction": 0.0,
        "dormant_fraction": {"0": never / neurons, "0.025": (never + 2) / neurons, "0.1": (never + 5) / neurons},
        "inert_fraction": (never + 1) / neurons, "saturated_fraction": None, "linear_fraction": None,
        "saturated_and_linear_fraction": None, "trapped_fraction": never / neurons,
        "certified_dead_fraction": certified / neurons, "expendable_fraction": 0.31 + 0.05 * layer,
        "expendable_interval": {"low": 0.28 + 0.05 * layer, "high": 0.35 + 0.05 * layer},
        "expendable_random": {
            "mean": 0.04, "low": 0.02, "high": 0.06, "perplexity_rise": {"mean": 0.11, "low": 0.09, "high": 0.13},
        },
        "effective_width": 0.61 * neurons,
        "dormancy_curve": [{"tau": share / 4, "fraction": never / neurons + share**2} for share in shares],
        "never_versus_tokens": [{"tokens": 2**power, "never": never + neurons // 2**power} for power in range(18)],
        "chao1": {"never": never, "once": 2, "twice": 1, "truly_dead": max(0, never - 0.5)},
        "verdicts": {"certified": certified, "dead": dead, "rare": rare, "alive": neurons - never - rare},
        "firing_rate_histogram": {
            "log10_edges": edges, "counts": [round(neurons * bell / sum(bells)) for bell in bells], "never": never,
        },
        "contribution_curve": [
            {"share_of_neurons": share, "share_of_contribution": sum(weights[: round(share * neurons)]) / sum(weights)}
            for share in shares
        ],
        "undefined": {"saturated_fraction": "relu has no flat part but zero"},
    }  # fmt: skip


def model_record(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """What `neurons.json` says of the whole model."""
    neurons, never = sum(layer["neurons"] for layer in layers), sum(layer["chao1"]["never"] for layer in layers)
    return {
        "dead_fraction": never / neurons, "expendable_fraction": 0.28,
        "expendable_interval": {"low": 0.25, "high": 0.31},
        "expendable_random": {
            "mean": 0.03, "low": 0.02, "high": 0.04, "perplexity_rise": {"mean": 0.12, "low": 0.1, "high": 0.14},
        },
        "dead_zeroed": {
            "neurons": never, "largest_logit_change": 0.0, "perplexity_before": 4.6712, "perplexity_after": 4.6712,
        },
        "least_active_zeroed": [
            {
                "neurons": round(share * neurons), "share": share, "perplexity": 4.6712 * (1 + share**2),
                "random_perplexity": 4.6712 * (1 + 3 * share),
            }
            for share in (0.01, 0.05, 0.1, 0.2, 0.4)
        ],
    }  # fmt: skip


def explored_neuron(number: int, chance: random.Random) -> dict[str, Any]:
    """One neuron of `explorer.json`; number 1 is dead and number 2 meets hostile text."""
    if number == 1:
        silent = {
            "z": {"low": -2.0, "high": 1.0, "counts": [3, 9, 1, 0]},
            "max_z": -0.4,
            "bias": -0.3,
            "firing_rate": 0.0,
            "contribution": 0.0,
            "verdict": "dead",
            "passages": [],
        }
        return {"neuron": number, **silent, "promoted": ["a"], "suppressed": [" "]}
    tokens = [HOSTILE, STEERING] if number == 2 else []
    passages = [passage([*tokens, *WORDS, f" n{number}p{index}"], chance) for index in range(3)]
    z = {"low": -2.0, "high": 2.0, "counts": [2, 7, 3, 1]}
    return {
        "z": z, "max_z": 1.9, "bias": None if number == 3 else 0.1,
        "neuron": number, "firing_rate": 10 ** chance.uniform(-5, -0.3), "contribution": chance.lognormvariate(0, 1),
        "verdict": "alive", "promoted": [" the", "\n", *tokens], "suppressed": ["q", "zz"], "passages": passages,
    }  # fmt: skip


def passage(tokens: list[str], chance: random.Random) -> dict[str, Any]:
    """A passage with the words set apart by spaces; its largest value is at the peak."""
    values = [max(-0.2, chance.gauss(0, 1)) for _ in tokens]
    apart = [token if token.startswith(" ") or not index else " " + token for index, token in enumerate(tokens)]
    return {"tokens": apart, "values": values, "peak": max(range(len(values)), key=values.__getitem__)}


def life_events(layers: int, steps: int) -> list[dict[str, Any]]:
    """Events of a watched training: in each layer three die, one of them revives and dies again."""
    events = []
    for layer in range(layers):
        died = {"kind": "event", "event": "neurons_died", "layer": layer}
        revived = {"kind": "event", "event": "neurons_revived", "layer": layer}
        events += [
            {**died, "step": max(1, steps // 4), "neurons": [3, 5, 8], "again": []},
            {**revived, "step": max(1, steps // 2), "neurons": [5], "again": []},
            {**died, "step": steps, "neurons": [5], "again": [5]},
        ]
    return events


def add_life(run: Path, layers: int, steps: int) -> None:
    """Put these events into a run's log, in place of its own."""
    log = run / "metrics.jsonl"
    others = [line for line in log.read_text(encoding="utf-8").splitlines() if '"neurons_' not in line]
    events = [json.dumps(event) for event in life_events(layers, steps)]
    log.write_text("\n".join([*others, *events, ""]), encoding="utf-8")
