"""`minigpt neurons` and `doctor`: what they print, write and refuse; and that a broken instrument is noticed."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY_RUN, tree_hash
from scipy import stats
from torch import Tensor

from minigpt.base.errors import DivergedError, UsageError
from minigpt.base.health_columns import TRUSTED_TOKENS
from minigpt.cli import main
from minigpt.model import GPT, GPTConfig
from minigpt.neurons import calibration, counters
from minigpt.neurons.calibration import gaussian_checks, planted_checks, silent_check
from minigpt.neurons.probe import NeuronProbe
from minigpt.text.grammar import grammar
from minigpt.training import checkpoints, diagnose_run

Capture = pytest.CaptureFixture[str]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with one finished run, made once and never changed."""
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        (place / "text.txt").write_text("".join(grammar(3).text(0, 20_000)), encoding="utf-8")
        assert main(f"train {TINY_RUN} --out run".split()) == 0
    return place


# minigpt neurons


def test_it_prints_tables_and_leaves_three_files(command, place: Path):
    """The figures of the terminal are those of the files; the text of the run's own corpus is counted whole."""
    code, output, error = command("neurons run --threads 1")
    assert (code, error) == (0, "")
    record = json.loads((place / "run/neurons.json").read_text())
    assert (record["format"], record["step"], record["split"], Path(record["corpus"]).name) == (
        1,
        12,
        "val",
        "text.txt",
    )
    log = map(json.loads, (place / "run/metrics.jsonl").read_text().splitlines())
    *_, evaluated = (entry for entry in log if entry["kind"] == "eval")
    for layer, logged in zip(record["layers"], evaluated["layers"], strict=True):
        assert {name: layer[name] for name in logged} == logged
    rows = list(csv.DictReader((place / "run/neurons.csv").read_text().splitlines()))
    assert [int(row["neuron"]) for row in rows] == 2 * list(range(64))
    explorer = json.loads((place / "run/explorer.json").read_text())
    assert [layer["layer"] for layer in explorer["layers"]] == [0, 1]
    passage = explorer["layers"][0]["neurons"][0]["passages"][0]
    assert "".join(passage["tokens"]) in (place / "text.txt").read_text()
    for part in ("proven", "expendable", "trapped", f"{record['tokens']:,} tokens", "wrote neurons.json"):
        assert part in output


def test_the_answer_comes_first(command):
    """A sentence says what was found before any table; shares of all neurons at 0 are a table too, not a line."""
    _, output, _ = command("neurons run")
    before_tables = output.partition("Dead, and how sure is that?")[0]
    assert re.search(r"(No neuron is dead|of the neurons are dead)", before_tables)
    assert re.search(r"What would it cost\?\n +share +perplexity +random ones\n", output)
    assert max(map(len, output.splitlines()[:-2])) <= 80


def test_few_tokens_are_marked_on_every_percentage(command, monkeypatch: pytest.MonkeyPatch):
    """Under 65,536 tokens a percentage is a hint; above, the mark is gone."""
    _, output, _ = command("neurons run")
    assert f"! fewer than {TRUSTED_TOKENS:,} tokens" in output
    table = [line for line in output.splitlines() if line.split()[:1] in (["0"], ["1"], ["all"]) and " %" in line]
    assert len(table) >= 7
    assert all(line.count("%!") == line.count("%") for line in table)
    monkeypatch.setattr("minigpt.training.terminal.TRUSTED_TOKENS", 1)
    assert "!" not in command("neurons run")[1]


def test_json_is_the_file(command, place: Path):
    """One object on stdout, the run named in it, and nothing else."""
    code, output, _ = command("neurons run --json --split train --tokens 500")
    record = json.loads(output)
    assert (code, record.pop("run"), record["split"]) == (0, "run", "train")
    assert record["tokens"] == 512  # whole windows
    assert record == json.loads((place / "run/neurons.json").read_text())


def test_more_tokens_than_val_has_means_train(command):
    """A number of tokens that was asked for wins over comparability with evaluations; --split wins over both."""
    assert json.loads(command("neurons run --json --tokens 1000")[1])["split"] == "val"
    assert json.loads(command("neurons run --json --tokens 9000")[1])["split"] == "train"
    own = json.loads(command("neurons run --json --tokens 9000 --split val")[1])
    assert own["split"] == "val"
    assert own["tokens"] < 9000


def test_another_corpus_is_read_in_the_runs_tokenizer(command, place: Path):
    """Text of the same grammar but another seed: counted, named, and told apart by its hash."""
    (place / "other.txt").write_text("".join(grammar(3).text(1, 9_000)), encoding="utf-8")
    here, there = (json.loads(command(f"neurons run --json {flag}")[1]) for flag in ("", "--corpus other.txt"))
    assert there["corpus"] == "other.txt"
    assert there["corpus_sha256"] != here["corpus_sha256"]
    assert there["tokens"] < here["tokens"]


def test_characters_that_the_tokenizer_lacks_are_named(command, place: Path):
    """An error of the data, with the characters; nothing is written."""
    (place / "greek.txt").write_text("".join(grammar(3).text(1, 5_000)).replace("e", "ε"), encoding="utf-8")
    before = tree_hash(place)
    code, output, error = command("neurons run --corpus greek.txt")
    assert (code, output) == (3, "")
    assert "characters that the vocabulary lacks; got 'ε'" in error
    assert tree_hash(place) == before


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("--tokens 0", 2, "tokens must be a positive whole number; got 0"),
        ("--tokens -5", 2, "got -5"),
        ("--split test", 2, "invalid choice: 'test'"),
        ("--checkpoint 7", 4, "no checkpoint of step 7"),
        ("--threads -1", 2, "threads is out of range"),
        ("--device warp", 2, "unknown device 'warp'"),
        ("--corpus nowhere.txt", 3, "no such corpus or file"),
        ("--tokns 5", 2, "did you mean '--tokens'?"),
    ],
)
def test_bad_input_is_refused(command, place: Path, words: str, code: int, says: str):
    """One line, the right exit code, and nothing on disk changed."""
    before = tree_hash(place)
    got, output, error = command(f"neurons run {words}")
    assert (got, output) == (code, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert says in error
    assert tree_hash(place) == before


def test_a_run_without_a_checkpoint_is_refused(command, place: Path):
    """There is nothing to examine yet."""
    shutil.rmtree(place / "run/checkpoints")
    code, _, error = command("neurons run")
    assert code == 4
    assert "has no checkpoint yet" in error


def test_weights_that_are_not_finite_are_refused(command, place: Path, monkeypatch: pytest.MonkeyPatch):
    """NaN compares as fired: such a model would look wholly alive."""
    parse = checkpoints._parse

    def poisoned(checkpoint: checkpoints.Checkpoint, name: str) -> dict[str, Tensor]:
        tensors = parse(checkpoint, name)
        tensors["blocks.1.mlp.w_in.weight"][0, 0] = torch.nan
        return tensors

    monkeypatch.setattr(checkpoints, "_parse", poisoned)
    code, output, error = command("neurons run")
    assert (code, output) == (6, "")
    assert "blocks.1.mlp.w_in.weight" in error


def test_hidden_values_that_overflow_are_refused(place: Path):
    """Finite weights can still compute infinity; no figure is drawn from that."""
    from minigpt.training.inference import open_run

    run = open_run(place / "run", device="cpu")
    with torch.no_grad():
        weight = run.model.blocks[1].mlp.w_in.weight
        weight.mul_(3e38 / weight.abs().max())
    with pytest.raises(DivergedError, match="layer 1 are not finite"):
        diagnose_run.diagnose_run(run, None, None, 0)


def test_an_undefined_measure_is_a_dash_with_its_reason(command, place: Path):
    """Of softmax neither slopes nor proofs exist: "–" and why, never 0.0."""
    assert command(f"train {TINY_RUN} --activation 0=relu,1=softmax --out mixed")[0] == 0
    code, output, _ = command("neurons mixed")
    assert code == 0
    assert "– no saturated fraction in layer 1: softmax is not elementwise" in output
    assert "– no certified dead fraction in layer 1: softmax is not exactly 0" in output
    assert "layer 0:" not in output


def test_overwriting_a_run_removes_what_was_found_of_it(command, place: Path):
    """Findings of another training beside a new run's log would be a lie."""
    assert command("neurons run")[0] == 0
    assert command(f"train {TINY_RUN} --overwrite --out run")[0] == 0
    assert {path.name for path in (place / "run").iterdir()}.isdisjoint(
        {"neurons.json", "neurons.csv", "explorer.json"}
    )


def test_windows_know_their_number():
    """The bar's length: as many batches as will come, with a short last window or without."""
    ids = torch.arange(1000).numpy()
    for tokens in (1, 2, 17, 200, 641, 642, 1000):
        for limit in (1, 64, 100, 10_000):
            windows = diagnose_run.Windows(ids[:tokens], block_size=16, batch_size=4, limit=limit)
            assert len(windows) == len(list(windows)), (tokens, limit)


# minigpt doctor


def test_the_doctor_finds_this_machine_well(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every check passes, expected is shown beside measured, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert len(found["checks"]) > 20
    assert all(check["passed"] and check["expected"] and check["measured"] for check in found["checks"])
    measured = {check["name"]: check["measured"] for check in found["checks"]}
    assert "CPU quota" in measured["threads"]
    assert measured["how threads wait for each other"]
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_says_what_differs(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Exit code 1, the line marked and named at the end."""
    monkeypatch.chdir(tmp_path)
    failed = calibration.Check("the answer", "42", "41", False)
    monkeypatch.setattr(calibration, "calibrate", lambda device: [failed])
    assert main(["doctor", "--device", "cpu"]) == 1
    output = capsys.readouterr().out
    assert "DIFFERS" in output
    assert "checks differ: the answer" in output


def test_the_doctor_notices_a_disk_that_refuses(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A folder that cannot be written is found before a training's first checkpoint finds it."""
    monkeypatch.chdir(tmp_path)

    def refuse(*arguments: object, **more: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    monkeypatch.setattr(calibration, "calibrate", lambda device: [])
    assert main(["doctor", "--device", "cpu"]) == 1
    assert "Permission denied" in capsys.readouterr().out


@pytest.mark.parametrize(("threshold", "rate"), [(3, 1.35e-3), (4, 3.17e-5), (5, 2.87e-7)])
def test_gaussian_rates_are_those_of_the_normal_distribution(threshold: int, rate: float):
    """Φ(−k), against scipy and the published three digits."""
    assert calibration._gaussian_rate(threshold) == pytest.approx(stats.norm.sf(threshold), rel=1e-12)
    assert calibration._gaussian_rate(threshold) == pytest.approx(rate, rel=5e-3)


@pytest.mark.parametrize(
    ("k", "tokens", "chance"), [(4, 10**4, 0.73), (4, 10**5, 0.042), (5, 10**6, 0.75), (5, 10**7, 0.057)]
)
def test_how_often_a_live_neuron_is_seen_dead(k: int, tokens: int, chance: float):
    """(1 − Φ(−k))^N: one batch must call live neurons dead."""
    assert (1 - calibration._gaussian_rate(k)) ** tokens == pytest.approx(chance, rel=0.02)


def test_the_instrument_reads_gaussian_neurons_correctly():
    """Each rate inside its 99.9 % interval; 10,000 tokens see most 4σ neurons dead, as they must."""
    checks = [*gaussian_checks(CPU), silent_check(CPU)]
    assert [check.name for check in checks if not check.passed] == []


# Broken on purpose, and noticed


def names_of_failures() -> set[str]:
    return {check.name for check in planted_checks(CPU) if not check.passed}


def test_planted_neurons_are_what_they_are():
    """The reference for the broken instruments below."""
    assert names_of_failures() == set()


def test_a_threshold_that_includes_0_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """Counting z ≥ 0 as open, a ReLU that is exactly at 0 for ever would never be `never positive`."""
    model = GPT(GPTConfig(vocab_size=29, block_size=16, n_layer=1, n_head=2, n_embd=16)).eval()
    with torch.no_grad():
        model.blocks[0].mlp.w_in.weight[:4] = 0

    def never_open() -> int:
        with NeuronProbe(model) as watching, torch.no_grad():
            model(torch.zeros(2, 16, dtype=torch.int64))
        return int((watching.statistics()[0].opened == 0).sum())

    before = never_open()
    monkeypatch.setattr(counters, "_openings", lambda z: counters._count_by_sequence(torch.ge, z, 0.0))
    assert never_open() <= before - 4


def test_firing_at_or_above_0_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """A definition of firing by h ≥ 0 would find no dead ReLU at all."""
    monkeypatch.setattr(counters, "_firings", lambda h: counters._count_by_sequence(torch.ge, h, 0.0))
    with pytest.raises(AssertionError, match="proven dead"):
        planted_checks(CPU)


def test_float32_counters_are_noticed(monkeypatch: pytest.MonkeyPatch):
    """They stand still at 2²⁴, where every further firing is lost."""
    ids = torch.zeros(2, 16, dtype=torch.int64)
    model = GPT(GPTConfig(vocab_size=29, block_size=16, n_layer=1, n_head=2, n_embd=16)).eval()

    def gained() -> int:
        with NeuronProbe(model) as watching, torch.no_grad():
            for counter, _ in watching._counters:
                counter.fired += 2**24
            for _ in range(4):
                model(ids[:1, :1])
        return int((watching.statistics()[0].fired - 2**24).max())

    assert gained() == 4
    monkeypatch.setattr(counters, "_zero_counts", lambda neurons, device: torch.zeros(neurons, device=device))
    assert gained() == 0


def test_forgetting_all_batches_but_one_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """A probe that keeps the last batch only finds the rare neuron dead."""
    count = counters.LayerCounter.count

    def forgetful(self: counters.LayerCounter, z: Tensor, h: Tensor) -> Tensor:
        self.__init__(h.size(-1), h.device)  # type: ignore[misc]
        return count(self, z, h)

    monkeypatch.setattr(counters.LayerCounter, "count", forgetful)
    assert {"verdict on a neuron of one rare token", "firings of that neuron"} <= names_of_failures()


def test_a_hook_added_after_compiling_is_noticed():
    """Hooks on the plain model do not fire in the compiled one: an error, not 100 % dead."""
    model, ids = (
        GPT(GPTConfig(vocab_size=29, block_size=16, n_layer=1, n_head=2, n_embd=16)).eval(),
        torch.zeros(2, 16, dtype=torch.int64),
    )
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(ids)
        with NeuronProbe(model, deep=True) as watching:
            compiled(ids)
    with pytest.raises(UsageError, match="saw no token"):
        watching.statistics()


def test_a_biased_rate_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """A count that loses one firing in a hundred leaves the interval where firings are many."""
    firings = counters._firings
    monkeypatch.setattr(counters, "_firings", lambda h: (firings(h) * 0.99).long())
    assert not all(check.passed for check in gaussian_checks(CPU)[:3])
