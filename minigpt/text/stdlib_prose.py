"""The default corpus: English prose from the Python that runs minigpt, so that nothing has to be downloaded.

It joins the language reference (`pydoc_data.topics`) with the docstrings and comments of the standard library, and
keeps the paragraphs that read like prose. The text is read from the user's own installation and never redistributed:
it is under the PSF licence and the notices of each file. It differs between Python versions.
"""

from __future__ import annotations

import re
import sysconfig
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

VERSION = 1  # raise it when the filter changes: tokens are then prepared again

_MIN_CHARACTERS = 80
_MIN_WORD_SHARE = 0.8
_WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")
_AROUND_WORD = "\"'`“”‘’()[]{}<>*_.,;:!?"
_CLOSING = re.compile(r"[.!?:][\"'`’”)\]]*$")
_NOT_PROSE = (">>>", "::=")
_DOCSTRING_PREFIXES = {"", "r", "R", "u", "U"}

# Strings must be told from comments, for each may hold the other. One scan by this pattern takes 0.2 s where `ast` and
# `tokenize` take 7 s. The possessive quantifiers (`*+`) keep a stray quote from costing more than its line.
_STRING_OR_COMMENT = re.compile(
    r"""
    (?P<comment> \# [^\n]* )
    | \"{3} (?P<double> [^"\\]*+ (?: (?: \\. | "(?!"") ) [^"\\]*+ )*+ ) \"{3}
    | '{3} (?P<single> [^'\\]*+ (?: (?: \\. | '(?!'') ) [^'\\]*+ )*+ ) '{3}
    | " [^"\\\n]*+ (?: \\. [^"\\\n]*+ )*+ "
    | ' [^'\\\n]*+ (?: \\. [^'\\\n]*+ )*+ '
    """,
    re.DOTALL | re.VERBOSE,
)
_TEST_FOLDERS = {"test", "tests", "idle_test"}
_FOREIGN_FOLDERS = {"site-packages", "dist-packages", "__pycache__"}
_FEWEST_MODULES = 100  # CPython 3.11 has 168 at the top of its library


def library() -> Path:
    """Return the folder of the standard library's sources."""
    return Path(sysconfig.get_path("stdlib"))


def is_available() -> bool:
    """Return whether the sources are there; frozen and embeddable builds of Python ship none."""
    return sum(1 for _ in library().glob("*.py")) >= _FEWEST_MODULES


@cache
def paragraphs() -> tuple[str, ...]:
    """Return every distinct paragraph of prose, each on one line, in an order that never varies."""
    distinct = dict.fromkeys(_squeeze(paragraph) for block in _blocks() for paragraph in re.split(r"\n\s*\n", block))
    return tuple(paragraph for paragraph in distinct if _is_prose(paragraph))


def _blocks() -> Iterator[str]:
    yield from _topics()
    for path in modules():
        yield from _docstrings_and_comments(source(path))


def _topics() -> Iterator[str]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]


def modules() -> list[Path]:
    """Return the modules of the library without its test suites, in an order that never varies."""
    root = library()
    unwanted = _TEST_FOLDERS | _FOREIGN_FOLDERS
    found = {path.relative_to(root).parts: path for path in root.rglob("*.py")}
    return [found[parts] for parts in sorted(found) if not unwanted.intersection(parts)]


def source(path: Path) -> str:
    """Return the text of a module, decoded as it declares; an empty one if it cannot be read."""
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ""


def _docstrings_and_comments(source: str) -> Iterator[str]:
    """Yield the text of each triple-quoted string that starts a line, and of each run of whole-line comments."""
    comments: list[str] = []
    end_of_comment = -1
    for token in _STRING_OR_COMMENT.finditer(source):
        line = source.rfind("\n", 0, token.start()) + 1
        before = source[line : token.start()].strip()
        if comment := token["comment"]:
            if before:
                continue
            if line != end_of_comment + 1:
                yield "\n".join(comments)
                comments = []
            comments.append(comment.lstrip("#!:").strip())
            end_of_comment = token.end()
        elif before in _DOCSTRING_PREFIXES:
            yield token["double"] or token["single"] or ""
    yield "\n".join(comments)


def _squeeze(paragraph: str) -> str:
    return " ".join(paragraph.split())


def _is_prose(paragraph: str) -> bool:
    if len(paragraph) < _MIN_CHARACTERS or any(mark in paragraph for mark in _NOT_PROSE):
        return False
    if not _CLOSING.search(paragraph):
        return False
    words = paragraph.split()
    plain = sum(1 for word in words if _WORD.fullmatch(word.strip(_AROUND_WORD)))
    return plain >= _MIN_WORD_SHARE * len(words)
