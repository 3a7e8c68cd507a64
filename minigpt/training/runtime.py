"""The machine: device, precision, threads, allocator and what of it a run records.

Everything that changes bits is chosen here once, by rule, written into `config.json` and obeyed on resuming.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config

from minigpt.activations import canonical_activation, canonical_widths
from minigpt.base.errors import OutOfMemoryError, UsageError, is_out_of_memory
from minigpt.base.usable_cores import usable_cores
from minigpt.base.version import VERSION
from minigpt.neurons.surgery import check_killing, parse_choice
from minigpt.training import compilers
from minigpt.training.config import RunConfig, check
from minigpt.training.ranks import ALONE, Ranks

# Fused attention has a slow backward pass at short contexts on a CPU (docs/performance-log.md).
WRITTEN_ATTENTION_CONTEXT = 512
# Compiling takes this long on a CPU and then saves about this share of a step, at about this speed.
COMPILE_SECONDS = 25.0
COMPILE_SAVING = 0.2
CPU_FLOPS = 2.5e11
CORE_FLOPS = 1e11
WAITING_CORES = 2
GPU_COMPILE_STEPS = 500
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

Compilable = TypeVar("Compilable", bound=Callable[..., Any])


def resolve(config: RunConfig) -> RunConfig:
    """Replace what is `auto` or follows from other values; `compile` is left to `resolve_compile`.

    Done once, where a configuration is made: by the command line, or by what plans many runs. What is resolved stays
    as it is if it comes here again, when a run is continued.

    Raises:
        UsageError: a value is not allowed, or this machine lacks what it needs.
    """
    check(config)
    for spec in (config.recycle, config.init_surgery):
        parse_choice(spec)
    if config.init_killed:
        check_killing(config)
    device = resolve_device(config.device)
    if config.compile in ("on", "graphs") and _obstacle_to_compiling(config, device):
        raise UsageError(f"cannot compile; {_obstacle_to_compiling(config, device)}")
    if config.compile == "graphs" and (device.type != "cuda" or config.grad_accumulation > 1):
        got = f"device {device} and grad-accumulation {config.grad_accumulation}"
        raise UsageError(f"CUDA graphs need a GPU and one forward pass in a step; got {got}; use --compile on")
    # The fused kernel of a CPU has no dropout and would fall back to a slower one.
    short_or_dropping = config.block_size <= WRITTEN_ATTENTION_CONTEXT or config.dropout > 0
    attention = "written" if device.type == "cpu" and short_or_dropping else "fused"
    return replace(
        config,
        activation=canonical_activation(config.activation, config.n_layer),
        d_ff=canonical_widths(config.d_ff, config.n_layer),
        device=str(device),
        dtype=fastest_dtype(device) if config.dtype == "auto" else config.dtype,
        attention=attention if config.attention == "auto" else config.attention,
        min_lr=config.lr / 10 if config.min_lr is None else config.min_lr,
        warmup_steps=min(100, config.steps // 10) if config.warmup_steps is None else config.warmup_steps,
    )


def resolve_device(name: str) -> torch.device:
    """Turn `auto` into cuda, then mps, then cpu; refuse a device that is not there.

    NOTE: a process that has asked for GPUs cannot be forked into one that uses them, so `cpu` asks nothing.
    """
    count: dict[str, Callable[[], int]] = {
        "cuda": lambda: torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: 1,
    }
    if name == "auto":
        return torch.device(next(kind for kind in count if count[kind]()))
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in count:
        raise UsageError(f"unknown device {name!r}; allowed: auto, cpu, cuda, cuda:N, mps")
    if (device.index or 0) >= count[device.type]():
        seen = ", ".join(f"{number()} {kind}" if kind == "cuda" else kind for kind, number in count.items() if number())
        raise UsageError(f"device {name} is not available; torch {torch.__version__} sees only: {seen}; use that")
    return device


def fastest_dtype(device: torch.device) -> str:
    """bfloat16 where the processor multiplies it natively; elsewhere it is emulated and far slower."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu" and platform.system() == "Linux":
        with contextlib.suppress(OSError):
            flags = Path("/proc/cpuinfo").read_text()
            return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"
    return "float32"


def resolve_compile(config: RunConfig, flops_per_step: int) -> RunConfig:
    """Decide `--compile auto` by whether the steps repay compiling."""
    if config.compile != "auto":
        return config
    device = torch.device(config.device)
    if device.type == "cpu":
        # NOTE: compiled code draws dropout's random numbers more slowly than it saves elsewhere.
        saved = 0.0 if config.dropout else COMPILE_SAVING * flops_per_step * config.steps / CPU_FLOPS
        repaid = saved > 2 * COMPILE_SECONDS
    else:
        repaid = device.type == "cuda" and config.steps >= GPU_COMPILE_STEPS
    obstacle = _obstacle_to_compiling(config, device) if repaid else ""
    if obstacle:
        print(f"note: not compiled; {obstacle}", file=sys.stderr)
    return replace(config, compile="on" if repaid and not obstacle else "off")


def compiling_once_repays(configs: Sequence[RunConfig], flops: int, models: int) -> bool:
    """Whether trainings on single cores, of this work in all, repay compiling their models once each while cores wait.

    The number of cores that wait must not decide how a model is trained, so it is taken to be `WAITING_CORES`.
    """
    saved = COMPILE_SAVING * flops / CORE_FLOPS
    # NOTE: compiled code draws dropout's random numbers more slowly than it saves elsewhere.
    if any(config.dropout for config in configs) or saved <= 2 * WAITING_CORES * COMPILE_SECONDS * models:
        return False
    obstacles = [found for config in configs if (found := _obstacle_to_compiling(config, torch.device(config.device)))]
    if obstacles:
        print(f"note: not compiled; {obstacles[0]}", file=sys.stderr)
    return not obstacles


def _obstacle_to_compiling(config: RunConfig, device: torch.device) -> str:
    """Why this configuration cannot be compiled here, and what to do; an empty string if it can."""
    if config.l1:
        return "the L1 term reads hidden values, which a compiled model hides; use --compile off"
    return missing_compiler() if device.type == "cpu" else ""


def missing_compiler() -> str:
    """What to do about a C++ compiler that is not there or does not work; an empty string if one does."""
    return compilers.obstacle()


def forward_of(model: nn.Module, how: str) -> Callable[[Tensor], Tensor]:
    """The model, or its compiled form, which shares its parameters."""
    return compiled(model, how, next(model.parameters()).device)


def compiled(function: Compilable, how: str, device: torch.device) -> Compilable:
    """A function or model, or its compiled form; compiling happens at the first call.

    With `graphs` the kernels of a GPU are launched as CUDA graphs too. Their gradients are overwritten by the next
    forward pass, which is why there must be one in a step (github.com/pytorch/pytorch/issues/169545).

    NOTE: by default torch keeps ReLU's mask as a byte tensor for the backward pass, and its CPU kernels store and load
    such masks one by one: the compiled step became slower than the plain one. Without this ban the mask is recomputed.
    The setting belongs to the process, since the graph is cut when the model is first called.
    """
    if how == "off":
        return function
    if how == "graphs":
        return cast("Compilable", torch.compile(function, dynamic=False, mode="reduce-overhead"))
    if device.type == "cpu":
        functorch_config.ban_recompute_materialized_backward = False
    return cast("Compilable", torch.compile(function, dynamic=False))


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    """Compute matrix products in bfloat16 inside this block, or change nothing for float32."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def set_up(config: RunConfig, ranks: Ranks = ALONE) -> None:
    """Apply the process-wide settings of a resolved configuration.

    Raises:
        UsageError: there are fewer GPUs than ranks.
    """
    if ranks.size == 1:
        set_up_process(config.threads)
    else:
        # NOTE: torchrun allows each process one thread, whatever the machine has.
        set_up_process(config.threads or max(1, usable_cores() // ranks.local_size))
        _take_own_gpu(config.device, ranks)
    device = torch.device(config.device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        if device.index is not None:
            torch.cuda.set_device(device)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def _take_own_gpu(device: str, ranks: Ranks) -> None:
    """Let `cuda` mean another GPU for each rank of this machine."""
    if device == "cpu":
        return
    gpus = torch.cuda.device_count()
    if device != "cuda" or gpus < ranks.local_size:
        got = f"{ranks.local_size} processes, device {device} and {gpus} GPUs"
        raise UsageError(f"each process needs its own GPU; got {got}; use --device cuda or cpu, or fewer of them")
    torch.cuda.set_device(ranks.local_rank)


def set_up_process(threads: int) -> None:
    """Choose the allocator's habits, and the CPU threads; 0: torch's choice within a CPU quota."""
    keep_freed_memory()
    if chosen := threads or threads_of_quota():
        torch.set_num_threads(chosen)


def threads_of_quota() -> int:
    """The threads that a CPU quota has time for, if torch chose more; else 0. A user's OMP_NUM_THREADS counts as it is.

    NOTE: torch sees the machine's cores and not the quota of a container, in which its threads would stop each other.
    """
    usable = usable_cores()
    chosen_by_user = any(name in os.environ for name in _THREAD_SETTINGS)
    return 0 if chosen_by_user or torch.get_num_threads() <= usable else usable


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: it would give large ones back and fault them in again at every step."""
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, -1)  # never: the largest number would still give back 2 GiB and more
    libc.mallopt(top_pad, 256 * 2**20)


def environment(device: str, ranks: Ranks = ALONE) -> dict[str, Any]:
    """What a run on a device ran on: versions, source revision, processor, GPU, threads."""
    commit, dirty = _source_revision()
    return {
        "minigpt": VERSION,
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "platform": platform.platform(),
        "processor": _processor_name(),
        "accelerator": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None,
        "command": sys.argv,
        **exactness(ranks),
    }


def exactness(ranks: Ranks = ALONE) -> dict[str, Any]:
    """What must be equal for two runs of one configuration to agree in every bit on a CPU."""
    return {
        "torch_build": str(torch.__version__),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": ranks.size,
    }


def peak_memory_bytes(device: str) -> int | None:
    """Most memory held so far: of a CUDA device what torch took there, else what was resident of this process.

    NOTE: Linux hands `ru_maxrss` on to children, through exec too: a small one would show its large parent's.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    if sys.platform == "win32":
        return None
    import resource

    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes if sys.platform == "darwin" else 1024 * kibibytes  # macOS counts bytes


@contextlib.contextmanager
def memory_advice(config: RunConfig, accumulate: bool = True) -> Iterator[None]:
    """Turn the several ways of running out of memory into one that says what to do; to `accumulate` is one of them."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        remedy = f"--batch-size {max(1, config.batch_size // 2)}"
        remedy += f" --grad-accumulation {2 * config.grad_accumulation}" if accumulate else ""
        got = f"batch-size {config.batch_size} with block-size {config.block_size}"
        raise OutOfMemoryError(f"out of memory; {got} does not fit; try {remedy}") from error


def _processor_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _source_revision() -> tuple[str | None, bool | None]:
    """Commit of the source tree and whether it has changes; None outside a repository."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or not shutil.which("git"):
        return None, None
    commands = (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    outputs = []
    for command in commands:
        done = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=False)
        if done.returncode:
            return None, None
        outputs.append(done.stdout.strip())
    return outputs[0], bool(outputs[1])
