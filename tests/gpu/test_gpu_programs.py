"""Sampling, ablations, audits and benchmarks on a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import write_small_text
from gpu_runs import DEVICE, RUN, anew, cuda_only, on_gpu, trained_anew
from run_files import summary
from small_models import lively_model, random_ids, small_config

from minigpt.sampling.generate import generate
from minigpt.sampling.token_choice import TokenChoice

pytestmark = on_gpu


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with a run that was trained on the GPU."""
    place = tmp_path_factory.mktemp("run")
    write_small_text(place)
    trained_anew(f"train {RUN} --out run", place)
    return place


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=cuda_only)])
@pytest.mark.parametrize("changes", [{}, {"position": "rope"}, {"norm": "rmsnorm"}, {"attention": "mean"}], ids=str)
@pytest.mark.parametrize("choice", [TokenChoice(temperature=0), TokenChoice(top_k=5, top_p=0.9)], ids=["greedy", "top"])
def test_cached_recorded_and_plain_decoding_agree(changes: dict[str, str], choice: TokenChoice, compiled: bool) -> None:
    """Without cache, with it, and as a recorded graph: one text, past the context too; it is the CPU's."""
    torch.backends.cuda.matmul.allow_tf32 = False
    config = small_config(**changes)
    prompt = random_ids(config, batch=1, time=3)[0]

    def text(device: torch.device, **how: bool) -> list[list[int]]:
        model = lively_model(config).to(device)
        return [token.tolist() for token in generate(model, prompt, choice, max_new_tokens=30, num_samples=2, **how)]

    reference = text(torch.device("cpu"), cached=False)
    assert text(DEVICE, cached=False) == reference
    assert text(DEVICE, compiled=compiled) == reference


@pytest.mark.parametrize("how", ["off", pytest.param("on", marks=cuda_only)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_is_sampled(run: Path, how: str, dtype: str) -> None:
    """From the command line, in both precisions, plain and recorded."""
    words = f"sample run --prompt nu --max-new-tokens 60 --num-samples 2 --device {DEVICE} --dtype {dtype}"
    done = anew(f"{words} --compile {how}", run)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 120


def test_cells_share_the_gpu(run: Path) -> None:
    """Two at a time on one GPU, each in a process that begins anew; the page names the accelerator."""
    grid = f"ablate --activations relu,gelu --seeds 2 --workers 2 {RUN} --out grid --cells-dir cells"
    trained_anew(grid, run)
    cells = sorted(run.glob("cells/*/summary.json"))
    assert len(cells) == 4
    assert {summary(cell.parent)["status"] for cell in cells} == {"finished"}
    if DEVICE.type == "cuda":
        assert torch.cuda.get_device_name(0) in (run / "grid/report.md").read_text()


@pytest.mark.parametrize("how", ["float32 --compile off", "bfloat16 --compile off", "bfloat16 --compile on"])
def test_a_cohort_trains_what_its_cells_do_alone(run: Path, how: str) -> None:
    """Three models of one shape as one: losses and perplexities of the same cells one by one, within rounding."""
    attention = "" if DEVICE.type == "cuda" else "--attention written"
    grid = f"ablate --activations relu --seeds 3 --workers 1 {RUN} --dtype {how} {attention} --out grid"
    found = []
    for size in (1, 3):
        place = run / f"{size}-{how.replace(' ', '')}"
        place.mkdir()
        write_small_text(place)
        trained_anew(f"{grid} --cells-dir cells --cohort {size}", place)
        cells = [path.parent for path in sorted(place.glob("cells/*/summary.json"))]
        assert [summary(cell)["cohort"] for cell in cells] == [size] * 3
        found.append([summary(cell)["val"]["loss"] for cell in cells])
    alone, together = found
    assert together == pytest.approx(alone, rel=3e-2 if "bfloat16" in how else 2e-3)


def test_a_run_is_audited_as_on_the_cpu(run: Path) -> None:
    """Another way to the same neurons: counts of the same weights on both devices."""
    pytest.importorskip("transformers")
    found = []
    for device in ("cpu", str(DEVICE)):
        out = f"audit-{device}"
        trained_anew(f"audit run --text text.txt --tokens 2000 --device {device} --out {out}-a --overwrite", run)
        found.append(json.loads((run / f"{out}-a/audit.json").read_text()))
    for a, b in zip(found[0]["layers"], found[1]["layers"], strict=True):
        assert b["dead_fraction"] == pytest.approx(a["dead_fraction"], abs=0.01)
        assert b["density"] == pytest.approx(a["density"], rel=1e-2)


def test_a_benchmark_fills_its_tables(run: Path) -> None:
    """Products, training, decoding and the instrument, a block of one step each."""
    once = "--blocks 1 --steps-per-block 1"
    small = RUN.replace("--steps 20", "").replace("--eval-every 10 --checkpoint-every 10", "")
    trained_anew(f"bench gemm train decode instrument {once} {small} --out bench", run)
    record = json.loads((run / "bench/bench.json").read_text())
    assert {"gemm", "train", "decode", "instrument"} <= record["presets"][0].keys()
