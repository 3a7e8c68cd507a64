"""Models per hour of a whole ablation, beside nanoGPT's own training script, from typing the command to its exit.

In each block both run once, in turn: ours trains all seeds of one arm with `minigpt ablate`, as many at a time as there
are cores, compiled code not kept from before; nanoGPT trains one model with all cores, as it ships, evaluations
included. nanoGPT's `train.py` is executed, in its own folder, on text that its `prepare.py` has prepared there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minigpt.base.errors import MinigptError
from minigpt.benchmarks.bench_options import NANOGPT, NANOGPT_RECIPE, BenchOptions, Peer
from minigpt.benchmarks.paired_blocks import Track, alternate, paired_ratio, spread
from minigpt.benchmarks.startup import as_flags
from minigpt.training.config import RunConfig

HOUR = 3600.0
_EVALUATED_BATCHES = 20  # as nanoGPT's README has it for a CPU


def measure_ablation(
    config: RunConfig,
    asked: Mapping[str, Any],
    peers: Sequence[Peer],
    options: BenchOptions,
    flops_per_token: int,
    ceiling: float,
    track: Track,
) -> dict[str, Any]:
    """Measure both in turn; `asked` are the training flags that lead to `config`."""
    others = [Path(peer.path) for peer in peers if peer.name == NANOGPT]
    flags = as_flags({"preset": config.preset, **{k: v for k, v in asked.items() if k != "activation"}})
    programs = [lambda: _ours(config.activation, flags, options.ablation_seeds)]
    programs += [lambda folder=folder: _nanogpt(folder, config) for folder in others]  # type: ignore[misc]
    seconds = alternate(programs, track(range(options.ablation_blocks), f"ablations {config.preset}"))
    models = options.ablation_seeds
    each = [block / models for block in seconds[0]]
    operations = flops_per_token * config.tokens_per_step * config.steps
    return {
        "preset": config.preset,
        "models": models,
        "seconds": asdict(spread(seconds[0])),
        "models_per_hour": HOUR / spread(each).median,
        "share_of_ceiling": operations / spread(each).median / ceiling,
        "peers": [
            {
                "peer": NANOGPT,
                "seconds_each": asdict(spread(theirs)),
                "models_per_hour": HOUR / spread(theirs).median,
                "ratio": asdict(paired_ratio(theirs, each)),
            }
            for theirs in seconds[1:]
        ],
    }


def _ours(activation: str, flags: Sequence[str], seeds: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        places = [f"--cells-dir={folder}/cells", f"--out={folder}/ablation"]
        grid = ["--activations", activation, "--seeds", str(seeds), *places]
        fresh = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": f"{folder}/compiled"}
        return _seconds([sys.executable, "-m", "minigpt", "ablate", *grid, *flags], Path.cwd(), fresh)


def _nanogpt(folder: Path, config: RunConfig) -> float:
    shape = {
        name: getattr(config, name) for name in ("n_layer", "n_head", "n_embd", "block_size", "batch_size", "dropout")
    }
    length = {"max_iters": config.steps, "lr_decay_iters": config.steps, "eval_iters": _EVALUATED_BATCHES}
    machine = {"device": config.device, "compile": config.device != "cpu"}
    with tempfile.TemporaryDirectory() as out:
        settings = {**shape, **length, **machine, "log_interval": 1, "out_dir": out}
        words = [f"--{name}={value}" for name, value in settings.items()]
        return _seconds([sys.executable, "train.py", NANOGPT_RECIPE, *words], folder, dict(os.environ))


def _seconds(command: Sequence[str], place: Path, environment: dict[str, str]) -> float:
    """How long a command takes; raises `MinigptError` with its last words if it fails."""
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise MinigptError(f"`{' '.join(command)}` ended with exit code {done.returncode}; {words}")
    return time.perf_counter() - begun
