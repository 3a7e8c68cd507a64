"""A module that answers as Ray does, in this process: tasks run when they are waited for, and machines can be lost."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any


class RayError(Exception):
    """Ray lost a task."""


class RayTaskError(RayError):
    """A task raised `cause`."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def fake_ray(*machines: dict[str, float]) -> Any:
    """A module `ray` whose cluster has these machines; `lose` is set to make the next tasks fail with an error."""
    ray = types.ModuleType("ray")
    exceptions = types.ModuleType("ray.exceptions")
    vars(exceptions).update(RayError=RayError, RayTaskError=RayTaskError)
    state: dict[str, Any] = {
        "exceptions": exceptions,
        "lose": None,
        "options": [],
        "cancelled": [],
        "joined_with": {},
        "alive": [{"Alive": True, "Resources": machine} for machine in machines],
    }

    def remote(**options: Any) -> Callable[[Any], Any]:
        state["options"].append(options)
        return lambda function: types.SimpleNamespace(remote=lambda *arguments: (function, arguments))

    def get(task: Any) -> Any:
        if ray.lose is not None:
            raise ray.lose
        function, arguments = task
        return function(*arguments)

    vars(ray).update(
        state,
        init=lambda **options: ray.joined_with.update(options),
        shutdown=lambda: None,
        nodes=lambda: ray.alive,
        remote=remote,
        get=get,
        wait=lambda tasks, num_returns, timeout: (tasks[:num_returns], tasks[num_returns:]),
        cancel=lambda task: ray.cancelled.append(task),
    )
    return ray
