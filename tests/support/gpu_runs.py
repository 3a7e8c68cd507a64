"""What the tests on a GPU share: the flags of a small training there, and commands in processes that begin anew.

`GPU_TESTS_DEVICE=cpu` runs the same tests on the CPU, so that they can be tried where there is no GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from child_processes import PROJECT

DEVICE = torch.device(os.environ.get("GPU_TESTS_DEVICE", "cuda"))
THERE = DEVICE.type == "cpu" or torch.cuda.is_available()
SIZES = "--n-layer 2 --n-head 2 --n-embd 64 --block-size 32 --batch-size 8"
OFTEN = "--eval-every 10 --checkpoint-every 10 --log-every 1 --lr 5e-3 --warmup-steps 0"
RUN = f"--corpus text.txt {SIZES} {OFTEN} --steps 20 --device {DEVICE}"

# For the head of each file of tests.
on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not THERE, reason="torch sees no CUDA device"),
    pytest.mark.filterwarnings("default"),  # what drivers and compilers warn of is not ours
]
cuda_only = pytest.mark.skipif(DEVICE.type != "cuda", reason="only CUDA has this")


def anew(command: str, place: Path, launcher: str = "-m minigpt") -> subprocess.CompletedProcess[str]:
    """Run a command in a new process: some settings of CUDA hold for the life of one."""
    words = [sys.executable, *launcher.split(), *command.split()]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.run(
        words, cwd=place, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=300, check=False
    )


def trained_anew(command: str, place: Path, launcher: str = "-m minigpt") -> None:
    """The same for a command that must succeed."""
    done = anew(command, place, launcher)
    assert done.returncode == 0, done.stderr[-3000:]
