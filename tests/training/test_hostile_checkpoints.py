"""Checkpoints written to hurt whoever reads them, under hashes that fit."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import pytest
from battery.fuzz_checkpoints import restamped
from battery.grounds import SmallState

from minigpt.base.errors import CheckpointError


def test_a_hundred_thousand_tensors_are_refused_quickly(tmp_path: Path) -> None:
    """A header of 7 MB: one error, in less than a second of processor time, and no list of all of them."""
    state = SmallState()
    directory = state.save(tmp_path, 1)
    entries = {f"t{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(100_000)}
    header = json.dumps(entries).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    (directory / "manifest.json").write_bytes(restamped(files))
    begun = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        state.load(directory)
    assert time.process_time() - begun < 1
    assert len(str(caught.value)) < 10_000
