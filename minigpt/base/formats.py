"""How numbers, shares and durations are written, and how foreign text is made harmless for a terminal or a page.

What does not exist is a dash, never a zero; a minus is a minus. Everything here is rounded for reading: full precision
belongs to CSV and JSON files.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

MISSING = "–"
_SMALLEST_SHARE = 0.0005  # what one decimal of a percentage can still show
_MEBIBYTE = 1 << 20
# Cc: control; Co, Cs, Zl, Zp: private, surrogates, breaks.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Co", "Cs", "Zl", "Zp"})
# Of the invisible format characters (Cf) those that turn or mark the direction of text, or annotate it. Joiners, soft
# hyphens, number signs and the tags of flags belong to ordinary words and pass.
_REORDERING = frozenset(
    map(chr, [0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x2070), 0xFEFF, 0xFFF9, 0xFFFA, 0xFFFB])
)
_HARMLESS = frozenset("\n\t")

# Numbers


def fixed(value: float | None, digits: int = 4) -> str:
    """A number with `digits` decimals and a true minus."""
    return MISSING if value is None else _true_minus(f"{value:,.{digits}f}")


def signed(value: float | None, digits: int = 4) -> str:
    """A difference, whose sign is always shown."""
    return MISSING if value is None else _true_minus(f"{value:+,.{digits}f}")


def short(value: float | None) -> str:
    """Three significant digits."""
    return MISSING if value is None else _true_minus(f"{value:.3g}")


def whole(value: float | None) -> str:
    """A count with thousands separators."""
    return MISSING if value is None else f"{value:,.0f}"


def count(value: float | None) -> str:
    """A number of things, or the estimate of one."""
    return whole(value) if value is None or float(value).is_integer() else f"{value:,.1f}"


def rate(value: float | None) -> str:
    """A small rate with two significant digits."""
    return MISSING if value is None else f"{value:.1e}".replace("e-0", "e-")


def scaled(value: float | None, unit: str = "") -> str:
    """A large count with a decimal prefix."""
    if value is None:
        return MISSING
    power = next((power for power in (12, 9, 6, 3) if value >= 10**power), 0)
    prefix = {12: "T", 9: "G", 6: "M", 3: "k", 0: ""}[power]
    return f"{value / 10**power:.3g} {prefix}{unit}".rstrip()


def mebibytes(size: float | None) -> str:
    """A size of memory."""
    return MISSING if size is None else f"{size / _MEBIBYTE:,.0f} MiB"


def p_value(p: float | None) -> str:
    """A probability of error with three decimals."""
    if p is None:
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def perplexity(value: float | None, digits: int = 4) -> str:
    """`digits` significant digits, and no exponent as long as a person can read the number."""
    if value is None:
        return MISSING
    readable = 1000 <= value < 1e9
    return f"{value:,.0f}" if readable else f"{value:#.{digits}g}".removesuffix(".")


def perplexity_change(difference: float | None) -> str:
    """What a difference of the loss in nats means for the perplexity, in per cent; beyond all sense it is cut."""
    if difference is None:
        return MISSING
    change = 100 * math.expm1(min(difference, 50.0))
    return f"{signed(change, 1 if abs(change) >= 0.1 else 2)} %"


# Intervals and ranges


def interval(low: float | None, high: float | None, digits: int = 4) -> str:
    """The two ends of an interval of differences."""
    return MISSING if low is None or high is None else f"[{signed(low, digits)}, {signed(high, digits)}]"


def with_half_width(mean: float, low: float | None, high: float | None) -> str:
    """A mean, and half the length of its symmetric interval where there is one."""
    margin = "" if low is None or high is None else f" ± {(high - low) / 2:.4f}"
    return fixed(mean) + margin


def value_range(low: float | None, high: float | None, digits: int = 4) -> str:
    """The lowest and the highest of several values."""
    return MISSING if low is None or high is None else f"{fixed(low, digits)} to {fixed(high, digits)}"


# Shares


def percent(share: float | None) -> str:
    """A share in per cent; one too small to be seen at this precision is not written as nothing."""
    return MISSING if share is None else f"{hundredths(share)} %"


def percents(shares: Sequence[float | None]) -> str:
    """Several shares with one unit: a figure for each layer."""
    return f"{' '.join(map(hundredths, shares))} %" if any(share is not None for share in shares) else MISSING


def hundredths(share: float | None) -> str:
    """A share in per cent without the unit."""
    if share is None:
        return MISSING
    return "<0.1" if 0 < share < _SMALLEST_SHARE else f"{100 * share:.1f}"


def with_deviation(mean: float, deviation: float | None, unit: str) -> str:
    """A mean with its deviation to two digits, and no more digits of the mean than that: `2.2 ± 1.0 %`."""
    if not deviation:
        return f"{_true_minus(f'{mean:.4g}')}{unit}"
    digits = max(0, 1 - math.floor(math.log10(deviation)))
    return f"{fixed(mean, digits)} ± {deviation:.{digits}f}{unit}"


def mean_percent(share: dict[str, float] | None) -> str:
    """The mean of a share over seeds with its standard deviation."""
    if share is None or share["mean"] is None:
        return MISSING
    deviation = share.get("sd")
    return with_deviation(100 * share["mean"], 100 * deviation, " %") if deviation else percent(share["mean"])


def spread_percent(share: dict[str, float] | None) -> str:
    """The mean of a share over seeds, and its extremes where they differ."""
    if share is None or share["mean"] is None:
        return MISSING
    low, high = hundredths(share["min"]), hundredths(share["max"])
    return percent(share["mean"]) + ("" if low == high else f" ({low} to {high})")


# Times


def seconds(value: float | None) -> str:
    """A measured time with three significant digits."""
    return MISSING if value is None else f"{value:.3g} s"


def milliseconds(value: float | None, digits: int = 1) -> str:
    """A time, given in seconds, in milliseconds."""
    return MISSING if value is None else f"{fixed(1000 * value, digits)} ms"


def duration(value: float | None) -> str:
    """A time in seconds as a person says it."""
    if value is None:
        return MISSING
    if value < 60:
        return f"{value:.1f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def elapsed(value: float) -> str:
    """A time in seconds, to the second."""
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s"


# Words


def joined(words: Sequence[str]) -> str:
    """`a`, `a and b`, or `a, b and c`."""
    return " and ".join([*([", ".join(words[:-1])] if len(words) > 1 else []), *words[-1:]])


def counted(number: int, noun: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def ranges(numbers: Sequence[int]) -> str:
    """Ascending whole numbers in words, neighbours joined: `0–2, 5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def setting(value: Any) -> str:
    """The value of a flag as the command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return MISSING if value is None else str(value)


def visible(text: str) -> str:
    """Write characters that could command a terminal or reorder a text as escapes such as `\\x1b`.

    Line ends (a carriage return before a line feed is part of one), tabs and the joiners of words and emoji stay.
    """
    return text if text.isprintable() else "".join(map(_visible_character, text.replace("\r\n", "\n")))


def on_one_line(text: str) -> str:
    """Visible text without line breaks and with single spaces: what fits into a cell or a heading."""
    return " ".join(visible(text).split())


def _visible_character(character: str) -> str:
    unsafe = unicodedata.category(character) in _UNSAFE_CATEGORIES or character in _REORDERING
    if character in _HARMLESS or not unsafe:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def _true_minus(number: str) -> str:
    return number.replace("-", "−")
