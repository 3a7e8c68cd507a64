"""Every single bit of a checkpoint of 4 KB, flipped: each flip is noticed."""

from __future__ import annotations

import os
import random
from pathlib import Path

from battery.grounds import SmallState, workplace
from battery.tallies import Figure, Tally
from minigpt.base.errors import CheckpointError
from minigpt.training import checkpoints

SIZE = 4096


def run(count: int, seed: int, place: Path) -> list[Figure]:
    """Flip all bits one by one, or `count` of them drawn at random."""
    tally = Tally("bit_flips", f"a flipped bit in a checkpoint of {SIZE:,} bytes", seed)
    with workplace(place):
        directory = _checkpoint_of_the_size(place)
        bits = [
            (path, offset, bit)
            for path in sorted(directory.iterdir())
            for offset in range(path.stat().st_size)
            for bit in range(8)
        ]
        checkpoints.read(directory)
        for path, offset, bit in bits if len(bits) <= count else random.Random(seed).sample(bits, count):
            fault = _fault(path, offset, bit)
            tally.judge(not fault, f"bit {bit} of byte {offset} of {path.name}: {fault}")
        checkpoints.read(directory)
    tally.note = f"of {len(bits):,}"
    return [tally.figure()]


def _checkpoint_of_the_size(place: Path) -> Path:
    """A checkpoint whose files have 4,096 bytes in all; words in its manifest fill what the tensors leave."""
    state = SmallState()
    plain = _size(state.save(place / "plain", 1, filling=""))
    directory = state.save(place / "full", 1, filling="x" * (SIZE - plain))
    assert _size(directory) == SIZE
    return directory


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def _fault(path: Path, offset: int, bit: int) -> str:
    with path.open("r+b", buffering=0) as file:
        before = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([before[0] ^ 1 << bit]), offset)
        try:
            checkpoints.read(path.parent)
        except CheckpointError:
            return ""
        except Exception as error:
            return f"not an error of ours: {error!r}"
        finally:
            os.pwrite(file.fileno(), before, offset)
    return "not noticed"
