"""What `--help` shows of a command: usage, examples, and the flags that most people need; `--help-all` shows all.

Defaults are those of the preset that the same command line names. Words stay whole: lines break at spaces only.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minigpt.base.invocation import as_typed
from minigpt.base.tables import terminal_width, wrapped

_NARROWEST, _FLAG_COLUMN = 50, 28
_MARGIN = " " * len("usage: ")
_PLAINER = {"positional arguments": "arguments", "options": "flags"}


@dataclass(frozen=True)
class Introduction:
    """What a reader of `--help` sees first.

    examples   arguments of a command line, and what that does
    common     the flags that `--help` shows, in this order; none: all of them
    usage      what follows the command's name, where that is more than its arguments and flags
    """

    examples: tuple[tuple[str, str], ...] = ()
    common: tuple[str, ...] = ()
    usage: str = ""


@dataclass(frozen=True)
class Defaults:
    """The defaults to show beside flags, and the words that say where they come from."""

    values: Mapping[str, Any]
    source: str = ""


def help_text(
    prog: str,
    description: str,
    groups: Sequence[argparse._ArgumentGroup],
    shown: Introduction,
    defaults: Defaults,
    everything: bool,
) -> str:
    """The text of `--help`, or of `--help-all`."""
    width = max(_NARROWEST, terminal_width())
    listed = [(_PLAINER.get(str(group.title), str(group.title)), group._group_actions) for group in groups]
    actions = [action for _, members in listed for action in members]
    flags = {action.option_strings[-1]: action for action in actions if action.option_strings}
    usage = wrapped(f"usage: {prog} {shown.usage or _usage(actions)}", width - len(_MARGIN))
    parts = [usage.replace("\n", f"\n{_MARGIN}"), wrapped(_sentence(description), width)]
    if shown.examples:
        parts.append("\n".join(["examples:", *_examples(prog, shown.examples, width)]))
    if shown.common and not everything:
        arguments = [action for action in actions if not action.option_strings]
        listed = [("arguments", arguments), ("common flags", [flags[name] for name in (*shown.common, "--help")])]
    if defaults.source:
        parts.append(wrapped(defaults.source, width))
    parts += [_section(title, members, defaults.values, width) for title, members in listed if members]
    if shown.common and not everything:
        parts.append(wrapped(f"{prog} --help-all lists all {len(flags)} flags.", width))
    return "\n\n".join(parts) + "\n"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _usage(actions: Iterable[argparse.Action]) -> str:
    required = [_flag(action) for action in actions if action.option_strings and action.required]
    arguments = [_argument(action) for action in actions if not action.option_strings]
    return " ".join([*arguments, *required, "[--flag VALUE …]"])


def _argument(action: argparse.Action) -> str:
    name = f"{action.metavar}"
    return {"?": f"[{name}]", "*": f"[{name} …]"}.get(str(action.nargs), name)


def _flag(action: argparse.Action) -> str:
    """A flag with what it takes, as in `--lr X`."""
    names = ", ".join(action.option_strings)
    if action.nargs == 0:
        return names
    if isinstance(action.metavar, tuple):
        return f"{names} {' '.join(action.metavar)}"
    value = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else "")
    return f"{names} [{value}]" if action.nargs == "?" else f"{names} {value}".rstrip()


def _examples(prog: str, examples: Iterable[tuple[str, str]], width: int) -> list[str]:
    lines = []
    for arguments, purpose in examples:
        lines += [f"  {prog} {arguments}".rstrip(), _indented(purpose, width, "      ")]
    return lines


def _section(title: str, actions: Iterable[argparse.Action], defaults: Mapping[str, Any], width: int) -> str:
    lines = [f"{title}:"]
    for action in actions:
        name = "  " + (_flag(action) if action.option_strings else _argument(action))
        text = _indented(_described(action, defaults), width, " " * _FLAG_COLUMN)
        beside = len(name) <= _FLAG_COLUMN - 2
        lines += [name.ljust(_FLAG_COLUMN) + text.lstrip()] if beside else [name, text]
    return "\n".join(lines)


def _described(action: argparse.Action, defaults: Mapping[str, Any]) -> str:
    text = as_typed((action.help or "").replace("%%", "%"))
    default = defaults.get(action.dest)
    if default in (None, ""):
        return text
    return f"{text} [{str(default).lower() if isinstance(default, bool) else default}]"


def _indented(text: str, width: int, indent: str) -> str:
    return wrapped(indent + text, width, indent)
