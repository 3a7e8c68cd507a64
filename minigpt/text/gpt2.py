"""Where GPT-2's vocabulary comes from: tiktoken's cache or its download, with a quick refusal where neither can be had.

tiktoken downloads without a time limit, so the host is tried briefly first. Nothing here encodes text.

Source: https://github.com/openai/tiktoken, `load.py` (how the cache is found) and `openai_public.py` (the two files).
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import urllib.request
from pathlib import Path

from minigpt.base.errors import DataError
from minigpt.base.storage import sha256_file

GPT2_RANKS = 50256
"""Tokens that represent bytes; the id after the last of them is the end of a text."""

# NOTE: the first release ends in `\s+(?!\S)|\s+`, on which tiktoken panics at a million blanks in a row. The bound
# changes only where stretches of a thousand and more are cut. Source: Radford et al. 2019, released `encoder.py`.
GPT2_SPLIT_PATTERN = (
    r"'(?:s|t|re|ve|m|ll|d)"  # English contractions
    r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"  # letters, digits, other signs, each with the space before them
    r"|\s{1,999}(?!\S)|\s"  # white space, except the last one before a word
)

_HOST = "openaipublic.blob.core.windows.net"
_PROBE_SECONDS = 3.0
_CACHED_SHA256 = {
    "6d1cbeee0f20b3d9449abfede4726ed8212e3aee": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}
_ADVICE = (
    "on a machine with network run "
    "TIKTOKEN_CACHE_DIR=DIR python -c \"import tiktoken; tiktoken.get_encoding('gpt2')\", "
    "copy DIR here and set TIKTOKEN_CACHE_DIR to it; --tokenizer bpe:N and byte need no network"
)


def gpt2_ranks() -> list[bytes]:
    """Return GPT-2's tokens in id order, without the end-of-text token.

    Raises:
        DataError: they are not in the cache and cannot be downloaded; said within seconds.
    """
    if not _is_cached() and not _is_host_reachable():
        raise DataError(f"the gpt2 vocabulary is not here; {_cache_state()}, and {_HOST} does not answer; {_ADVICE}")
    import tiktoken

    try:
        encoding = tiktoken.get_encoding("gpt2")
    except (OSError, ValueError) as reason:  # what requests raises is an OSError
        detail = " ".join(str(reason).split())
        raise DataError(f"the gpt2 vocabulary cannot be loaded; {detail}; {_ADVICE}") from reason
    return [encoding.decode_single_token_bytes(number) for number in range(GPT2_RANKS)]


def _cache_directory() -> Path | None:
    """Return the folder that tiktoken reads; None where an empty variable turns its cache off."""
    default = str(Path(tempfile.gettempdir()) / "data-gym-cache")
    chosen = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR", default))
    return Path(chosen) if chosen else None


def _is_cached() -> bool:
    directory = _cache_directory()
    return directory is not None and all(
        (directory / name).is_file() and sha256_file((directory / name).resolve(), DataError) == expected
        for name, expected in _CACHED_SHA256.items()
    )


def _cache_state() -> str:
    directory = _cache_directory()
    if directory is None:
        return "the cache is switched off (TIKTOKEN_CACHE_DIR or DATA_GYM_CACHE_DIR is empty)"
    return f"{directory} does not hold intact copies of {' and '.join(_CACHED_SHA256)}"


def _is_host_reachable() -> bool:
    """Say whether a download is worth trying; behind a proxy only trying tells.

    NOTE: the probe runs in a thread because looking a name up knows no time limit.
    """
    if urllib.request.getproxies().keys() & {"https", "all"}:
        return True
    reached = threading.Event()
    probe = threading.Thread(target=_connect, args=(reached,), daemon=True)
    probe.start()
    probe.join(_PROBE_SECONDS)
    return reached.is_set()


def _connect(reached: threading.Event) -> None:
    try:
        with socket.create_connection((_HOST, 443), timeout=_PROBE_SECONDS):
            reached.set()
    except OSError:
        return
