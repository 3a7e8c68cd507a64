"""Entry point: `python -m tests.battery`, from the root of the project."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "support")]  # as pyproject.toml tells pytest

from battery.command import main  # noqa: E402

sys.exit(main())
