"""A run whose files were moved to another disk and linked: it is read as before, or the link is named."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from conftest import Capture, Command
from run_files import final_hash

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
    run = place / "runs/first"
    before = final_hash(run)
    original = run / moved
    (place / "disk").mkdir()
    shutil.move(original, place / "disk/moved")
    original.symlink_to(place / "disk/moved")
    capsys.readouterr()
    for command in ("verify runs/first", "evaluate runs/first", "train --resume runs/first --steps 13"):
        code = minigpt(command)
        said = "".join(capsys.readouterr())
        assert "step 8" not in said.replace("checkpoint of step 8: ok", ""), command
        assert "Traceback" not in said
        assert code == 0 or "link" in said, f"{command}: {said}"
    assert final_hash(run) != before or code
