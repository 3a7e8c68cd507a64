"""Which field of rows holds the text: judged over all fields of many rows, and an error wherever that leaves a doubt.

Nobody notices a training on ids or addresses: the loss falls there too. So one name counts by itself (`text`), a single
field of strings counts if it does not look like identifiers, and anything else must be named with `--text-field`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from minigpt.base.errors import DataError, did_you_mean

DEFAULT_FIELD = "text"
MOST_WITHOUT = 0.01
"""Share of the rows that may lack their text; more are refused."""
_SAMPLE = 200  # strings of a field that are looked at
_MOST_FIELDS = 1000
_MOST_NAMED, _LONGEST_NAME = 10, 60
_IDENTIFIER = re.compile(r"[a-z][a-z0-9+.-]*://\S*|(?=[^\s]*\d)[\w.:/#@-]+|[\w.-]+@[\w.-]+", re.IGNORECASE)


@dataclass
class Column:
    """What the rows have in one field."""

    texts: int = 0
    empty: int = 0
    others: int = 0
    sample: list[str] = field(default_factory=list)

    def add(self, value: Any) -> None:
        """Count the value of one row; null counts as none."""
        if value is None:
            return
        if not isinstance(value, str):
            self.others += 1
        elif not value:
            self.empty += 1
        else:
            self.texts += 1
            if len(self.sample) < _SAMPLE:
                self.sample.append(value)

    @property
    def rows(self) -> int:
        """Rows that have anything here."""
        return self.texts + self.empty + self.others

    def looks_like_identifiers(self) -> bool:
        """Whether most of the strings are addresses, numbered names and the like, rather than text."""
        return 2 * sum(_IDENTIFIER.fullmatch(text) is not None for text in self.sample) > len(self.sample)


@dataclass
class Columns:
    """All fields of the rows of one source."""

    source: str
    rows: int = 0
    fields: dict[str, Column] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row."""
        self.rows += 1
        for name, value in row.items():
            self.fields.setdefault(name, Column()).add(value)
        if len(self.fields) > _MOST_FIELDS:
            raise DataError(f"{self.source} has rows of more than {_MOST_FIELDS:,} different fields; give fewer")

    def choose(self, wanted: str | None) -> str:
        """Return the field that holds the text.

        Raises:
            DataError: there is none, or no telling which; the message names the fields.
        """
        if wanted is not None:
            if wanted in self.fields or not self.rows:
                return wanted
            hint = did_you_mean(wanted, self.fields) or ";"
            raise DataError(f"{self.source} has no field {_name(wanted)}{hint} it has {self._named(self.fields)}")
        candidates = [name for name, column in self.fields.items() if column.texts]
        if DEFAULT_FIELD in candidates or (DEFAULT_FIELD in self.fields and not candidates):
            return DEFAULT_FIELD
        if len(candidates) > 1:
            raise DataError(
                f"{self.source} does not tell its text; it has strings in {self._named(candidates)}; "
                "name one of them with --text-field"
            )
        if not candidates:
            given = self._named(self.fields) or "no field"
            raise DataError(f"{self.source} does not tell its text; it has {given} and no string; give rows with text")
        if self.fields[candidates[0]].looks_like_identifiers():
            name, first = _name(candidates[0]), self.fields[candidates[0]].sample[0]
            raise DataError(
                f"the only strings of {self.source} look like identifiers; field {name} has {first!r:.60}; "
                f"if that is the text, say --text-field {candidates[0]:.{_LONGEST_NAME}}"
            )
        return candidates[0]

    def without(self, chosen: str) -> int:
        """Return how many rows have nothing in the chosen field; an empty string is something.

        Raises:
            DataError: they are too many to go on without a decision.
        """
        column = self.fields.get(chosen, Column())
        missing = self.rows - column.rows
        if column.texts and missing > MOST_WITHOUT * self.rows:
            others = [name for name, other in self.fields.items() if name != chosen and other.texts]
            have = f"strings are also in {self._named(others)}" if others else "they would be left out"
            raise DataError(
                f"{self.source}: {missing:,} of {self.rows:,} rows have no {_name(chosen)}; {have}; "
                f"give rows of one kind (at most {100 * MOST_WITHOUT:g} % may lack it), or another --text-field"
            )
        return missing

    def _named(self, names: Any) -> str:
        listed = [f"{_name(name)} ({self.fields[name].texts:,} of {self.rows:,} rows)" for name in names]
        more = f" and {len(listed) - _MOST_NAMED} more" if len(listed) > _MOST_NAMED else ""
        return ", ".join(listed[:_MOST_NAMED]) + more


def remark(columns: Columns, chosen: str) -> str:
    """Return what should be said of the choice; nothing if all rows have their text in the usual field."""
    missing = columns.without(chosen)
    left_out = f", {missing:,} of them without it" if missing else ""
    if chosen == DEFAULT_FIELD and not missing:
        return ""
    return f"note: {columns.source}: the text is field {_name(chosen)} of {columns.rows:,} rows{left_out}"


def checked_text(row: Mapping[str, Any], chosen: str, source: str) -> Iterator[str]:
    """Yield the text of one row, or nothing where it is empty or null.

    Raises:
        DataError: it is something else than text that UTF-8 can represent.
    """
    text = row.get(chosen)
    if text is None or text == "":
        return
    if not isinstance(text, str):
        kind = type(text).__name__
        raise DataError(f"{source} has no text in field {_name(chosen)}; it is of type {kind}; give a string")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as reason:
        place = f"{source}, character {reason.start}"
        raise DataError(f"{place} is half of a surrogate pair; UTF-8 cannot represent it; repair the text") from reason
    yield text


def _name(name: str) -> str:
    return repr(name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "…")
