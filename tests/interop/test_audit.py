"""The audit of a model: exact counts, the same after a kill, on every kind of model, and clear answers."""

from __future__ import annotations

import csv
import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from tiny_architectures import tiny

from minigpt.base.errors import CheckpointError, DivergedError, StopRequestedError, UsageError
from minigpt.interop import audit as audit_module
from minigpt.interop import count_sites, open_model
from minigpt.interop.audit import AuditOptions, audit, write
from minigpt.interop.audit_answer import published
from minigpt.interop.audit_text import AuditText
from minigpt.interop.export_hf import export_hf
from minigpt.training.inference import open_run

pytestmark = pytest.mark.filterwarnings("ignore")

RAW = AuditOptions(texts=("ids.bin",), context=16, tokens=400, batch_tokens=64, device="cpu")
SHARED = (
    "dead_fraction", "dead_upper", "never_positive_fraction", "density", "rare_fraction", "always_fraction", "chao1",
    "verdicts", "firing_rate_histogram", "certified_dead_fraction", "tokens", "neurons", "activation",
)  # fmt: skip
BY_SEQUENCE = ("sequences", "dead_upper_sequences", "never_versus_tokens")
SLOPES = ("saturated_fraction", "linear_fraction", "saturated_and_linear_fraction")


@pytest.fixture
def ids(workplace: Path) -> np.ndarray:
    """Raw ids of a vocabulary of 99, in a file as nanoGPT writes it."""
    made = np.random.default_rng(0).integers(3, 99, size=500).astype("<u2")
    (workplace / "ids.bin").write_bytes(made.tobytes())
    return made


def saved(model_type: str, **changes: Any) -> str:
    tiny(model_type, **changes).save_pretrained(model_type)  # type: ignore[operator]
    return model_type


def test_an_exported_run_counts_as_the_run(minigpt: Command, tiny_run: Path) -> None:
    """Two instruments, two frameworks, one text: every count is equal, and so is the audit of the run itself."""
    assert minigpt("neurons run --threads 1") == 0
    run = open_run(tiny_run, device="cpu")
    export_hf(run.model, run.tokenizer, Path("exported"))
    options = AuditOptions(texts=("text.txt",), split="val", context=16, device="cpu", slopes=True)
    ours = json.loads((tiny_run / "neurons.json").read_text())["layers"]
    for place in ("exported", "run"):
        theirs = audit(place, options, Path("out")).record["layers"]
        assert len(theirs) == len(ours)
        for mine, other in zip(ours, theirs, strict=True):
            shared = (*SHARED, *BY_SEQUENCE, *SLOPES)
            assert {key: other[key] for key in shared} == {key: mine[key] for key in shared}
            assert mine.keys() - other.keys() == set()


def test_the_whole_text_of_a_foreign_model_is_counted(tiny_run: Path) -> None:
    """No part of a text is held back for a model that was not trained on it; a run is looked at on its val."""
    run = open_run(tiny_run, device="cpu")
    export_hf(run.model, run.tokenizer, Path("exported"))
    found = audit("exported", AuditOptions(texts=("text.txt",), context=16, device="cpu"), Path("out")).record
    known = len(run.tokenizer.encode(Path("text.txt").read_text()))
    assert found["split"] == "all"
    assert known - 17 <= found["tokens"] <= known
    assert audit("run", AuditOptions(context=16, device="cpu"), Path("out")).record["split"] == "val"


@pytest.mark.parametrize("model_type", ["opt", "llama", "gpt2", "qwen3_moe"])
def test_counts_are_those_of_a_plain_loop(model_type: str, ids: np.ndarray) -> None:
    """h is caught by hooks written here, window by window, and compared neuron by neuron."""
    place = saved(model_type)
    found = audit(place, RAW, Path("out"))
    rows = list(csv.DictReader(found.table.splitlines()))
    if model_type == "qwen3_moe":  # each expert sees its own tokens, and all see each token twice
        layers = found.record["layers"]
        assert found.record["tokens"] == 400
        assert sum(layer["tokens"] for layer in layers if layer["block"] == 0) == 2 * 400
        return
    model = tiny(model_type)
    downs = [module for name, module in model.named_modules() if name.split(".")[-1] in ("fc2", "down_proj")]
    downs = downs or [module for name, module in model.named_modules() if name.endswith("mlp.c_proj")]
    seen: dict[int, list[torch.Tensor]] = {number: [] for number in range(len(downs))}
    for number, down in enumerate(downs):
        down.register_forward_pre_hook(lambda _, inputs, number=number: seen[number].append(inputs[0].clone()))
    with torch.no_grad():
        for begin in range(0, 400, 16):
            model(torch.from_numpy(ids[begin : begin + 16].astype(np.int64))[None], use_cache=False)
    for number, parts in seen.items():
        rate = (torch.cat([part.reshape(-1, part.size(-1)) for part in parts]) != 0).double().mean(0)
        assert [float(row["firing_rate"]) for row in rows if int(row["layer"]) == number] == rate.tolist()


def test_position_0(ids: np.ndarray) -> None:
    """With it, without it, and both at once; the parts add up."""
    place = saved("opt")
    found = {
        which: audit(place, AuditOptions(**{**vars(RAW), "position_0": which}), Path("out")).record
        for which in ("include", "exclude", "both")
    }
    assert (found["include"]["tokens"], found["exclude"]["tokens"], found["both"]["tokens"]) == (400, 375, 400)
    for key in SHARED:
        for layer in range(2):
            assert found["both"]["layers"][layer][key] == found["include"]["layers"][layer][key]
            assert found["both"]["without_position_0"][layer][key] == found["exclude"]["layers"][layer][key]
    assert "Without the first token of each window" in found["both"]["answer"]


def test_what_was_not_counted_has_a_reason(ids: np.ndarray) -> None:
    """None without a reason could be an oversight: sequences of experts, slopes that nobody asked for or none has."""
    for model_type, key, why in (
        ("opt", "linear_fraction", "with --slopes only"),
        ("bitnet", "linear_fraction", "z could not be told|slope of .* is not known"),
        ("qwen3_moe", "dead_upper_sequences", "experts see tokens without their sequences"),
    ):
        layers = audit(saved(model_type), RAW, Path("out")).record["layers"]
        seen = [layer for layer in layers if layer["tokens"]]
        assert all(layer[key] is None and re.search(why, layer["undefined"][key]) for layer in seen)
    both = audit("opt", AuditOptions(**{**vars(RAW), "position_0": "both"}), Path("out")).record
    assert "position 0 was counted apart" in both["layers"][0]["undefined"]["dead_upper_sequences"]
    assert both["without_position_0"][0]["sequences"] == 25


def test_positions_of_experts_are_not_known(ids: np.ndarray) -> None:
    """A mask of tokens cannot be applied where tokens come in another order."""
    with pytest.raises(UsageError, match="experts see tokens without their positions"):
        audit(saved("qwen3_moe"), AuditOptions(**{**vars(RAW), "position_0": "exclude"}), Path("out"))


class Killed(Exception):  # noqa: N818
    """Instead of a signal that no handler sees."""


def test_a_killed_audit_goes_on(ids: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed is not counted again, and the result is that of an audit that was never interrupted."""
    place, out = saved("opt"), Path("out")
    out.mkdir()
    options = AuditOptions(**{**vars(RAW), "slopes": True})
    whole = audit(place, options, out)
    monkeypatch.setattr(count_sites, "COMMIT_SECONDS", 0.0)
    original, runs = count_sites.run_model, 0

    def run(body: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        nonlocal runs
        runs += 1
        if runs == 6:
            raise Killed
        return original(body, batch)

    monkeypatch.setattr(count_sites, "run_model", run)
    with pytest.raises(Killed):
        audit(place, options, out)
    assert (out / count_sites.PARTIAL).exists()
    again = audit(place, options, out)
    for key in (*SHARED, *BY_SEQUENCE, *SLOPES):  # sums of floats may differ in their last digit, counts never do
        assert [layer[key] for layer in again.record["layers"]] == [layer[key] for layer in whole.record["layers"]]
    assert runs == 6 + 2 + (7 - 3)  # the time is measured by two runs; three of seven batches were committed
    with pytest.raises(CheckpointError, match="unfinished audit with another position-0"):
        audit(place, AuditOptions(**{**vars(options), "position_0": "both"}), out)
    write(again, out)
    assert sorted(path.name for path in out.iterdir()) == ["audit.csv", "audit.json"]


def test_a_damaged_partial_audit_is_refused(ids: np.ndarray) -> None:
    """Nothing is guessed from half a file."""
    place, out = saved("opt"), Path("out")
    out.mkdir()
    (out / count_sites.PARTIAL).write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(CheckpointError, match="damaged"):
        audit(place, RAW, out)


def test_a_dead_and_a_proven_neuron_are_told(ids: np.ndarray) -> None:
    """One neuron is planted that never fires and that the norm before it lets nothing wake."""
    model: Any = tiny("opt")
    with torch.no_grad():
        model.model.decoder.layers[1].fc1.bias[7] = -1e4
    model.save_pretrained("planted")
    record = audit("planted", RAW, Path("out")).record
    layer = record["layers"][1]
    assert layer["verdicts"]["certified"] >= 1
    assert f"{record['model']['dead']:,} of 96 neurons" in record["answer"]
    assert "The weights prove" in record["answer"]
    assert "Voita et al. 2023" in (published(record) or "")
    assert published({**record, "family": "llama"}) is None


def test_values_that_are_not_finite_are_named(ids: np.ndarray) -> None:
    """NaN is not zero: no figure is made of it."""
    model: Any = tiny("opt")
    with torch.no_grad():
        model.model.decoder.layers[1].fc1.weight[3] = float("inf")
    model.save_pretrained("broken")
    with pytest.raises(DivergedError, match=r"the first in decoder\.layers\.1\.fc1"):
        audit("broken", RAW, Path("out"))


def test_the_output_layer_is_left_out(ids: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of a large vocabulary would take most of the time and memory."""
    called: list[str] = []

    def count(body: torch.nn.Module, *rest: object) -> None:
        called.append(type(body).__name__)
        raise Killed

    monkeypatch.setattr(audit_module, "count_sites", count)
    with pytest.raises(Killed):
        audit(saved("llama"), RAW, Path("out"))
    assert called == ["LlamaModel"]


def test_a_stopped_audit_goes_on(ids: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends at the next batch, with everything counted so far committed, in a directory that is made for it."""
    place, out = saved("opt"), Path("audits/opt")
    original, runs = count_sites.run_model, 0

    def run(body: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        nonlocal runs
        runs += 1
        if runs == 4:
            signal.raise_signal(signal.SIGINT)
        return original(body, batch)

    monkeypatch.setattr(count_sites, "run_model", run)
    with pytest.raises(StopRequestedError, match="after 2 of 7 batches; the same command goes on"):
        audit(place, RAW, out)
    again = audit(place, RAW, out)
    assert again.record["tokens"] == 400
    assert runs == 4 + 2 + 5


def test_an_estimate_comes_first(
    ids: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An audit that takes long says so, and how many tokens would not, before it begins."""
    clock = iter([0.0, 3.0])
    monkeypatch.setattr(count_sites.time, "perf_counter", lambda: next(clock))
    text = AuditText("text", "all", ids.astype(np.int64), (), 16, 400)
    model = torch.nn.Embedding(99, 2)
    count_sites._announce(model, text, 4, torch.device("cpu"), 1000)
    said = " ".join(capsys.readouterr().err.split())
    assert "about 50 min at 21 tokens/s; --tokens 12288 would take about 10 min" in said


def test_the_reasons_of_transformers_in_one_line() -> None:
    """A gated model, a quantised one, one with code: each has an advice, and a stack of lines becomes one."""
    for error, quantised, kind, says in (
        (OSError("You are trying to access a gated repo.\nMore."), None, CheckpointError, "is gated"),
        (ImportError("needs bitsandbytes\n\nMore."), {"bits": 4}, UsageError, "float weights"),
        (ValueError("pass `trust_remote_code=True`"), None, UsageError, "brings its own code"),
        (RuntimeError("first line\nsecond"), None, CheckpointError, "first line; check its files"),
    ):
        with pytest.raises(kind, match=says) as raised, open_model._loading("model", quantised):
            raise error
        assert "\n" not in str(raised.value)


def test_weights_that_are_no_floats_are_refused() -> None:
    """What a neuron writes cannot be read from packed integers."""
    model = torch.nn.Sequential(torch.nn.Embedding(3, 4), torch.nn.Linear(4, 4))
    open_model.refuse_without_floats("model", model)
    model[1].weight = torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UsageError, match="1 is a Linear without float weights"):
        open_model.refuse_without_floats("model", model)


def test_windows_begin_as_the_tokenizer_has_it(workplace: Path) -> None:
    """A model that was trained with a token at the start of every text gets it in every window."""
    text = AuditText("text", "all", np.arange(10, 40), (7,), 8, 14)
    assert [batch.tolist() for batch in text.batches(8)] == [[[7, *range(10, 17)], [7, *range(24, 31)]]]
