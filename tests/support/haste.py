"""What may be spared in a process to which nothing happens: flushes, samples and pages would take most of its time."""

from __future__ import annotations

import os

import pytest

from minigpt.commands import run_ablation, run_claims, train_model


def spare_time(patch: pytest.MonkeyPatch) -> None:
    """Flush nothing to the device and show nothing of a finished run."""
    patch.setattr(train_model, "_show_result", lambda *shown: None)
    for module in (run_ablation, run_claims):
        patch.setattr(module, "write_cell_pages", lambda *cells: None)
    patch.setattr(os, "fsync", lambda descriptor: None)
