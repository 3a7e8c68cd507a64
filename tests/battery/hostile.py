"""Mutations of files: bytes, JSON, lines of JSON, tensors, all drawn from a generator that is handed in."""

from __future__ import annotations

import copy
import json
import random
import struct
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, -0.0, 1e308, 1e-320, "", "x", "\x00",
    "\u202e", "../../etc/passwd", "/dev/zero", "__import__('os').system('true')", "os.system", "torch.nn.ReLU", "1",
    "NaN", "ж" * 50, "x" * 10_000, [], {}, [[]], [None], {"": None}, {"__class__": "os"}, [0] * 1000,
)  # fmt: skip
RAW = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"[" * 10_000, b'{"a":' * 5000, b"\xff", b'"\\ud800"', b"9" * 5000,
    b"{}",
)  # fmt: skip
FILES = (
    b"", b"\x00", b"\x80\x05cos\nsystem\n(S'true'\ntR.", b"PK\x03\x04" + bytes(64), b"\x1f\x8b" + bytes(30),
    bytes(4096), struct.pack("<Q", 1 << 40) + b"{}", struct.pack("<Q", (1 << 64) - 1), struct.pack("<Q", 2) + b"{}",
    b"\xef\xbb\xbf{}",
)  # fmt: skip


def altered_bytes(data: bytes, chance: random.Random) -> bytes:
    """Bits flipped, cut, grown, a part doubled, overwritten or moved; or another file altogether."""
    content = bytearray(data)
    where, length = chance.randrange(len(content) + 1), chance.randrange(1, 64)
    match chance.randrange(7):
        case 0:
            for _ in range(chance.randrange(1, 9)):
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        case 1:
            del content[where:]
        case 2:
            content[where:where] = chance.randbytes(length)
        case 3:
            content[where : where + length] = chance.randbytes(length)
        case 4:
            content[where:where] = content[where : where + length]
        case 5:
            del content[where : where + length]
        case _:
            return chance.choice(FILES)
    return bytes(content)


def altered_json(data: bytes, chance: random.Random) -> bytes:
    """Some value replaced by a hostile one, dropped, or said twice; or JSON that is none, in place of a value."""
    document = json.loads(data)
    if chance.random() < 0.05:
        return json.dumps(chance.choice(VALUES)).encode()
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        _alter(document, chance)
    text = json.dumps(document, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    if chance.random() < 0.2:
        text = text.replace(b"null" if b"null" in text else b"1", chance.choice(RAW), 1)
    return text


def altered_lines(data: bytes, chance: random.Random) -> bytes:
    """One line of JSON altered, doubled, dropped, moved or cut in two."""
    lines = data.splitlines(keepends=True)
    number = chance.randrange(len(lines))
    match chance.randrange(5):
        case 0:
            lines.insert(chance.randrange(len(lines)), lines[number])
        case 1:
            del lines[number]
        case 2:
            lines[number] = lines[number][: len(lines[number]) // 2] + b"\n"
        case _:
            lines[number] = altered_json(lines[number], chance) + b"\n"
    return b"".join(lines)


def altered_tensors(data: bytes, chance: random.Random) -> bytes:
    """A safetensors file with another header, other numbers or other bytes; mostly its length field fits."""
    if chance.random() < 0.25:
        return altered_bytes(data, chance)
    size = struct.unpack("<Q", data[:8])[0]
    header, body = data[8 : 8 + size], data[8 + size :]
    if chance.random() < 0.3:
        numbers = (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f", b"\x01\x00\x00\x00")
        where = chance.randrange(max(1, len(body) // 4)) * 4
        return data[: 8 + size] + body[:where] + chance.choice(numbers) + body[where + 4 :]
    header = altered_json(header, chance)
    stated = len(header) if chance.random() < 0.9 else chance.choice((0, 1, len(header) + 1, 1 << 20, 1 << 62))
    return struct.pack("<Q", stated) + header + body


def _alter(document: Any, chance: random.Random) -> None:
    """Change one place of a document, chosen on a walk from its root."""
    while isinstance(document, dict | list) and document:
        places = list(document) if isinstance(document, dict) else list(range(len(document)))
        place = chance.choice(places)
        inner = document[place]
        if isinstance(inner, dict | list) and inner and chance.random() < 0.8:
            document = inner
            continue
        if isinstance(document, dict) and chance.random() < 0.25:
            document[chance.choice(("", "x", "__class__", f"{place}x", "\x00"))] = document.pop(place)
        elif chance.random() < 0.15:
            del document[place]
        else:
            document[place] = copy.deepcopy(chance.choice(VALUES))
        return
