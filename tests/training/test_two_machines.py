"""torchrun over two machines, as near as one machine comes to it: two network namespaces joined by a virtual cable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from child_processes import PROJECT
from conftest import TINY_RUN, Command
from run_files import records

# In a user namespace, where we are root: a machine for each address, with its own loopback and nothing else.
_TWO_MACHINES = """
set -e
mount -t tmpfs none /run
for n in 1 2; do
  ip netns add machine$n
  ip -n machine$n link set lo up
done
ip link add cable1 netns machine1 type veth peer name cable2 netns machine2
for n in 1 2; do
  ip -n machine$n address add 10.9.9.$n/24 dev cable$n
  ip -n machine$n link set cable$n up
done
for n in 1 2; do
  GLOO_SOCKET_IFNAME=cable$n ip netns exec machine$n "$@" --node-rank=$((n - 1)) $COMMAND > machine-$n.txt 2>&1 &
  pids="$pids $!"
done
for pid in $pids; do wait $pid; done
"""
_LAUNCH = "-m torch.distributed.run --nnodes=2 --nproc-per-node=1 --master-addr=10.9.9.1 --master-port=29517"


def _can_part_networks() -> bool:
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    words = ["unshare", "-rmn", "sh", "-c", "mount -t tmpfs none /run && ip netns add a"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not _can_part_networks(), reason="this system makes no network namespaces for users")
def test_two_machines_train_what_one_process_does(minigpt: Command, workplace: Path) -> None:
    """They meet at the first one's address, over the cable; the losses are those of one process, within rounding."""
    assert minigpt(f"train {TINY_RUN} --out alone") == 0
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "COMMAND": f"-m minigpt train {TINY_RUN} --out together"}
    words = ["unshare", "-rmn", "bash", "-c", _TWO_MACHINES, "machines", sys.executable, *_LAUNCH.split()]
    done = subprocess.run(
        words, cwd=workplace, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    said = "".join(path.read_text() for path in sorted(workplace.glob("machine-*.txt")))
    assert done.returncode == 0, done.stderr + said
    for kind in ("train", "eval"):
        alone, together = (records(workplace / name, kind) for name in ("alone", "together"))
        assert [record["loss"] for record in together] == pytest.approx([record["loss"] for record in alone], rel=1e-5)
    assert "2 processes" in said
