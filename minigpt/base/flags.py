"""Dataclass fields to command-line flags, TOML files to the same values, and the limits of both.

Knows nothing of what the values mean; `training/config.py` says what each may be. Precedence: defaults, then the
preset, then the file, then the flags.
"""

from __future__ import annotations

import argparse
import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import Field, field, fields
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from minigpt.base.errors import UsageError, did_you_mean

_BOOLEANS = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}


def flag(
    default: Any,
    section: str,
    text: str,
    *,
    choices: tuple[str, ...] = (),
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A dataclass field that the command line shows as a flag, and `check_fields` checks."""
    limits = {"at_least": at_least, "above": above, "below": below}
    return field(default=default, metadata={"section": section, "help": text, "choices": choices, "limits": limits})


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are `UsageError`s and which accepts no abbreviations."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing and exiting."""
        raise UsageError(f"{message}; `{self.prog} --help` lists what is allowed")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse all of `argv`, taking `--some_key` for `--some-key`.

        Raises:
            UsageError: an unknown flag (with the nearest known one), a missing or malformed value.
        """
        values, unknown = self.parse_known_args([_canonical(argument) for argument in argv])
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            name = unknown[0].partition("=")[0]
            what = "flag" if name.startswith("-") else "argument"
            hint = did_you_mean(name, known) or "; leave it out"
            raise UsageError(f"unknown {what} {name!r}{hint} (`{self.prog} --help` lists all)")
        return values


def _canonical(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def boolean(text: str) -> bool:
    """Read true/false, on/off, yes/no or 1/0."""
    if text.lower() not in _BOOLEANS:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return _BOOLEANS[text.lower()]


def whole_or_list(text: str) -> int | str:
    """Read a whole number; a list by layer stays text, for whoever knows the layers."""
    return text if "=" in text else int(text)


def _reader(hint: Any) -> Callable[[str], Any]:
    """What turns the text of a flag into a value of a field's type."""
    if set(get_args(hint)) == {int, str}:
        return whole_or_list
    kind = value_type(hint)
    return boolean if kind is bool else kind


def add_fields(parser: argparse.ArgumentParser, kind: type) -> None:
    """Add a flag for every field of a dataclass made with `flag`; flags that are not given stay absent."""
    hints = get_type_hints(kind)
    groups: dict[str, Any] = {}
    for item in fields(kind):
        section = item.metadata["section"]
        group = groups.setdefault(section, parser.add_argument_group(section))
        group.add_argument(f"--{item.name.replace('_', '-')}", **_options(item, hints[item.name]))


def _options(item: Field[Any], hint: Any) -> dict[str, Any]:
    kind = value_type(hint)
    choices = item.metadata["choices"]
    described = f" ({', '.join(choices)})" if choices else ""
    default = "" if item.default is None else f" [{str(item.default).lower() if kind is bool else item.default}]"
    options: dict[str, Any] = {
        "dest": item.name,
        "default": argparse.SUPPRESS,
        "help": (item.metadata["help"] + described + default).replace("%", "%%"),
        "metavar": {int: "N", float: "X", bool: "BOOL", str: "NAME"}[kind],
        "type": _reader(hint),
    }
    if kind is bool:
        options |= {"nargs": "?", "const": True}
    return options


def given(values: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The fields of `kind` for which a flag was given."""
    return {item.name: getattr(values, item.name) for item in fields(kind) if hasattr(values, item.name)}


def read_toml(path: Path, *kinds: type) -> dict[str, Any]:
    """Read fields of the dataclasses `kinds` from a TOML file, which is parsed and never executed.

    Raises:
        UsageError: not a .toml file, unreadable, malformed, or a key or type that does not fit.
    """
    read = {}
    hints = {name: hint for kind in kinds for name, hint in get_type_hints(kind).items()}
    for name, (key, value) in _toml_keys(path).items():
        if name not in hints:
            raise UsageError(f"unknown key {key!r} in {path}{did_you_mean(name, hints) or '; see --help'}")
        read[name] = typed(f"{key} in {path}", value, hints[name])
    return read


def _toml_keys(path: Path) -> dict[str, tuple[str, Any]]:
    """The keys of a file with underscores for dashes, each with how it was written and its value."""
    if path.suffix != ".toml":
        raise UsageError(f"--config reads TOML only; got {path}; write key = value lines into a .toml file")
    if not path.is_file():
        raise UsageError(f"--config needs a file; there is none at {path}; write key = value lines into it")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"cannot read {path}; {reason}; write key = value lines") from error
    read: dict[str, tuple[str, Any]] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name in read:
            raise UsageError(f"{path} sets {name} twice; keep one")
        read[name] = (key, value)
    return read


def typed(what: str, value: Any, hint: Any) -> Any:
    """Return `value` if its type fits a field's annotation; `what` names it in the `UsageError` otherwise."""
    allowed = set(get_args(hint) or (hint,))
    if get_origin(hint) is dict and isinstance(value, dict):
        return value
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) not in allowed:
        names = "/".join(sorted(option.__name__ for option in allowed if option is not type(None)))
        raise UsageError(f"{what} is {value!r}; a value of type {names} is needed")
    return value


def parsed(what: str, text: str, hint: Any) -> Any:
    """Read one value of a field's type from the text of a command line; `what` names it in the `UsageError`."""
    try:
        return _reader(hint)(text)
    except (ValueError, argparse.ArgumentTypeError):
        raise UsageError(f"{what} is {text!r}; a value of type {value_type(hint).__name__} is needed") from None


def value_type(hint: Any) -> type:
    """The type that a field's values have when they are not None."""
    return next(option for option in (*get_args(hint), hint) if isinstance(option, type) and option is not type(None))


def check_fields(values: Any) -> None:
    """Raise `UsageError` for the first field of a dataclass made with `flag` whose value is not allowed."""
    for item in fields(values):
        value = getattr(values, item.name)
        if value is not None and item.metadata:
            _check_value(item.name.replace("_", "-"), value, item.metadata)


def _check_value(name: str, value: Any, metadata: Any) -> None:
    if isinstance(value, str):
        if any(ord(character) < 32 for character in value):
            raise UsageError(f"{name} holds a control character; got {value!r}; use printable text")
        if metadata["choices"] and value not in metadata["choices"]:
            hint = did_you_mean(value, metadata["choices"]) or ";"
            raise UsageError(f"unknown {name} {value!r}{hint} allowed: {', '.join(metadata['choices'])}")
        return
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise UsageError(f"{name} is out of range; it has {len(str(abs(value)))} digits; below 2^63")
    if not math.isfinite(value):
        raise UsageError(f"{name} is not a finite number; got {value}")
    limits = metadata["limits"]
    if limits["at_least"] is not None and value < limits["at_least"]:
        raise UsageError(f"{name} is too small; got {value:g}; at least {limits['at_least']:g}")
    if limits["above"] is not None and value <= limits["above"]:
        raise UsageError(f"{name} is too small; got {value:g}; above {limits['above']:g}")
    if limits["below"] is not None and value >= limits["below"]:
        raise UsageError(f"{name} is too large; got {value:g}; below {limits['below']:g}")
