"""A real Ray cluster of two machines on this one: an ablation there, with a machine killed, is the local one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from child_processes import PROJECT, await_that
from conftest import write_small_text
from run_files import summary

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

SIZES = "--n-layer 1 --n-head 1 --n-embd 16 --block-size 16 --batch-size 4 --device cpu --dtype float32 --threads 1"
GRID = f"ablate --activations relu,gelu --seeds 2 --corpus text.txt {SIZES} --eval-every 500 --checkpoint-every 50"
TABLES = ("cells.csv", "comparisons.csv", "arms.csv")
PATIENCE = 420.0  # Ray starts workers with a low priority


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """How programs here find minigpt; machines of the cluster learn it from them."""
    return {**os.environ, "PYTHONPATH": str(PROJECT), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


@pytest.fixture
def cluster(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without room, and two machines of one core."""
    utilities = pytest.importorskip("ray.cluster_utils", reason="ray is not installed (the extra `cluster`)")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", environment["RAY_ENABLE_UV_RUN_RUNTIME_ENV"])
    small = {"object_store_memory": 80_000_000}
    made = utilities.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    made.machines = [made.add_node(num_cpus=1, **small) for _ in range(2)]
    made.wait_for_nodes()
    yield made
    made.shutdown()


@pytest.fixture
def grid(tmp_path: Path, environment: dict[str, str]) -> Iterator[Any]:
    """Start the same grid in a folder with a copy of the text."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, flags: str) -> tuple[Path, subprocess.Popen[bytes]]:
        place = tmp_path / name
        if not place.exists():
            place.mkdir()
            write_small_text(place)
        words = [sys.executable, "-m", "minigpt", *f"{GRID} --out grid --cells-dir cells {flags}".split()]
        with (place / "stderr").open("wb") as errors:
            started.append(
                subprocess.Popen(words, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
            )
        return place, started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def tables(place: Path) -> list[bytes]:
    return [(place / "grid" / name).read_bytes() for name in TABLES]


def in_training(place: Path) -> int:
    """How many cells have committed something and are not done."""
    committed = {path.parents[1] for path in place.glob("cells/*/checkpoints/step-*")}
    return sum(not (cell / "summary.json").exists() for cell in committed)


def test_cells_go_on_where_a_machine_is_left(cluster: Any, grid: Any) -> None:
    """One of two machines is killed while its cell trains: the other finishes all, and the tables are a local run's."""
    flags = "--steps 2000"
    place, driver = grid("cluster", f"{flags} --executor ray:{cluster.address}")
    await_that(lambda: in_training(place) == 2 or driver.poll() is not None, "both machines to train", PATIENCE)
    assert driver.poll() is None, (place / "stderr").read_text()
    cluster.remove_node(cluster.machines[0], allow_graceful=False)
    assert driver.wait(PATIENCE) == 0, (place / "stderr").read_text()
    logs = [path.read_text() for path in place.glob("grid/logs/*/*.log")]
    assert (len(logs), sum("nothing to resume" not in log for log in logs)) == (4, 1)
    alone, local = grid("local", f"{flags} --workers 2")
    assert local.wait(PATIENCE) == 0, (alone / "stderr").read_text()
    assert tables(place) == tables(alone)


def test_a_stopped_ablation_has_committed_and_goes_on(cluster: Any, grid: Any) -> None:
    """SIGTERM to the program that sent the cells: each commits a checkpoint of where it was before it leaves."""
    flags = f"--steps 20000 --checkpoint-every 100000 --executor ray:{cluster.address}"
    place, driver = grid("cluster", flags)
    await_that(
        lambda: len(list(place.glob("cells/*/metrics.jsonl"))) == 2 or driver.poll() is not None,
        "two cells to begin",
        PATIENCE,
    )
    assert driver.poll() is None, (place / "stderr").read_text()
    time.sleep(3)
    driver.terminate()
    assert driver.wait(PATIENCE) == 143, (place / "stderr").read_text()
    stopped = [summary(path.parent) for path in place.glob("cells/*/summary.json")]
    assert [(each["status"], each["steps"] > 0) for each in stopped] == [("stopped", True)] * 2


def test_a_cell_that_diverges_keeps_its_exit_code(cluster: Any, grid: Any) -> None:
    """Ray would make a crash of it, and try again."""
    place, driver = grid("cluster", f"--steps 40 --grad-clip 0 --lr 1e30 --executor ray:{cluster.address}")
    assert driver.wait(PATIENCE) == 0, (place / "stderr").read_text()
    assert {summary(path.parent)["status"] for path in place.glob("cells/*/summary.json")} == {"diverged"}
