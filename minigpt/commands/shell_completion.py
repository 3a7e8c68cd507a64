"""`minigpt completion`: a script by which bash or zsh completes what is typed, made from the declared flags."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping

from minigpt.base.flags import Parser
from minigpt.base.help_text import Introduction

SHELLS = ("bash", "zsh")
_FIRST = ("help", "--help", "--version")


def add_flags(parser: Parser) -> None:
    """Which shell."""
    parser.introduction = Introduction(
        usage="bash | zsh",
        examples=(
            ("bash > ~/.local/share/bash-completion/completions/minigpt", "for bash, from the next terminal on"),
            ('zsh > "${fpath[1]}/_minigpt"', "for zsh, from the next terminal on"),
        ),
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash or zsh")


def script(shell: str, parsers: Mapping[str, Parser]) -> str:
    """The script for a shell; what it does not know is completed as a file."""
    return _bash(parsers) if shell == "bash" else _zsh(parsers)


def _actions(parser: Parser) -> Iterable[tuple[argparse.Action, tuple[str, ...]]]:
    """Flags and arguments, each with the values it may have where they are few."""
    for action in parser._actions:
        choices = action.choices or parser.choices.get(action.dest, ())
        if not action.option_strings and parser.topics:
            choices, parser = parser.topics, Parser(parser.prog, "")  # only the first argument chooses a topic
        yield action, tuple(map(str, choices))


def _bash(parsers: Mapping[str, Parser]) -> str:
    values, words = [], []
    for name, parser in parsers.items():
        flags: list[str] = []
        for action, choices in _actions(parser):
            flags += action.option_strings or choices
            if choices and action.option_strings:
                values.append(f'        "{name} {action.option_strings[-1]}") words="{" ".join(choices)}";;')
        words.append(f'            {name}) words=" {" ".join(flags)}";;')
    return f"""# Completes minigpt in bash; made by `minigpt completion bash`.
_minigpt() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" command="${{COMP_WORDS[1]}}"
    local words=""
    if [[ $COMP_CWORD == 1 || $COMP_CWORD == 2 && $before == help ]]; then
        COMPREPLY=($(compgen -W "{" ".join([*parsers, *_FIRST])}" -- "$word"))
        return
    fi
    case "$command $before" in
{chr(10).join(values)}
        *) case "$command" in
{chr(10).join(words)}
        esac;;
    esac
    [[ $word == -* ]] || words="${{words%% -*}}"
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _minigpt minigpt"""


def _zsh(parsers: Mapping[str, Parser]) -> str:
    summaries = [_quoted(f"{name}:{str(parser.description).partition('.')[0]}") for name, parser in parsers.items()]
    cases = []
    for name, parser in parsers.items():
        lines = [f"        {name}) _arguments -S"]
        for action, choices in _actions(parser):
            takes = f":{action.metavar or action.dest}:" + (f"({' '.join(choices)})" if choices else "_files")
            if action.option_strings:
                meaning = re.sub(r"([\[\]:\\])", r"\\\1", action.help or "").replace("%%", "%")
                value = "" if action.nargs == 0 else takes
                lines += [_quoted(f"*{flag}[{meaning}]{value}") for flag in action.option_strings]
            else:
                lines.append(_quoted(("*" if action.nargs == "*" else "") + takes))
        cases.append(" \\\n            ".join(lines) + ";;")
    return f"""#compdef minigpt
# Completes minigpt in zsh; made by `minigpt completion zsh`.
_minigpt() {{
    local -a commands=({" ".join(summaries)})
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    shift words
    (( CURRENT-- ))
    case $words[1] in
{chr(10).join(cases)}
        help) _describe command commands;;
    esac
}}
compdef _minigpt minigpt"""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
