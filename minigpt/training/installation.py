"""Whether this installation can do what it will be asked: versions, device, arithmetic, a write to disk."""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path

import torch

from minigpt.base import formats, storage, thread_waiting
from minigpt.base.errors import MinigptError, StorageError
from minigpt.base.usable_cores import cores_of_affinity, cpu_quota
from minigpt.model import GPT, GPTConfig
from minigpt.neurons.calibration import Check
from minigpt.training import runtime

OLDEST_PYTHON = (3, 11)
OLDEST_TORCH = (2, 6)
_WRITTEN = b"minigpt doctor\n"


def installation_checks(device: torch.device) -> list[Check]:
    """Look at what every command relies on; leaves nothing behind."""
    return [
        _version("python", platform.python_version(), OLDEST_PYTHON),
        _version("torch", str(torch.__version__), OLDEST_TORCH),
        _device(device),
        Check("threads", "at least 1", _threads(), torch.get_num_threads() >= 1),
        Check("how threads wait for each other", "any way", thread_waiting.reason(), True),
        *(_arithmetic(device, dtype) for dtype in dict.fromkeys(("float32", runtime.fastest_dtype(device)))),
        _disk(Path()),
        _compiler(device),
    ]


def _version(name: str, found: str, oldest: tuple[int, int]) -> Check:
    numbers = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in found.split(".")[:2])
    return Check(name, f"{oldest[0]}.{oldest[1]} or newer", found, numbers >= oldest)


def _device(device: torch.device) -> Check:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Check("device", "one that computes", f"{name}, {runtime.fastest_dtype(device)}", True)


def _threads() -> str:
    """How many, and what they share."""
    quota, cores = cpu_quota(), formats.counted(cores_of_affinity(), "core")
    return f"{torch.get_num_threads()}; on {cores}, {'no CPU quota' if quota is None else f'a CPU quota of {quota:g}'}"


def _arithmetic(device: torch.device, dtype: str) -> Check:
    """A forward and a backward pass of a tiny model: the gradient finite and not all 0."""
    model = GPT(GPTConfig(vocab_size=8, block_size=8, n_layer=1, n_head=1, n_embd=8)).to(device)
    with runtime.autocast(device, dtype):
        loss = model(torch.arange(8, device=device)[None]).float().logsumexp(-1).mean()
    (gradient,) = torch.autograd.grad(loss, [model.wte.weight])
    sound = bool(torch.isfinite(gradient).all()) and bool(gradient.any())
    return Check(f"a backward pass in {dtype}", "finite, not 0", "so" if sound else "not so", sound)


def _compiler(device: torch.device) -> Check:
    """Whether `--compile on` works; without it everything does, only slower, so it passes either way."""
    obstacle = runtime.missing_compiler() if device.type == "cpu" else ""
    return Check("a C++ compiler, for --compile on", "one that works, or none", obstacle or "one that works", True)


def _disk(place: Path) -> Check:
    """Write, flush, read and delete a file where runs go."""
    expected = f"{len(_WRITTEN)} bytes written and read"
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".minigpt-doctor-") as folder:
            path = Path(folder) / "probe"
            storage.write_bytes(path, _WRITTEN)
            same = storage.read_bytes(path, StorageError) == _WRITTEN
    except (OSError, MinigptError) as reason:
        return Check(f"a write to {place.resolve()}", expected, str(reason), False)
    return Check(f"a write to {place.resolve()}", expected, expected if same else "other bytes", same)
