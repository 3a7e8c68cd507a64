"""Numbers as the pages write them: what does not exist is a dash, never a zero, and a minus is a minus.

Rounded for reading. Full precision is the business of the CSV files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "–"
_SMALLEST_SHARE = 0.0005  # what one decimal of a percentage can still show


def fixed(value: float | None, digits: int = 4) -> str:
    """A number with so many digits behind the point, and a true minus."""
    return MISSING if value is None else f"{value:,.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 4) -> str:
    """A difference, whose sign is always shown."""
    return MISSING if value is None else f"{value:+,.{digits}f}".replace("-", "−")


def interval(low: float | None, high: float | None, digits: int = 4) -> str:
    """The two ends of an interval of differences."""
    return MISSING if low is None or high is None else f"[{signed(low, digits)}, {signed(high, digits)}]"


def with_half_width(mean: float, low: float | None, high: float | None, digits: int = 4) -> str:
    """A mean, and half the length of its symmetric interval where there is one."""
    margin = "" if low is None or high is None else f" ± {(high - low) / 2:.{digits}f}"
    return fixed(mean, digits) + margin


def percent(share: float | None) -> str:
    """A share in per cent; one too small to be seen at this precision is not written as nothing."""
    return MISSING if share is None else f"{_hundredths(share)} %"


def percents(shares: Sequence[float | None]) -> str:
    """Several shares with one unit: a figure for each layer."""
    written = " ".join(MISSING if share is None else _hundredths(share) for share in shares)
    return f"{written} %" if any(share is not None for share in shares) else MISSING


def spread_percent(share: dict[str, float] | None) -> str:
    """The mean of a share over seeds, and its extremes where they differ."""
    if share is None or share["mean"] is None:
        return MISSING
    low, high = _hundredths(share["min"]), _hundredths(share["max"])
    return percent(share["mean"]) + ("" if low == high else f" ({low} to {high})")


def p_value(p: float | None) -> str:
    """A probability of error to three digits."""
    if p is None:
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def perplexity_change(difference: float | None) -> str:
    """What a difference of the loss in nats means for the perplexity."""
    if difference is None:
        return MISSING
    change = 100 * math.expm1(min(difference, 50.0))
    return f"{change:+,.{1 if abs(change) >= 0.1 else 2}f} %".replace("-", "−")


def whole(number: float | None) -> str:
    """A count with thousands separators."""
    return MISSING if number is None else f"{number:,.0f}"


def perplexity(value: float | None) -> str:
    """Four significant digits, and no exponent as long as a person can read the number."""
    if value is None:
        return MISSING
    return f"{value:#.4g}" if value < 1000 or value >= 1e9 else whole(value)


def figure(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals, three of them for a loss."""
    return fixed(value, digits)


def count(value: float | None) -> str:
    """A number of things, or the estimate of one."""
    return whole(value) if value is None or float(value).is_integer() else f"{value:,.1f}"


def rate(value: float | None) -> str:
    """A small rate, with two digits."""
    return MISSING if value is None else f"{value:.1e}"


def short(value: float | None) -> str:
    """Three significant digits."""
    return MISSING if value is None else f"{value:.3g}".replace("-", "−")


def scaled(number: float | None, unit: str = "") -> str:
    """A large count with a decimal prefix."""
    if number is None:
        return MISSING
    power = next((power for power in (12, 9, 6, 3) if number >= 10**power), 0)
    prefix = {12: "T", 9: "G", 6: "M", 3: "k", 0: ""}[power]
    return f"{number / 10**power:.3g} {prefix}{unit}".rstrip()


def duration(seconds: float | None) -> str:
    """A time as a person says it."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def joined(words: Sequence[str]) -> str:
    """`a`, `a and b`, or `a, b and c`."""
    return " and ".join([*([", ".join(words[:-1])] if len(words) > 1 else []), *words[-1:]])


def counted(number: int, noun: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def setting(value: object) -> str:
    """The value of a flag as the command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return MISSING if value is None else str(value)


def _hundredths(share: float) -> str:
    return "<0.1" if 0 < share < _SMALLEST_SHARE else f"{100 * share:.1f}"
