"""A run whose files were moved to another disk and linked: it is read as before, or the link is named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import Capture, Command

pytestmark = [
    pytest.mark.usefixtures("haste"),
    pytest.mark.skipif(os.name == "nt", reason="links need a privilege there"),
]
LAST = "checkpoints/step-00000012"
PLACES = (
    "", "config.json", "metrics.jsonl", "tokenizer.json", "environment.json", "summary.json", "checkpoints", LAST,
    f"{LAST}/manifest.json", f"{LAST}/model.safetensors", f"{LAST}/optimizer.safetensors",
)  # fmt: skip


@pytest.mark.parametrize("moved", PLACES)
def test_a_link_never_makes_older_weights_do(minigpt: Command, place: Path, capsys: Capture, moved: str) -> None:
    """A linked checkpoint used to be passed over for the one before it."""
    original = place / "runs/first" / moved
    (place / "disk").mkdir()
    shutil.move(original, place / "disk/moved")
    original.symlink_to(place / "disk/moved")
    for command in ("verify runs/first", "evaluate runs/first --json"):
        capsys.readouterr()
        code = minigpt(command)
        output, error = capsys.readouterr()
        assert code == 0 or "link" in output + error, f"{command}: {output}{error}"
        assert code or "--json" not in command or json.loads(output)["step"] == 12
