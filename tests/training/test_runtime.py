"""What a process takes of its machine: threads within a quota."""

from __future__ import annotations

import pytest
import torch

from minigpt.training import runtime


@pytest.mark.parametrize(
    ("torch_has", "usable", "user", "chosen"),
    [
        (64, 2, "", 2),  # a container with a quota, on a large machine
        (2, 2, "", 0),
        (1, 8, "", 0),  # torch counts cores, not hardware threads
        (64, 2, "OMP_NUM_THREADS", 0),
        (64, 2, "MKL_NUM_THREADS", 0),
    ],
)
def test_threads_within_a_quota(monkeypatch: pytest.MonkeyPatch, torch_has: int, usable: int, user: str, chosen: int):
    """Torch counts cores that a quota leaves no time for; what the user asked for stays; 0 leaves torch's choice."""
    for name in runtime._THREAD_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    if user:
        monkeypatch.setenv(user, "64")
    monkeypatch.setattr(torch, "get_num_threads", lambda: torch_has)
    monkeypatch.setattr(runtime, "usable_cores", lambda: usable)
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert runtime.threads_of_quota() == chosen
    runtime.set_up_process(0)
    runtime.set_up_process(3)
    assert asked == [*([chosen] if chosen else []), 3]
