"""Expendable neurons of foreign models: the search equals a loop written apart, and survives a kill."""

from __future__ import annotations

import csv
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_architectures import tiny
from torch.nn import functional as F

from minigpt.base.errors import CheckpointError, DataError, StopRequestedError, UsageError
from minigpt.base.health_columns import ALLOWED_RISE
from minigpt.interop import spare_sites
from minigpt.interop.audit import AuditOptions, audit, write
from minigpt.interop.audit_text import _hold_out
from minigpt.neurons import site_knockout
from minigpt.neurons.find_mlps import find_mlps
from minigpt.report.audit_page import audit_page

pytestmark = pytest.mark.filterwarnings("ignore")

ASKED = AuditOptions(
    texts=("ids.bin",), context=16, tokens=320, batch_tokens=64, device="cpu", position_0="both", expendable=96
)


@pytest.fixture
def ids(workplace: Path) -> np.ndarray:
    """Raw ids of a vocabulary of 99, in a file as nanoGPT writes it; some often, some seldom, so that losses differ."""
    made = (3 + np.random.default_rng(0).zipf(1.3, size=460) % 96).astype("<u2")
    (workplace / "ids.bin").write_bytes(made.tobytes())
    return made


def uneven(model_type: str) -> Any:
    """A model some of whose neurons write much and others nearly nothing."""
    model = tiny(model_type)
    with torch.no_grad():
        for site in find_mlps(model, torch.arange(3, 19)[None]):
            site.weight.mul_(400 * torch.linspace(0, 1, site.neurons) ** 6)
    model.save_pretrained(model_type)  # type: ignore[operator]
    return model


def downs(model: Any) -> list[torch.nn.Module]:
    """The down projections, by their names."""
    named = dict(model.named_modules())
    found = [module for name, module in named.items() if name.split(".")[-1] in ("fc2", "down_proj", "dense_4h_to_h")]
    return found or [module for name, module in named.items() if name.endswith("mlp.c_proj")]


def perplexity(model: Any, windows: torch.Tensor, removed: list[torch.Tensor], means: list[torch.Tensor]) -> float:
    """Whole forward passes of the whole model, a window at a time, with hooks written here."""
    handles = [
        down.register_forward_pre_hook(lambda _, inputs, m=mask, v=values: (torch.where(m, v, inputs[0]),))
        for down, mask, values in zip(downs(model), removed, means, strict=True)
    ]
    losses = []
    with torch.no_grad():
        for window in windows:
            logits = model(window[None, :-1], use_cache=False).logits[0]
            losses.append(F.cross_entropy(logits, window[1:], reduction="none"))
    for handle in handles:
        handle.remove()
    return math.exp(torch.cat(losses).double().mean().item())


@pytest.mark.parametrize("model_type", ["opt", "llama", "gpt2", "gpt_neox", "bitnet"])
def test_the_search_equals_trying_every_prefix(model_type: str, ids: np.ndarray) -> None:
    """Of each layer and of the model: the set that is found is feasible, and one step of the search more is not."""
    model = uneven(model_type)
    found = audit(model_type, ASKED, Path("out"))
    rows = list(csv.DictReader(found.table.splitlines()))
    _, held = _hold_out(ids.astype(np.int64), 16, 96)
    windows = torch.from_numpy(held)
    widths = [layer["neurons"] for layer in found.record["layers"]]
    means = list(torch.tensor([float(row["mean_h"]) for row in rows]).split(widths))
    shares = torch.tensor([float(row["contribution"]) for row in rows], dtype=torch.float64).split(widths)
    everyone = torch.cat([share / share.mean() for share in shares])
    base = perplexity(model, windows, [torch.zeros(width, dtype=torch.bool) for width in widths], means)
    edges = 0
    for number, judged in enumerate([*found.record["layers"], found.record["model"]]):
        candidates = torch.arange(sum(widths))
        candidates = candidates.split(widths)[number] if number < len(widths) else candidates
        order = candidates[everyone[candidates].argsort(stable=True)]
        count = round(judged["expendable_fraction"] * len(order))
        rises = []
        halvings = 6 if number < len(widths) else 8
        for chosen in (count, min(count + math.ceil(len(order) / 2**halvings), len(order))):
            flags = torch.zeros(sum(widths), dtype=torch.bool)
            flags[order[:chosen]] = True
            rises.append(perplexity(model, windows, list(flags.split(widths)), means) / base - 1)
        assert rises[0] <= ALLOWED_RISE + 1e-6
        assert rises[1] > ALLOWED_RISE - 1e-6 or count == len(order)
        edges += 0 < count < len(order)
        column = "expendable_in_layer" if number < len(widths) else "expendable_in_model"
        marked = [row[column] == "1" for row in rows]
        assert [at for at in candidates.tolist() if marked[at]] == sorted(order[:count].tolist())
        interval = judged["expendable_interval"]
        assert interval["low"] <= judged["expendable_fraction"] <= interval["high"]
    assert edges, "the example should have an edge"
    assert "could be replaced by their means" in found.record["answer"]


def test_no_block_before_the_layer_runs_again(ids: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """What earlier blocks make is kept, to the bit; where a model would notice, all of it runs each time."""
    uneven("llama")
    kept = audit("llama", ASKED, Path("out")).record
    monkeypatch.setattr(site_knockout, "_blocks_before", lambda body, site: [])
    whole = audit("llama", ASKED, Path("other")).record
    assert kept["layers"] == whole["layers"]
    assert kept["model"] == whole["model"]


def test_a_model_that_passes_on_more_than_one_value_runs_whole() -> None:
    """The second block reads what the first left on the side: answering for the first would change the result."""

    class Aside(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte = torch.nn.Embedding(9, 4)
            self.blocks = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))
            self.count = 0

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            self.count += 1
            x = self.blocks[0](self.wte(ids)) + self.count
            return self.blocks[1](x)

    model = Aside()
    site = type("Site", (), {"down": torch.nn.Linear(4, 4)})()
    model.blocks[1] = torch.nn.Sequential(site.down)
    split = site_knockout.Predictor(model, lambda logits: logits)
    ids = torch.arange(8)[None]
    assert not site_knockout.read_up_to_site(split, site, [(ids, ids)]).before


def test_a_model_without_mlp_noise_can_spare_all(ids: np.ndarray) -> None:
    """MLPs that write nothing: 100 %, in every order, with an interval that is a point."""
    model = tiny("opt")
    with torch.no_grad():
        for down in downs(model):
            down.weight.zero_()  # type: ignore[operator]
    model.save_pretrained("opt")  # type: ignore[operator]
    judged = audit("opt", ASKED, Path("out")).record["model"]
    assert judged["expendable_fraction"] == judged["expendable_random"]["mean"] == 1
    assert judged["expendable_interval"] == {"low": 1, "high": 1}


class Killed(Exception):  # noqa: N818
    """Instead of a signal that no handler sees."""


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int, how: Callable[[], None]) -> None:
    """Do something in the search number `after`."""
    original, runs = spare_sites.search, 0

    def search(*inputs: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs == after:
            how()
        return original(*inputs)

    monkeypatch.setattr(spare_sites, "search", search)


def test_a_killed_search_goes_on(ids: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the count nor the layers that were searched are done again, and the result is the same."""
    uneven("opt")
    whole, out = audit("opt", ASKED, Path("whole")), Path("out")
    out.mkdir()

    def kill() -> None:
        raise Killed

    with monkeypatch.context() as patched:
        interrupted(patched, 2, kill)
        with pytest.raises(Killed):
            audit("opt", ASKED, out)
    assert (out / spare_sites.SEARCHED).exists()
    with monkeypatch.context() as patched:
        interrupted(patched, 2, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(StopRequestedError, match="after 2 of 3 searches; the same command goes on"):
            audit("opt", ASKED, out)
    with pytest.raises(CheckpointError, match="unfinished audit with another text"):
        audit("opt", AuditOptions(**{**vars(ASKED), "expendable": 64}), out)
    again = audit("opt", ASKED, out)
    assert again.record["layers"] == whole.record["layers"]
    assert again.record["model"] == whole.record["model"]
    assert again.table == whole.table
    write(again, out)
    assert sorted(path.name for path in out.iterdir()) == ["audit.csv", "audit.json"]
    assert "How many could go?" in audit_page(out)


def test_a_damaged_search_is_refused(ids: np.ndarray) -> None:
    """Nothing is guessed from half a file."""
    uneven("opt")
    Path("out").mkdir()
    (Path("out") / spare_sites.SEARCHED).write_text("{}")
    with pytest.raises(CheckpointError, match="damaged"):
        audit("opt", ASKED, Path("out"))


def test_what_cannot_be_searched_is_refused_before_anything_is_counted(ids: np.ndarray) -> None:
    """Experts see tokens of their own; a mean without the first position is no mean; and there must be text."""
    tiny("qwen3_moe").save_pretrained("qwen3_moe")  # type: ignore[operator]
    with pytest.raises(UsageError, match=r"8 experts.*leave out --expendable"):
        audit("qwen3_moe", AuditOptions(**{**vars(ASKED), "position_0": "include"}), Path("out"))
    uneven("opt")
    with pytest.raises(UsageError, match="at every position"):
        audit("opt", AuditOptions(**{**vars(ASKED), "position_0": "exclude"}), Path("out"))
    (Path("short.bin")).write_bytes(ids[:18].tobytes())
    with pytest.raises(DataError, match="no window to hold out"):
        audit("opt", AuditOptions(**{**vars(ASKED), "texts": ("short.bin",)}), Path("out"))


def test_held_out_windows_are_not_counted() -> None:
    """Every id is in one of both, and held-out windows are spread over the text."""
    ids = np.arange(101)
    rest, held = _hold_out(ids, 10, 25)
    assert held[:, 0].tolist() == [0, 30, 60]
    assert sorted([*rest, *held[:, :-1].flatten()]) == ids.tolist()
    assert _hold_out(ids, 10, 0)[0].tolist() == ids.tolist()
