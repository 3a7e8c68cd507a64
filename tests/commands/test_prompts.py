"""Prompts reach the model as they were given, from wherever they come; a stop string ends a sample."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from minigpt.base.errors import UsageError
from minigpt.base.flags import Parser
from minigpt.commands.prompts import StopStrings, add_prompt_flags, prompt_of


def asked(*words: str) -> str:
    parser = Parser("minigpt sample", "")
    add_prompt_flags(parser)
    parser.add_argument("--top-k", type=int)
    parser.add_argument("run", nargs="?")
    return prompt_of(parser.parse(list(words)))


@pytest.mark.parametrize("text", ["--my_flag sets", "--my_flag", "-x_y", "a_b", "--top_k=3 of_them", "~/a_b"])
def test_a_prompt_is_not_rewritten(text: str) -> None:
    """`--my_flag` used to reach the model as `--my-flag`."""
    assert asked(f"--prompt={text}") == text
    if " " in text and "=" not in text:
        assert asked("--prompt", text) == text


def test_only_names_of_flags_are_taken_for_flags() -> None:
    """With an underscore too; what comes after a double dash is left alone."""
    parser = Parser("minigpt sample", "")
    parser.add_argument("--top-k", type=int)
    parser.add_argument("run", nargs="?")
    assert parser.parse(["--top_k=3"]).top_k == 3
    assert parser.parse(["--", "--top_k"]).run == "--top_k"
    with pytest.raises(UsageError, match="unknown flag '--top-m'; did you mean '--top-k'"):
        parser.parse(["--top_m", "3"])


@pytest.mark.parametrize("text", ["--top_k", "-x", "--my_flag"])
def test_a_value_with_a_dash_gets_a_hint(text: str) -> None:
    """Which spells out what to write."""
    with pytest.raises(UsageError, match=f"is given as --prompt={text}"):
        asked("--prompt", text)


def test_a_prompt_comes_from_a_file_or_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its last line end and byte-order mark; two prompts at once, or bytes that are no text, are refused."""
    path = tmp_path / "prompt.txt"
    path.write_bytes("\ufefftwo\nlines\r\n".encode())
    assert asked("--prompt-file", str(path)) == "two\nlines"
    for given, text in ((b"from a pipe\n", "from a pipe"), (b"", "")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
        assert asked("--prompt", "-") == text
    with pytest.raises(UsageError, match="got both"):
        asked("--prompt", "a", "--prompt-file", str(path))
    path.write_bytes(b"ab\xff")
    with pytest.raises(UsageError, match="not UTF-8; bad byte at offset 2"):
        asked("--prompt-file", str(path))


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_a_sample_ends_before_the_first_stop_string(size: int) -> None:
    """However its bytes arrive; what only looked like the beginning of one is shown."""
    text = b"ababc, then STOP and more ENDE"
    for strings, expected in ((["abc"], "ab"), (["STOP", "END"], "ababc, then "), (["never"], text.decode())):
        stop = StopStrings(strings)
        shown = b"".join(stop.passed(text[at : at + size]) for at in range(0, len(text), size)) + stop.rest()
        assert shown.decode() == expected
        assert stop.found == (expected != text.decode())


def test_an_empty_stop_string_is_refused() -> None:
    """It would end everything at once."""
    with pytest.raises(UsageError, match="--stop needs a text"):
        StopStrings([""])
