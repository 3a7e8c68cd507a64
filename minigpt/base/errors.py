"""User-facing errors, each with the exit code that the command line returns for it.

An error message is one line of three parts: what is wrong; what was given; what is allowed or what to do.
Anything that is not a `MinigptError` is a bug of ours and ends with exit code 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MinigptError(Exception):
    """Base of every error that a user can cause or must hear about."""

    exit_code = 1


class UsageError(MinigptError, ValueError):
    """A flag, configuration value or name that is not allowed."""

    exit_code = 2


class DataError(MinigptError, ValueError):
    """A corpus, tokenizer or prepared token file that cannot be used."""

    exit_code = 3


class CheckpointError(MinigptError):
    """A run directory or checkpoint that is missing, damaged or does not fit."""

    exit_code = 4


class StorageError(MinigptError):
    """The disk refused: full, read-only, forbidden, failing."""

    exit_code = 5


class DivergedError(MinigptError):
    """A loss, gradient or parameter that is no longer finite."""

    exit_code = 6


class LockedError(MinigptError):
    """Another process holds the directory."""

    exit_code = 7


class OutOfMemoryError(MinigptError):
    """The machine or the device has no memory left."""

    exit_code = 8


class RankError(MinigptError):
    """Another process of a training in several has gone, or no longer agrees with this one."""

    exit_code = StorageError.exit_code


class StopRequestedError(MinigptError):
    """Ctrl-C or SIGTERM arrived; raised once the state is safe, and ends with 128 + the signal's number."""

    def __init__(self, signal_number: int, message: str = "stopped") -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def error_of(exit_code: int, message: str) -> MinigptError:
    """The error that a process which left with this exit code had met."""
    # NOTE: a request to stop is made from a signal's number, and has no fixed exit code.
    failures = (kind for kind in MinigptError.__subclasses__() if kind is not StopRequestedError)
    kinds = (kind for kind in failures if kind.exit_code == exit_code)
    return next(kinds, MinigptError)(message)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; torch says so in a `RuntimeError`, on a CPU by its text alone."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    message = str(error).lower()
    signs = ("out of memory", "allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(sign in message for sign in signs)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name nearest to `name`, or an empty string."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
