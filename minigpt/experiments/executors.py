"""The executor that the flags ask for, and how many threads each of its jobs may have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minigpt.experiments.executor_options import ExecutorOptions
from minigpt.experiments.processes import Executor, local_executor
from minigpt.experiments.ray_cluster import ray_executor


@contextmanager
def executor_of(options: ExecutorOptions, workers: int, device: str, logs: Path) -> Iterator[tuple[Executor, int]]:
    """Processes here or tasks on a cluster, for the length of a block; all have left afterwards.

    `workers` is how many work at a time, 0 for as many as there is room for; jobs print into files under `logs`.

    `options` were checked when they were taken from the flags.

    Raises:
        UsageError: the cluster cannot be reached, its package is missing, or it lacks what a cell needs.
    """
    if options.is_local:
        with local_executor(workers, device, logs) as (local, threads):
            yield local, threads
    else:
        with ray_executor(options, workers, device, logs) as cluster:
            yield cluster, options.cores_per_cell
