"""The benchmark: its arithmetic on known answers, its refusals, and one small run beside a made-up nanoGPT."""

from __future__ import annotations

import copy
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_MODEL, Capture, Command
from scipy import stats
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from minigpt.base.errors import OutOfMemoryError, UsageError
from minigpt.benchmarks import bench_options, ceilings, scaling, startup, suite, training_speed
from minigpt.benchmarks.bench_options import BenchOptions, Peer
from minigpt.benchmarks.decoding_speed import bytes_per_token
from minigpt.benchmarks.paired_blocks import alternate, paired_ratio, spread
from minigpt.benchmarks.workers import Task, Timed, Worker
from minigpt.model import GPT, GPTConfig
from minigpt.report import benchmark_tables
from minigpt.report.benchmark_figures import scaling_curves
from minigpt.training.config import RunConfig

NANOGPT = """
import torch
from torch import nn
from torch.nn import functional as F

print("this must not reach the figures")


class GPTConfig:
    def __init__(self, **shape):
        self.__dict__.update(shape)


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        {accident}
        self.table = nn.Embedding(config.vocab_size, config.vocab_size)

    def forward(self, idx, targets=None):
        logits = self.table(idx)
        return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay)

    def generate(self, idx, max_new_tokens):
        for _ in range(max_new_tokens):
            idx = torch.cat((idx, self.table(idx[:, -1:]).argmax(-1)), dim=1)
        return idx
"""


@pytest.fixture
def nanogpt(workplace: Path) -> Path:
    """A folder that has nanoGPT's interface and a model of one table."""
    return write_nanogpt(workplace / "nano", "pass")


def write_nanogpt(folder: Path, accident: str) -> Path:
    folder.mkdir()
    (folder / "model.py").write_text(NANOGPT.format(accident=accident), encoding="utf-8")
    return folder


@pytest.fixture
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ceilings of no worth, measured in no time."""
    monkeypatch.setattr(ceilings, "_LARGE", {"cpu": 32})
    monkeypatch.setattr(ceilings, "READ_BYTES", 1 << 16)
    monkeypatch.setattr(ceilings, "_SHORT", 1e-4)
    monkeypatch.setattr(ceilings, "_LONG", 1e-4)


def strict(text: str) -> Any:
    """Parse JSON that has neither NaN nor Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


# ---------------------------------------------------------------------------------------------- arithmetic


def test_programs_take_turns() -> None:
    """Whoever came last comes first in the next block, so a drift favours nobody."""
    calls: list[str] = []

    def program(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    figures = alternate([lambda: program("a"), lambda: program("b")], range(4))
    assert "".join(calls) == "abbaabba"
    assert figures == [[1, 4, 5, 8], [2, 3, 6, 7]]


def test_a_swing_of_the_machine_cancels() -> None:
    """Each block has its own speed; only the ratio within it counts."""
    speed = np.random.default_rng(0).uniform(0.5, 2.0, 12)
    found = paired_ratio(list(3.0 * speed), list(2.0 * speed))
    assert found.median == pytest.approx(1.5)
    assert (found.low, found.high) == (pytest.approx(1.5), pytest.approx(1.5))
    assert found.blocks == 12


def test_the_interval_is_the_exact_bootstrap_interval() -> None:
    """The bootstrap median of an odd number of values is their k-th with a binomial probability: no draw is needed."""
    n = 15
    values = np.sort(np.random.default_rng(1).lognormal(size=n))
    below = stats.binom.sf((n + 1) // 2 - 1, n, np.arange(1, n + 1) / n)  # P(bootstrap median <= k-th value)
    exact = [float(values[np.searchsorted(below, share)]) for share in (0.025, 0.975)]
    found = paired_ratio(list(values), [1.0] * n)
    assert [found.low, found.high] == exact
    assert found.median == float(np.median(values))


def test_a_single_block_has_no_interval() -> None:
    """Not a point: nothing is known of its spread."""
    found = paired_ratio([3.0], [2.0])
    assert (found.median, found.low, found.high, found.blocks) == (1.5, None, None, 1)


def test_quartiles() -> None:
    found = spread([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (found.low, found.median, found.high) == (2.0, 3.0, 4.0)


@pytest.mark.parametrize("activation", ["relu", "swiglu"])
def test_operations_are_those_that_torch_counts(activation: str) -> None:
    """6N + 12·L·C·T, and the products alone 6N, are counted by torch too while the model trains."""
    config = GPTConfig(
        vocab_size=17, block_size=8, n_layer=2, n_head=2, n_embd=16, d_ff=24, activation=activation, attention="written"
    )
    model, batch = GPT(config), 3
    ids = torch.zeros(batch, config.block_size, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
    tokens = batch * config.block_size
    assert counter.get_total_flops() == tokens * model.flops_per_token()
    products = ceilings.products_of(model, tokens)
    attention = 12 * config.n_layer * config.n_embd * config.block_size * tokens
    assert sum(3 * product.flops * product.count for product in products) == counter.get_total_flops() - attention
    assert {product.name: product.count for product in products} == {
        "attn.w_qkv": 2,
        "attn.w_out": 2,
        "mlp.w_in": 2,
        "mlp.w_out": 2,
        "lm_head": 1,
    }


def test_the_ceiling_weighs_products_by_their_time() -> None:
    """Half of the operations at 1 and half at 3 FLOP/s take as long as all at 1.5."""
    slow = ceilings.Product("a", 4, 4, 4, count=1)
    fast = ceilings.Product("b", 4, 2, 4, count=2)
    rates = [ceilings.ProductRates(slow, 1.0, 1.0, 1.0), ceilings.ProductRates(fast, 3.0, 3.0, 3.0)]
    assert ceilings.ceiling(rates) == pytest.approx(1.5)


def test_bytes_of_a_decoded_token() -> None:
    """The weights of all products once, and of every sample the filled part of the cache on average, by hand."""
    model = GPT(GPTConfig(vocab_size=11, block_size=16, n_layer=2, n_head=2, n_embd=8, d_ff=32))
    weights = 2 * (3 * 8 * 8 + 8 * 8 + 8 * 32 + 32 * 8) + 8 * 11
    filled = (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 9) / 9  # positions that each of nine steps reads
    keys_and_values = 2 * 2 * 8 * filled
    assert bytes_per_token(model, samples=3, tokens=9, width=4) == 4 * (weights + 3 * keys_and_values) == 8416


def test_points_of_the_curves() -> None:
    """One axis at a time; heads keep their width; the attention follows the context by its rule."""
    base = replace(RunConfig(), n_layer=4, n_head=4, n_embd=128, block_size=64, batch_size=12, device="cpu")
    base = suite.runtime.resolve(base)
    found = {(axis, value): config for axis, value, config in scaling.points(base, scaling.AXES)}
    assert {config.n_embd // config.n_head for config in found.values()} == {32}
    assert found["n_embd", 768].n_layer == 4
    assert found["block_size", 64].attention == "written"
    assert found["block_size", 1024].attention == "fused"
    assert found["batch_size", 1].batch_size == 1


def test_a_batch_that_does_not_fit_is_answered_with_one_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried, not guessed."""

    class Small:
        """A machine with memory for four windows."""

        def __init__(self, task: Task) -> None:
            self.task = task

        def __enter__(self) -> Small:
            return self

        def __exit__(self, *reason: object) -> None: ...

        def train(self, steps: int) -> Timed:
            if self.task.config.batch_size > 4:
                raise OutOfMemoryError("none left")
            return Timed(1.0, 1.0)

    monkeypatch.setattr(training_speed, "Worker", Small)
    task = Task(replace(RunConfig(), batch_size=12))
    with pytest.raises(OutOfMemoryError, match="batch-size 12 does not fit; 3 fits: --batch-size 3"):
        training_speed._first_step(Small(task))  # type: ignore[arg-type]
    assert OutOfMemoryError.exit_code == 8


def test_a_bfloat16_that_is_emulated_is_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite.runtime, "fastest_dtype", lambda device: "float32")
    config = replace(RunConfig(), device="cpu", dtype="bfloat16")
    assert ["emulates" in note for note in suite.notes([config])] == [True]
    assert suite.notes([replace(config, dtype="float32")]) == []


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("bench gem", ("unknown part 'gem'", "did you mean 'gemm'?")),
        ("bench --peer hff", ("unknown peer 'hff'", "did you mean 'hf'?", "x-transformers")),
        ("bench --peer .", (". is no nanoGPT", "lacks model.py")),
        ("bench --dtype bf16", ("did you mean 'bfloat16'?",)),
        ("bench --device tpu", ("unknown device 'tpu'",)),
        ("bench --preset nanogpt-cpu,big", ("unknown preset 'big'",)),
        ("bench train --all", ("--all measures every part; got train as well",)),
        ("bench --blocks 0", ("blocks is too small",)),
        ("bench --steps-per-blocks 3", ("did you mean '--steps-per-block'?",)),
        ("bench --json --markdown", ("choose one",)),
    ],
)
def test_refusals(refused, command: str, says: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    """Before anything is measured or written."""
    refused(2, command, says=says)


def test_all_means_every_part() -> None:
    """Without it the slow parts are left out."""
    assert bench_options.check_parts([], every=True) == bench_options.PARTS
    assert set(bench_options.check_parts([])) < set(bench_options.PARTS)


def test_a_missing_package_is_said_before_anything_is_measured(refused, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """What the other parts of `--all` measured would be lost: the audit comes last."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(suite, "_measure_preset", lambda *_: pytest.fail("something was measured"))
    refused(2, "bench --all --quick", says=("transformers",))


def test_a_folder_that_is_no_nanogpt_is_told_what_it_lacks(nanogpt: Path) -> None:
    """The file is parsed and not executed."""
    model = nanogpt / "model.py"
    whole = model.read_text(encoding="utf-8")
    assert bench_options.check_peer(str(nanogpt)) == Peer("nanoGPT", str(nanogpt.resolve()))
    for changed, lacks in (
        (whole.replace("def generate", "def continued"), "method generate of GPT"),
        (whole.replace("class GPTConfig", "class Shape"), "class GPTConfig"),
        ("def (", "can be read"),
        ("raise SystemExit", "class GPTConfig"),
    ):
        model.write_text(changed, encoding="utf-8")
        with pytest.raises(UsageError, match=lacks):
            bench_options.check_peer(str(nanogpt))


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "x_transformers", None)
    with pytest.raises(UsageError, match=r"peer x-transformers is not installed.*pip install x-transformers"):
        bench_options.check_peer("x-transformers")


def test_accidents_inside_a_process_come_back(workplace: Path) -> None:
    """A peer that raises, and one that the system kills, as it does where memory ends."""
    config = replace(
        RunConfig(), corpus="text.txt", device="cpu", dtype="float32", n_layer=1, n_head=1, n_embd=8, threads=1
    )
    config = suite.runtime.resolve(config)
    raising = write_nanogpt(workplace / "raising", "raise ValueError('no such shape')")
    killed = write_nanogpt(workplace / "killed", f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})")
    tasks = [Task(config, peer=bench_options.check_peer(str(path))) for path in (raising, killed)]
    with Worker(tasks[0]) as first, Worker(tasks[1]) as second:
        with pytest.raises(UsageError, match="nanoGPT failed; ValueError: no such shape"):
            first.train(1)
        with pytest.raises(OutOfMemoryError, match="the system ended nanoGPT"):
            second.train(1)


# ---------------------------------------------------------------------------------------------- a small run


def test_a_run_beside_a_peer(minigpt: Command, nanogpt: Path, small_products: None, capsys: Capture) -> None:
    """All figures are there and finite, the JSON is strict, and the tables show a dash for what is missing."""
    flags = f"--corpus text.txt {TINY_MODEL} --blocks 3 --steps-per-block 2 --warmup-steps 1 --peer {nanogpt} --out out"
    assert minigpt(f"bench train decode instrument scaling --quick {flags} --json") == 0
    output = capsys.readouterr().out
    record = strict(output)
    assert strict((Path("out") / "bench.json").read_text(encoding="utf-8")) == record
    assert record["machine"]["processor"]
    (measured,) = record["presets"]
    assert measured["activation"] == "gelu"
    train = measured["train"]
    (peer,) = train["peers"]
    assert (peer["peer"], peer["state"], peer["how"]) == ("nanoGPT", "as shipped", "float32, eager")
    assert peer["ratio"]["low"] <= peer["ratio"]["median"] <= peer["ratio"]["high"]
    assert train["tokens_per_second"] == pytest.approx(4 * 16 / train["step_seconds"]["median"])
    rates = measured["gemm"]["float32"]
    assert train["mfu"] == pytest.approx(train["flops_per_second"] / rates["large"])
    assert train["share_of_ceiling"] == pytest.approx(train["flops_per_second"] / rates["ceiling"])
    assert [(each["samples"], len(each["peers"])) for each in measured["decode"]] == [(1, 1), (8, 1)]
    assert all(each["first_token_seconds"] > 0 for each in measured["decode"])
    assert measured["instrument"]["training_ratio"]["blocks"] == 3
    points = measured["scaling"]
    assert [point["value"] for point in points if point["axis"] == "n_layer"] == [2, 8]
    assert all(point["tokens_per_second"] > 0 and point["flops_per_token"] > 0 for point in points)
    assert (Path("out") / f"scaling-{measured['preset']}.svg").read_text(encoding="utf-8").startswith("<svg")
    assert len((Path("out") / f"scaling-{measured['preset']}.csv").read_text(encoding="utf-8").splitlines()) == 9
    for sparse in (record, without_some(record)):
        for text in (benchmark_tables.text(sparse), benchmark_tables.markdown(sparse)):
            assert record["machine"]["processor"] in text
            assert "python -m minigpt" in text
            assert not {"None", "nan", "inf"} & set(text.split())
            for title in ("Matrix products", "Training beside other programs", "Decoding", "watching the neurons"):
                assert title in text
    assert "–" in benchmark_tables.text(without_some(record))


def without_some(record: dict[str, Any]) -> dict[str, Any]:
    """The same on a machine without bfloat16 that cannot tell its peak memory, after a single block."""
    sparse = copy.deepcopy(record)
    (measured,) = sparse["presets"]
    measured["gemm"]["bfloat16"] = None
    measured["train"]["peak_memory_bytes"] = None
    measured["train"]["peers"][0]["ratio"] |= {"low": None, "high": None}
    return sparse


def test_start_is_seen_from_outside(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step's record is waited for, and the training is ended and leaves nothing."""
    monkeypatch.setattr(startup, "HELP_RUNS", 1)
    asked = {"preset": "tiny", "corpus": "text.txt", "n_layer": 1, "n_head": 1, "n_embd": 8, "bias": False}
    assert startup.as_flags(asked)[-1] == "--bias=false"
    config = suite.resolve_preset("tiny", {key: value for key, value in asked.items() if key != "preset"}, [])
    found = startup.measure_start(config, asked)
    assert 0 < found["help_seconds"]["median"] < found["first_step_seconds"]
    assert sorted(path.name for path in workplace.iterdir()) == ["data", "text.txt"]


def test_curves_are_drawn_with_their_bound() -> None:
    points = [
        {"axis": axis, "value": value, "tokens_per_second": 1e4 / value, "bound": 1e5 / value}
        for axis in ("n_layer", "n_embd")
        for value in (2, 4)
    ]
    drawing = str(scaling_curves(points))
    assert drawing.startswith("<svg")
    for word in ("layers", "width", "bound", "measured", "tokens a second", ">5,000</text>"):
        assert word in drawing


def test_options_have_defaults_of_the_protocol() -> None:
    """Twenty steps, ten blocks."""
    assert (BenchOptions().blocks, BenchOptions().steps_per_block) == (10, 20)


@pytest.mark.filterwarnings("ignore")
def test_an_audit_beside_its_forward_pass(minigpt: Command, capsys: Capture) -> None:
    """Both kinds of audit are measured in pairs on the same batches, and shown."""
    flags = f"--corpus text.txt {TINY_MODEL} --blocks 2"
    assert minigpt(f"bench audit --quick {flags} --json") == 0
    record = strict(capsys.readouterr().out)
    found = record["presets"][0]["audit"]
    assert [each["position_0"] for each in found] == ["include", "both"]
    for each in found:
        assert each["ratio"]["low"] <= each["ratio"]["median"] <= each["ratio"]["high"]
        assert each["tokens"] == 4 * 64
    assert "What an audit costs" in benchmark_tables.text(record)
