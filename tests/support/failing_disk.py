"""Operations of the system that fail as a full or broken disk does."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from minigpt.base import storage


def failing(name: str, at: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the `at`-th call of one `os` function fail."""
    original: Callable[..., object] = getattr(os, name)
    calls = 0

    def call(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(code, os.strerror(code))
        return original(*arguments, **options)

    monkeypatch.setattr(storage.os, name, call)
