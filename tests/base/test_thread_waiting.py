"""How OpenMP's threads wait is chosen before torch is loaded, unless the user has chosen; children have it too."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt.base import thread_waiting
from minigpt.base.thread_waiting import CHOSEN, SETTINGS

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which nobody has chosen, restored afterwards."""
    for name in SETTINGS:
        monkeypatch.setenv(name, "")  # so that it is put back, whatever a test does
        monkeypatch.delenv(name)
    monkeypatch.setattr(thread_waiting, "_choice", thread_waiting._Choice())


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)


def chosen() -> dict[str, str]:
    return {name: os.environ[name] for name in SETTINGS if name in os.environ}


def test_it_is_chosen_for_both_runtimes(without_torch: None):
    """Which one torch brings is not known before it is loaded; each ignores the other's variable."""
    thread_waiting.choose()
    assert chosen() == CHOSEN
    assert thread_waiting.reason() == "GOMP_SPINCOUNT=2000, KMP_BLOCKTIME=1; chosen by minigpt"
    assert thread_waiting.as_user_has_it() == {}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_the_user_chose_stays(without_torch: None, name: str):
    """One variable is enough: the others would contradict it, or decide where it does not."""
    os.environ[name] = "7"
    thread_waiting.choose()
    assert chosen() == {name: "7"} == thread_waiting.as_user_has_it()
    assert thread_waiting.reason() == f"{name}=7; set by the user"


def test_after_torch_it_is_too_late():
    """A setting that nobody reads must not look as if it held."""
    import torch  # noqa: F401

    thread_waiting.choose()
    assert chosen() == {}
    assert "torch was loaded before" in thread_waiting.reason()


def test_settings_of_started_processes(without_torch: None):
    """A benchmark starts programs with each setting, and leaves its own as it was."""
    thread_waiting.choose()
    with thread_waiting.settings({"OMP_WAIT_POLICY": "passive"}):
        assert chosen() == {"OMP_WAIT_POLICY": "passive"}
        with thread_waiting.settings({}):
            assert chosen() == {}
        assert chosen() == {"OMP_WAIT_POLICY": "passive"}
    assert chosen() == CHOSEN


@pytest.mark.parametrize("way", [way for way in ("fork", "spawn") if way in multiprocessing.get_all_start_methods()])
def test_children_have_it_too(way: str):
    """An ablation's workers are forked, a benchmark's programs spawned: their torch reads what the parent chose."""
    program = (
        "import multiprocessing, os\n"
        "from minigpt.base import thread_waiting\n"
        "thread_waiting.choose()\n"
        "if __name__ == '__main__':\n"
        f"    context = multiprocessing.get_context({way!r})\n"
        "    child = context.Process(target=os.system, args=('printenv GOMP_SPINCOUNT KMP_BLOCKTIME',))\n"
        "    child.start(); child.join()"
    )
    assert output_of("-c", program).split() == list(CHOSEN.values())


def test_the_console_chooses_before_anything_heavy_is_loaded():
    """The runtime reads its settings when torch is loaded."""
    program = (
        "import sys\n"
        "from minigpt.base import thread_waiting\n"
        "from minigpt import cli\n"
        "choose = thread_waiting.choose\n"
        "thread_waiting.choose = lambda: (choose(), print('torch' in sys.modules, thread_waiting.reason()))\n"
        "cli.console('train')"
    )
    assert output_of("-c", program, "--help").startswith("False GOMP_SPINCOUNT=2000")


@pytest.mark.skipif(sys.platform != "linux", reason="torch has GNU's runtime on Linux")
def test_the_runtime_obeys():
    """GNU's runtime, asked by its own switch: what it shows is what it read."""
    program = "from minigpt.base import thread_waiting; thread_waiting.choose(); import torch"
    done = run("-c", program, OMP_DISPLAY_ENV="verbose")
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this torch has another runtime")
    assert "GOMP_SPINCOUNT = '2000'" in done.stderr


def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return subprocess.run(
        [sys.executable, *words],
        env={**environment, "PYTHONPATH": str(PROJECT), **more},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


def output_of(*words: str) -> str:
    return run(*words).stdout
