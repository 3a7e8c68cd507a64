"""Strict JSON and its hashes: no NaN or Infinity, no duplicate keys, no absurd nesting. Nothing here touches a disk."""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any

from minigpt.base.errors import MinigptError

_SURROGATE = re.compile("[\ud800-\udfff]")


def to_json(value: Any, indent: int | None = None) -> str:
    """Serialize to strict JSON; figures that are not finite become null.

    NOTE: a file name that is no UTF-8 reaches Python with lone surrogates, which only an escape can write.
    """
    text = json.dumps(_finite(value), allow_nan=False, ensure_ascii=False, indent=indent)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def json_document(value: Any) -> bytes:
    """The bytes of a JSON file that holds `value`, as `write_json` writes it."""
    return (to_json(value, indent=2) + "\n").encode("utf-8")


def json_hash(value: Any) -> str:
    """SHA-256 of a value as strict JSON."""
    return sha256_bytes(to_json(value).encode("utf-8"))


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def parse_json(text: str, source: str, error: type[MinigptError]) -> Any:
    """Parse strict JSON.

    Raises:
        `error`, naming `source`, for anything else.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as reason:
        detail = "nested too deeply" if isinstance(reason, RecursionError) else str(reason)
        raise error(f"{source} is not valid JSON; {detail}; it was altered or cut short") from reason


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found
