"""How torch's OpenMP threads wait for each other: for a moment awake, then asleep.

By default they wait awake for milliseconds. A core that another program wants is then busy with waiting, and the thread
that all wait for comes last: beside other programs a training step took 30 to 50 times as long as it need
(docs/performance-log.md). The runtimes read their settings once, when torch is loaded, so the choice comes before that;
processes that are started or forked later have it too.

Sources: GNU libgomp's manual, `GOMP_SPINCOUNT`; LLVM's OpenMP design document, `KMP_BLOCKTIME`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

# Turns of a loop in GNU's runtime, which torch has on Linux: some microseconds. Fewer of them cost more on a quiet
# machine, more of them on a busy one (docs/performance-log.md). Milliseconds in LLVM's and Intel's, which torch has on
# other systems and in other builds: the smallest above 0, since not all versions know "us".
CHOSEN = {"GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "1"}
# Whoever sets one of these has chosen, for every runtime.
SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "KMP_LIBRARY")


@dataclass
class _Choice:
    """What this process has chosen, and why it is so."""

    chosen: dict[str, str] = field(default_factory=dict)
    reason: str = "torch's own; nothing was chosen for this process"


_choice = _Choice()


def choose() -> None:
    """Set for this process and those that it starts how threads wait, unless the user has or torch is loaded."""
    users = [f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ]
    if users:
        _choice.reason = f"{', '.join(users)}; set by the user"
    elif "torch" in sys.modules:
        _choice.reason = "torch's own; torch was loaded before minigpt could choose"
    else:
        os.environ.update(CHOSEN)
        _choice.chosen = dict(CHOSEN)
        _choice.reason = f"{', '.join(f'{name}={value}' for name, value in CHOSEN.items())}; chosen by minigpt"


def reason() -> str:
    """How threads wait in this process, and who decided it, for people."""
    return _choice.reason


def as_user_has_it() -> dict[str, str]:
    """The settings that the user made, without those chosen here: for programs that are not ours."""
    return {name: os.environ[name] for name in SETTINGS if name in os.environ and name not in _choice.chosen}


@contextlib.contextmanager
def settings(values: Mapping[str, str]) -> Iterator[None]:
    """Let processes that are started in this block, and load torch anew, have these settings and no others."""
    before = {name: os.environ.pop(name, None) for name in SETTINGS}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
