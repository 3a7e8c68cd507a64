"""Whole ablations beside whole trainings of nanoGPT: the arithmetic, what is refused, and that both really run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TINY_MODEL, Capture, Command

from minigpt.benchmarks import ablation_speed, ceilings
from minigpt.benchmarks.ablation_speed import measure_ablation
from minigpt.benchmarks.bench_options import NANOGPT, BenchOptions, Peer
from minigpt.report import benchmark_tables
from minigpt.training.config import RunConfig

MODEL = "class GPTConfig: pass\nclass GPT:\n" + "".join(
    f"    def {name}(self): pass\n" for name in ("forward", "generate", "configure_optimizers")
)
TRAIN = "import sys, pathlib\npathlib.Path('seen.txt').write_text(' '.join(sys.argv[1:]))\n"


@pytest.fixture
def nanogpt(workplace: Path) -> Path:
    """A folder that looks like a nanoGPT whose training takes no time."""
    folder = workplace / "nano"
    files = {
        "model.py": MODEL,
        "train.py": TRAIN,
        "config/train_shakespeare_char.py": "",
        "data/shakespeare_char/train.bin": "",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def test_models_per_hour_are_compared_block_by_block(nanogpt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight models in 240 s are 30 s each; nanoGPT's one in 90 s makes it 3×; operations over time over the ceiling."""
    found = iter([240.0, 90.0, 120.0, 240.0])  # the order of the second block is reversed
    monkeypatch.setattr(ablation_speed, "_seconds", lambda *_: next(found))
    config = RunConfig(batch_size=10, block_size=10, steps=3, device="cpu")
    options = replace(BenchOptions(), ablation_blocks=2, ablation_seeds=8)
    peers = [Peer("hf"), Peer(NANOGPT, str(nanogpt))]
    record = measure_ablation(config, {}, peers, options, 1000, 2e4, lambda blocks, label: blocks)
    assert record["models_per_hour"] == 120
    assert record["share_of_ceiling"] == pytest.approx(1000 * 100 * 3 / 30 / 2e4)
    (peer,) = record["peers"]
    assert peer["ratio"]["median"] == pytest.approx((90 / 30 + 120 / 30) / 2)
    assert peer["models_per_hour"] == pytest.approx(3600 / 105)


def test_both_run_as_their_users_run_them(
    minigpt: Command, nanogpt: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours by `minigpt ablate`, nanoGPT by its own script with its own flags; the table has both."""
    monkeypatch.setattr(ceilings, "_LARGE", {"cpu": 32})
    for name in ("_SHORT", "_LONG"):
        monkeypatch.setattr(ceilings, name, 0.0)
    monkeypatch.setattr(ceilings, "READ_BYTES", 1 << 16)
    words = (
        f"bench ablation --peer nano --ablation-blocks 1 --ablation-seeds 2 --corpus text.txt {TINY_MODEL} --steps 2"
    )
    assert minigpt(f"{words} --eval-every 1 --json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["presets"][0]["ablation"]["models"] == 2
    seen = (nanogpt / "seen.txt").read_text().split()
    assert seen[0] == "config/train_shakespeare_char.py"
    assert {"--n_embd=16", "--max_iters=2", "--device=cpu", "--compile=False"} <= set(seen)
    shown = benchmark_tables.markdown(record)
    assert "### Whole ablations" in shown
    assert "models/h" in shown
    assert "| nanoGPT |" in shown


def test_a_nanogpt_without_its_text_is_refused(refused: Command, nanogpt: Path) -> None:
    """Its own preparation makes the text; which file is missing is said before anything is measured."""
    (nanogpt / "data/shakespeare_char/train.bin").unlink()
    words = f"bench ablation --peer nano --corpus text.txt {TINY_MODEL} --steps 2 --data-dir prepared"
    refused(2, words, says=("train.bin", "prepare.py"))
