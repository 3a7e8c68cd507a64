"""Training end to end: the same bits whatever is watched, stopped or resumed; and what a run leaves on disk."""

from __future__ import annotations

import json
import math
import signal
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY_RUN, Command
from run_files import comparable, final_hash, openings, records, stop_at, summary

from minigpt.text.store import TokenStore
from minigpt.training import checkpoints, loop, runtime


def test_a_run_leaves_what_the_design_promises(tiny_run: Path) -> None:
    """Configuration, environment, tokenizer, log, checkpoints and summary, all strict JSON or safetensors."""
    assert {path.name for path in tiny_run.iterdir() if not path.name.startswith(".lock")} == {
        "config.json",
        "environment.json",
        "tokenizer.json",
        "metrics.jsonl",
        "checkpoints",
        "summary.json",
        "report.html",
    }
    train = records(tiny_run, "train")
    assert [record["step"] for record in train] == list(range(1, 13))
    assert set(train[0]) == {
        "kind", "step", "loss", "lr", "grad_norm", "tokens", "tokens_per_second", "silent", "trapped",
    }  # fmt: skip
    evaluations = records(tiny_run, "eval")
    assert [record["step"] for record in evaluations] == [0, 4, 8, 12]
    assert set(evaluations[0]) == {
        "kind", "step", "split", "loss", "perplexity", "bits_per_byte", "tokens", "dead_fraction", "layers",
    }  # fmt: skip
    final = summary(tiny_run)
    assert final["val"] == evaluations[-1]
    assert (final["status"], final["steps"]) == ("finished", 12)
    assert final["val"]["loss"] < evaluations[0]["loss"]
    assert checkpoints.committed_steps(tiny_run)[-2:] == [8, 12]


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("check_number", [1, 2, 3, 9, 14, 25, 33])
def test_stopped_and_resumed_ends_in_the_same_bits(
    minigpt: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, check_number: int, signal_number: int
) -> None:
    """Wherever a signal falls (step, micro-batch, evaluation), the run continues as if it had not been stopped."""
    flags = f"train {TINY_RUN} --dropout 0.1 --grad-accumulation 2"
    assert minigpt(f"{flags} --out whole") == 0
    with monkeypatch.context() as patch:
        stop_at(patch, check_number, signal_number)
        assert minigpt(f"{flags} --out cut") == 128 + signal_number
    assert summary(workplace / "cut")["status"] == "stopped"
    assert minigpt("train --resume cut") == 0
    assert final_hash(workplace / "cut") == final_hash(workplace / "whole")
    assert comparable(workplace / "cut") == comparable(workplace / "whole")


@pytest.mark.parametrize("optimizer", ["adamw", "momentum", "lion", "muon"])
def test_resume_restores_every_optimizer(minigpt: Command, workplace: Path, optimizer: str) -> None:
    """Deleting the last checkpoint and resuming from the one before repeats the lost steps exactly."""
    assert minigpt(f"train {TINY_RUN} --optimizer {optimizer} --lr 1e-3 --out run") == 0
    run = workplace / "run"
    expected, log = final_hash(run), comparable(run)
    (run / "summary.json").unlink()
    (checkpoints.directory_of(run, 12) / "manifest.json").unlink()
    assert minigpt("train --resume run") == 0
    assert (final_hash(run), comparable(run)) == (expected, log)


def test_a_seed_fixes_every_bit(minigpt: Command, workplace: Path) -> None:
    """Two runs of one seed agree; another seed differs."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert minigpt(f"train {TINY_RUN} --seed {seed} --out {name}") == 0
    assert final_hash(workplace / "a") == final_hash(workplace / "b") != final_hash(workplace / "c")


@pytest.mark.parametrize(
    "watching",
    ["--eval-every 0", "--eval-every 1", "--eval-tokens 64", "--log-every 0", "--checkpoint-every 0"],
)
def test_watching_changes_nothing(minigpt: Command, tiny_run: Path, watching: str) -> None:
    """Evaluation under the probe, logging and checkpoints leave the trained bits alone, with dropout as well."""
    assert minigpt(f"train {TINY_RUN} --dropout 0.2 --out reference") == 0
    assert minigpt(f"train {TINY_RUN} --dropout 0.2 --out other {watching}") == 0
    assert final_hash(Path("reference")) == final_hash(Path("other"))


def test_training_ignores_the_state_of_global_generators(
    minigpt: Command, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else draws random numbers between two steps, the steps are the same."""
    original = loop.take_step

    def disturbed(*arguments, **options):  # type: ignore[no-untyped-def]
        torch.rand(7)
        torch.manual_seed(99)
        return original(*arguments, **options)

    monkeypatch.setattr(loop, "take_step", disturbed)
    assert minigpt(f"train {TINY_RUN} --out disturbed") == 0
    assert final_hash(Path("disturbed")) == final_hash(tiny_run)


def test_resuming_a_finished_run_does_nothing(
    minigpt: Command, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so and leaves the summary as it is."""
    before = (tiny_run / "summary.json").read_bytes()
    assert minigpt("train --resume run") == 0
    assert "is finished" in capsys.readouterr().out
    assert (tiny_run / "summary.json").read_bytes() == before


def test_resume_with_nothing_there_starts_at_the_beginning(
    minigpt: Command, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loop that always passes --resume also works the first time."""
    assert minigpt(f"train {TINY_RUN} --out fresh --resume") == 0
    assert "nothing to resume" in capsys.readouterr().err
    assert final_hash(Path("fresh")) == final_hash(tiny_run)


def test_divergence_stops_before_the_update(
    minigpt: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A poisoned weight at step 6: exit 6, the step and the layer are named, the checkpoint of step 4 is good."""
    original = loop.take_step

    def poisoned(trainee, step, *arguments, **options):  # type: ignore[no-untyped-def]
        if step == 5:
            with torch.no_grad():
                trainee.model.blocks[1].mlp.w_in.weight[0, 0] = math.nan
        return original(trainee, step, *arguments, **options)

    monkeypatch.setattr(loop, "take_step", poisoned)
    assert minigpt(f"train {TINY_RUN} --out run") == 6
    error = capsys.readouterr().err
    assert "step 6" in error
    assert "blocks.1.mlp.w_in.weight" in error
    assert summary(workplace / "run")["status"] == "diverged"
    assert checkpoints.committed_steps(workplace / "run")[-1] == 4
    assert minigpt("verify run") == 0


def test_an_absurd_rate_diverges_with_exit_code_6(minigpt: Command, workplace: Path) -> None:
    """No exception leaks when training really blows up."""
    flags = "--optimizer sgd --lr 1e30 --grad-clip 0 --schedule constant --warmup-steps 0 --norm none"
    assert minigpt(f"train {TINY_RUN} {flags} --out run") == 6
    assert minigpt("verify run") == 0


def test_patience_stops_when_validation_is_flat(minigpt: Command, workplace: Path) -> None:
    """With a huge --min-delta nothing counts as better, so the run ends after `patience` evaluations."""
    assert minigpt(f"train {TINY_RUN} --steps 100 --eval-every 5 --patience 3 --min-delta 50 --out run") == 0
    assert summary(workplace / "run")["steps"] == 15
    assert summary(workplace / "run")["status"] == "finished"


def test_the_best_checkpoint_is_kept(minigpt: Command, workplace: Path) -> None:
    """Pruning spares the newest two and the one with the lowest validation loss."""
    flags = f"{TINY_RUN} --eval-every 1 --checkpoint-every 1 --optimizer sgd --schedule constant --warmup-steps 0"
    assert minigpt(f"train {flags} --lr 1e-9 --steps 8 --min-delta 1 --out run") == 0
    assert summary(workplace / "run")["best"]["step"] == 0
    assert checkpoints.committed_steps(workplace / "run") == [0, 7, 8]
    assert minigpt("evaluate run --checkpoint best") == 0


def test_the_test_part_is_opened_on_purpose_and_recorded(minigpt: Command, tiny_run: Path) -> None:
    """Each opening is an event of the log, and one after the last checkpoint survives a resume."""
    assert minigpt("evaluate run --split test") == 0
    assert minigpt("evaluate run --split test") == 0
    assert openings(tiny_run) == 2
    (tiny_run / "summary.json").unlink()
    (checkpoints.directory_of(tiny_run, 12) / "manifest.json").unlink()
    assert minigpt("train --resume run") == 0
    assert openings(tiny_run) == 2


def test_training_never_reads_the_test_part(minigpt: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is asked for train and val alone."""
    opened = set()
    original = TokenStore.tokens
    monkeypatch.setattr(TokenStore, "tokens", lambda store, split: opened.add(split) or original(store, split))
    assert minigpt(f"train {TINY_RUN} --out run") == 0
    assert opened == {"train", "val"}


def test_the_stored_configuration_repeats_the_run(minigpt: Command, tiny_run: Path) -> None:
    """config.json has no `auto` left, and trains to the same bits when given as flags."""
    config = json.loads((tiny_run / "config.json").read_text())
    assert "auto" not in config.values()
    flags = [f"--{name}={value}" for name, value in config.items() if value is not None]
    assert minigpt("train --out again", *flags) == 0
    assert final_hash(Path("again")) == final_hash(tiny_run)


def test_bfloat16_where_it_is_emulated_works_and_says_so(
    minigpt: Command, workplace: Path, haste: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for, it is used although the processor lacks it; not asked for, it is never chosen there."""
    monkeypatch.setattr(runtime, "fastest_dtype", lambda device: "float32")
    for dtype, mentioned in (("bfloat16", True), ("auto", False)):
        assert minigpt(f"train {TINY_RUN} --dtype {dtype} --out {dtype}") == 0
        assert ("emulates it, which is slow" in capsys.readouterr().err) is mentioned
    assert json.loads(Path("auto/config.json").read_text())["dtype"] == "float32"


def test_l1_on_hidden_values_makes_them_smaller(minigpt: Command, workplace: Path) -> None:
    """The penalty acts: fewer neurons fire."""
    for name, weight in (("free", 0), ("lean", 30)):
        assert minigpt(f"train {TINY_RUN} --steps 40 --l1 {weight} --out {name}") == 0
    density = {name: summary(Path(name))["val"]["layers"][1]["density"] for name in ("free", "lean")}
    assert density["lean"] < 0.8 * density["free"]


def test_validation_loss_stays_above_the_exact_entropy(
    minigpt: Command, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the grammar the true entropy is known; going below it would prove a leak from val to train."""
    flags = TINY_RUN.replace("--corpus text.txt", "--corpus grammar:5").replace("--n-embd 16", "--n-embd 32")
    assert minigpt(f"train {flags} --steps 150 --eval-every 50 --eval-tokens 20000 --batch-size 16 --out run") == 0
    above = float(capsys.readouterr().out.split("the model is ")[1].split(" above")[0])
    assert 0 < above < 1.6


def test_tensorboard_gets_the_same_figures(minigpt: Command, workplace: Path) -> None:
    """Scalars of every evaluation and a histogram of firing rates for every layer."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert minigpt(f"train {TINY_RUN} --tensorboard --out run") == 0
    events = EventAccumulator(str(workplace / "run" / "tensorboard"))
    events.Reload()
    logged = [(record["step"], pytest.approx(record["loss"])) for record in records(workplace / "run", "eval")]
    assert [(event.step, event.value) for event in events.Scalars("val/loss")] == logged
    assert events.Tags()["histograms"] == ["firing_rate/layer_0", "firing_rate/layer_1"]


def test_tensorboard_missing_is_said_before_anything_is_written(
    minigpt: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, and how to install it."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert minigpt(f"train {TINY_RUN} --tensorboard --out run") == 2
    assert "tensorboard]" in capsys.readouterr().err
    assert [path.name for path in workplace.iterdir()] == ["text.txt"]


def test_a_cuda_build_without_a_gpu_is_pointed_out(
    minigpt: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Most often a driver is too old; the run goes on, on the CPU."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert minigpt(f"train {TINY_RUN} --out run") == 0
    assert "finds no usable GPU" in capsys.readouterr().out
