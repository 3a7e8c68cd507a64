"""Dataclass fields to command-line flags, TOML files to the same values, and the limits of both.

Knows nothing of what the values mean; `training/config.py` says what each may be. Precedence: defaults, then the
preset, then the file, then the flags.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import Field, field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from minigpt.base.errors import UsageError, did_you_mean
from minigpt.base.help_text import Defaults, Introduction, help_text
from minigpt.base.reading import read_bytes

Kind = TypeVar("Kind")
_MOST_TOML = 1 << 20  # bytes
_DEEPEST_TOML = 100
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
    path: bool = False,
) -> Any:
    """A dataclass field that the command line shows as a flag and `check_fields` checks; a path may begin with ~."""
    limits = {"at_least": at_least, "above": above, "below": below}
    shown = {"section": section, "help": text, "choices": choices}
    return field(default=default, metadata={**shown, "limits": limits, "path": path})


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are `UsageError`s and which accepts no abbreviations.

    introduction   what `--help` shows first
    topics         the same for a first argument that chooses what is done, such as `run` of `claims run`
    choices        the values of flags that take one of a few, where argparse does not know them
    with_preset    fills in what a preset sets, so that `--preset NAME --help` shows it
    """

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, add_help=False)
        self.introduction = Introduction()
        self.topics: dict[str, Introduction] = {}
        self.with_preset: Callable[[dict[str, Any]], dict[str, Any]] | None = None
        self.choices: dict[str, tuple[str, ...]] = {}
        self._shown_defaults: dict[str, Any] = {}
        self._argv: list[str] = []

    def add_flags_of_all(self) -> None:
        """Add what every command takes, below all its own flags."""
        group = self.add_argument_group("for every command")
        group.add_argument("-h", "--help", action=_Help, nargs=0, help="show the common flags and leave")
        group.add_argument("--help-all", action=_Help, nargs=0, help="show all flags and leave")
        group.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def show_default(self, name: str, value: Any) -> None:
        """Let help name this default of a flag, or what a preset sets instead."""
        self._shown_defaults[name] = value

    def format_help(self, everything: bool = False) -> str:
        """Return the help for what the command line being parsed names."""
        topic = next((word for word in self._argv if word in self.topics), None)
        prog, shown = (f"{self.prog} {topic}", self.topics[topic]) if topic else (self.prog, self.introduction)
        groups, defaults = self._action_groups, self._defaults_in_force()
        return help_text(prog, self.description or "", groups, shown, defaults, everything)

    def _defaults_in_force(self) -> Defaults:
        argv = self._canonical(self._argv)
        given = [word.partition("=")[2] for word in argv if word.startswith("--preset=")]
        given += [value for flag, value in itertools.pairwise(argv) if flag == "--preset"]
        if self.with_preset is None:
            return Defaults(self._shown_defaults)
        if not given:
            return Defaults(self._shown_defaults | self.with_preset({}))
        preset = given[-1].partition(",")[0]
        values = self.with_preset({"preset": preset})
        named = [f"{name.replace('_', '-')} {str(value).lower()}" for name, value in values.items() if name != "preset"]
        source = f"In brackets: --preset {preset}, which sets {', '.join(named) or 'nothing'}."
        return Defaults(self._shown_defaults | values, source)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing and exiting."""
        raise UsageError(f"{message}{self._dash_hint(message)}; `{self.prog} --help-all` lists what is allowed")

    def _dash_hint(self, message: str) -> str:
        """How to give a value that begins with a dash, if the lack of a value is what is complained about."""
        if "expected one argument" not in message and "expected at least one" not in message:
            return ""
        lacking: list[str] = re.findall(r"--[a-z0-9-]+", message.partition(":")[0])
        for option, value in itertools.pairwise(self._argv):
            if option.replace("_", "-") in lacking and value.startswith("-"):
                return f"; a value that begins with a dash is given as {lacking[0]}={shlex.quote(value)}"
        return ""

    def _canonical(self, argv: Sequence[str]) -> list[str]:
        """Write dashes in the names of known flags, and leave everything else as it was given."""
        canonical: list[str] = []
        for position, argument in enumerate(argv):
            if argument == "--":
                return [*canonical, *argv[position:]]
            name, equals, value = argument.partition("=")
            dashed = name.replace("_", "-")
            known = name.startswith("--") and dashed in self._option_string_actions
            canonical.append(dashed + equals + value if known else argument)
        return canonical

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse all of `argv`, taking `--some_key` for `--some-key`.

        Raises:
            UsageError: an unknown flag (with the nearest known one), a missing or malformed value.
        """
        self._argv = list(argv)
        values, unknown = self.parse_known_args(self._canonical(argv))
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            name = unknown[0].partition("=")[0]
            what = "flag" if name.startswith("-") else "argument"
            name = name.replace("_", "-") if name.startswith("--") else name
            hint = did_you_mean(name, known) or "; leave it out"
            raise UsageError(f"unknown {what} {name!r}{hint} (`{self.prog} --help-all` lists all)")
        return values


class _Help(argparse.Action):
    """Print the help and leave."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        print(parser.format_help(everything=option == "--help-all"), end="")
        parser.exit()


def user_path(text: str) -> Path:
    """A flag's value as a path."""
    return Path(path_text(text))


def path_text(text: str) -> str:
    """A flag's value that may be a path, after `expanded`."""
    try:
        return expanded(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def expanded(text: str) -> str:
    """A path with a leading `~` or `~name` replaced by the home directory, as a shell does it only for whole words.

    Raises:
        UsageError: there is no such home, or the path has what no system takes: a NUL, or half a surrogate pair.
    """
    if "\0" in text:
        raise UsageError(f"a path cannot have NUL, a control character; got {text!r:.200}; leave it out")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise UsageError(f"a path cannot have a lone surrogate; got {text!r:.200}; leave it out") from None
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        raise UsageError(f"{text} names a home directory that is not known; write the whole path") from None


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


def add_fields(parser: Parser, kind: type) -> None:
    """Add a flag for every field of a dataclass made with `flag`; flags that are not given stay absent."""
    hints = get_type_hints(kind)
    groups: dict[str, Any] = {}
    for item in fields(kind):
        section = item.metadata["section"]
        group = groups.setdefault(section, parser.add_argument_group(section))
        group.add_argument(f"--{item.name.replace('_', '-')}", **_options(item, hints[item.name]))
        parser.show_default(item.name, item.default)
        parser.choices[item.name] = item.metadata["choices"]


def _options(item: Field[Any], hint: Any) -> dict[str, Any]:
    kind = value_type(hint)
    choices = item.metadata["choices"]
    described = f" ({', '.join(choices)})" if choices else ""
    options: dict[str, Any] = {
        "dest": item.name,
        "default": argparse.SUPPRESS,
        "help": (item.metadata["help"] + described).replace("%", "%%"),
        "metavar": {int: "N", float: "X", bool: "BOOL", str: "NAME"}[kind],
        "type": path_text if item.metadata.get("path") else _reader(hint),
    }
    if kind is bool:
        options |= {"nargs": "?", "const": True}
    return options


def given(values: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The fields of `kind` for which a flag was given."""
    return {item.name: getattr(values, item.name) for item in fields(kind) if hasattr(values, item.name)}


def taken_out(chosen: dict[str, Any], kind: type[Kind]) -> Kind:
    """The fields of `kind` among values that were chosen, which then hold them no longer; checked."""
    taken = kind(**{name: chosen.pop(name) for name in get_type_hints(kind) if name in chosen})
    check_fields(taken)
    return taken


def read_toml(path: Path, *kinds: type) -> dict[str, Any]:
    """Read fields of the dataclasses `kinds` from a TOML file, which is parsed and never executed.

    Raises:
        UsageError: not a .toml file, unreadable, malformed, or a key or type that does not fit.
    """
    read = {}
    hints = {name: hint for kind in kinds for name, hint in get_type_hints(kind).items()}
    paths = {item.name for kind in kinds for item in fields(kind) if item.metadata.get("path")}
    for name, (key, value) in _toml_keys(path).items():
        if name not in hints:
            raise UsageError(f"unknown key {key!r} in {path}{did_you_mean(name, hints) or '; see --help'}")
        fitting = typed(f"{key} in {path}", value, hints[name])
        read[name] = expanded(fitting) if name in paths and isinstance(fitting, str) else fitting
    return read


def _toml_keys(path: Path) -> dict[str, tuple[str, Any]]:
    """The keys of a file with underscores for dashes, each with how it was written and its value."""
    if path.suffix != ".toml":
        raise UsageError(f"--config reads TOML only; got {path}; write key = value lines into a .toml file")
    if not path.is_file():
        raise UsageError(f"--config needs a file; there is none at {path}; write key = value lines into it")
    try:
        text = read_bytes(path.resolve(), UsageError, limit=_MOST_TOML).decode("utf-8-sig")
        if _depth(text) > _DEEPEST_TOML:
            raise ValueError("nested too deeply")
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"cannot read {path}; {error}; write key = value lines") from error
    read: dict[str, tuple[str, Any]] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name in read:
            raise UsageError(f"{path} sets {name} twice; keep one")
        read[name] = (key, value)
    return read


def _depth(text: str) -> int:
    """How deeply brackets or dotted keys nest, at most: the parser would take seconds and gigabytes for thousands."""
    deepest = open_now = 0
    for bracket in re.findall(r"[][{}]", text):
        open_now = max(0, open_now + (1 if bracket in "[{" else -1))
        deepest = max(deepest, open_now)
    return max(deepest, *(line.count(".") for line in text.split("\n")))


def typed(what: str, value: Any, hint: Any) -> Any:
    """Return `value` if its type fits a field's annotation; `what` names it in the `UsageError` otherwise."""
    allowed = set(get_args(hint) or (hint,))
    if get_origin(hint) is dict and isinstance(value, dict):
        return value
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > sys.float_info.max:
            raise UsageError(f"{what} has {len(str(abs(value)))} digits; a number of at most 308 is needed")
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
