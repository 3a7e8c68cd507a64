"""How colours look to people who see no red or no green, and how far apart they are to an eye.

Source: Machado, Oliveira, Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency", 2009:
matrices of severity 1.0, which act on linear RGB. Distances are Euclidean in CIE Lab (D65), as of 1976; about 2.3 is
the least that anybody notices side by side.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Colour = NDArray[np.float64]
EYES: dict[str, Colour] = {
    "usual": np.eye(3),
    "protanopia": np.array([
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998],
    ]),
    "deuteranopia": np.array([
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881],
    ]),
}  # fmt: skip
_TO_XYZ = np.array([
    [0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041],
])  # fmt: skip
_WHITE = _TO_XYZ.sum(axis=1)


def lab(colour: str, eye: str = "usual") -> Colour:
    """Lightness, green to red and blue to yellow of `#rrggbb` as an eye of `EYES` sees it."""
    shown = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    ratios = _TO_XYZ @ (EYES[eye] @ linear).clip(0, 1) / _WHITE
    x, y, z = np.where(ratios > 216 / 24389, np.cbrt(ratios), (24389 / 27 * ratios + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(one: str, other: str, eye: str) -> float:
    """How far apart an eye sees two colours."""
    return float(np.linalg.norm(lab(one, eye) - lab(other, eye)))
