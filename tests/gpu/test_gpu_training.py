"""Training on a GPU: the same losses as on the CPU within rounding, in every form that a step can take."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Capture, Command
from gpu_runs import DEVICE, OFTEN, RUN, SIZES, anew, cuda_only, on_gpu, trained_anew
from run_files import final_hash, records
from small_models import CONFIG, IDS, small_model

from minigpt.activations import list_activations
from minigpt.text.batches import near
from minigpt.training.optimizers import build_optimizer
from minigpt.training.step import Trainee, take_step

pytestmark = on_gpu

# Relative difference to float32 on the CPU that rounding explains: of TF32 products, and of bfloat16.
ROUNDING = {"float32": 5e-3, "bfloat16": 3e-2}


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in records(run, "train")]


@pytest.fixture(scope="module")
def on_the_cpu(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of the same training on the CPU."""
    from conftest import write_small_text

    place = tmp_path_factory.mktemp("cpu")
    write_small_text(place)
    words = RUN.replace(f"--device {DEVICE}", "--device cpu")
    trained_anew(f"train {words} --dtype float32 --compile off --out run", place)
    return losses(place / "run")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("how", ["off", "on", pytest.param("graphs", marks=cuda_only)])
def test_every_form_trains_as_the_cpu_does(workplace: Path, on_the_cpu: list[float], dtype: str, how: str) -> None:
    """Both precisions, plain, compiled and as CUDA graphs: each step's loss is the CPU's, within rounding."""
    trained_anew(f"train {RUN} --dtype {dtype} --compile {how} --out run", workplace)
    assert losses(workplace / "run") == pytest.approx(on_the_cpu, rel=ROUNDING[dtype])
    assert losses(workplace / "run")[-1] < losses(workplace / "run")[0] - 0.3


@pytest.mark.parametrize(
    "flags",
    [
        "--dropout 0.2",
        "--grad-accumulation 2",
        "--optimizer muon",
        "--position rope --norm rmsnorm --bias false",
        "--norm batchnorm",
        "--l1 1e-4 --compile off",
        "--token-noise 0.1",
        "--activation 0=swiglu,1=prelu",
        "--recycle-every 5 --recycle random:4",
    ],
)
def test_every_option_trains(workplace: Path, flags: str) -> None:
    """The loss falls, and the run is whole."""
    trained_anew(f"train {RUN} {flags} --out run", workplace)
    assert losses(workplace / "run")[-1] < losses(workplace / "run")[0] - 0.1
    trained_anew("verify run", workplace)


@pytest.mark.parametrize("name", [entry.name for entry in list_activations()])
def test_each_activation_steps_as_on_the_cpu(name: str) -> None:
    """The first losses and gradient norms are the CPU's; so is which neurons were silent, but for a few at rounding."""
    found = []
    for device in (torch.device("cpu"), DEVICE):
        config = replace(CONFIG, device=str(device), dtype="float32")
        model = small_model(activation=name).to(device)
        trainee = Trainee(model, model, build_optimizer(model, config), near(IDS, device), config)
        found.append([take_step(trainee, step, watch_neurons=True) for step in range(3)])
    for cpu, gpu in zip(*found, strict=True):
        assert gpu.loss == pytest.approx(cpu.loss, rel=2e-3)
        assert gpu.grad_norm == pytest.approx(cpu.grad_norm, rel=2e-2)
        for a, b in zip(cpu.gradients or [], gpu.gradients or [], strict=True):
            assert (a is None) == (b is None)
            assert a is None or b is None or int((a.fired != b.fired).sum()) <= 2


def test_deterministic_training_repeats_its_bits(workplace: Path) -> None:
    """Twice the same command, and a third time stopped in between and resumed: one hash of the weights."""
    words = f"train {RUN} --deterministic --dropout 0.1"
    for name in ("one", "two"):
        trained_anew(f"{words} --out {name}", workplace)
    assert final_hash(workplace / "one") == final_hash(workplace / "two")
    assert losses(workplace / "one") == losses(workplace / "two")


def test_a_resumed_training_has_the_same_losses(workplace: Path) -> None:
    """From the checkpoint in the middle to the end, with `--deterministic` to the bit."""
    words = f"train {RUN} --deterministic --dropout 0.1"
    trained_anew(f"{words} --out whole", workplace)
    trained_anew(f"{words} --out parts", workplace)
    newest = workplace / "parts/checkpoints/step-00000020"
    (newest / "manifest.json").unlink()
    (workplace / "parts/summary.json").unlink()
    trained_anew("train --resume parts", workplace)
    assert losses(workplace / "parts") == losses(workplace / "whole")
    assert final_hash(workplace / "parts") == final_hash(workplace / "whole")


@cuda_only
def test_a_gpu_that_is_too_small_is_said(minigpt: Command, capsys: Capture) -> None:
    """Exit code 8 and what to do, for a step that does not fit; then the memory is free again."""
    torch.cuda.empty_cache()
    share = 300e6 / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        large = "--corpus text.txt --n-embd 512 --n-head 8 --block-size 256 --batch-size 512 --compile off"
        assert minigpt(f"train {large} --device cuda --steps 5 --out run") == 8
        assert "try --batch-size 256 --grad-accumulation 2" in capsys.readouterr().err
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert minigpt(f"train --corpus text.txt {SIZES} {OFTEN} --device cuda --steps 2 --out other") == 0


@cuda_only
def test_the_text_lies_on_the_gpu_and_the_run_names_it(workplace: Path) -> None:
    """Windows are read without a copy from the host; the record says which GPU it was, and its peak memory."""
    import json

    ids = near(IDS, DEVICE)
    assert isinstance(ids, torch.Tensor)
    assert ids.device.type == "cuda"
    trained_anew(f"train {RUN} --out run", workplace)
    environment = json.loads((workplace / "run/environment.json").read_text())
    assert environment["accelerator"] == torch.cuda.get_device_name(0)
    summary = json.loads((workplace / "run/summary.json").read_text())
    assert 0 < summary["peak_memory_bytes"] < 2**31
    assert math.isfinite(summary["val"]["loss"])


@cuda_only
def test_more_gpus_than_there_are_are_refused(workplace: Path) -> None:
    """One too many on the command line, and more processes than GPUs under torchrun."""
    gpus = torch.cuda.device_count()
    done = anew(f"train {RUN.replace('cuda', f'cuda:{gpus}')} --out run", workplace)
    assert done.returncode == 2
    assert f"sees only: {gpus} cuda, cpu" in done.stderr
    launcher = f"-m torch.distributed.run --standalone --nproc-per-node={gpus + 1} -m minigpt"
    done = anew(f"train {RUN} --out run", workplace, launcher)
    assert "each process needs its own GPU" in done.stderr


def test_one_process_under_torchrun_trains_the_same(workplace: Path) -> None:
    """DDP's launcher with one GPU: the losses of the plain command."""
    words = f"train {RUN} --dtype float32 --compile off --deterministic"
    trained_anew(f"{words} --out plain", workplace)
    trained_anew(
        f"{words} --out launched", workplace, "-m torch.distributed.run --standalone --nproc-per-node=1 -m minigpt"
    )
    assert losses(workplace / "launched") == losses(workplace / "plain")
