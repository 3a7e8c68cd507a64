"""What an ablation asks: grids, names, pairs, commands that ask the same again, and questions that are refused."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TINY_MODEL, Command
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt.base.flags import Parser
from minigpt.cli import main
from minigpt.commands import run_ablation
from minigpt.experiments import arms_to_cells
from minigpt.experiments.arms import AblationOptions, Question, ask, train_command, tuning_rates
from minigpt.experiments.arms_to_cells import cells_of, describe_arm, resolve_arms, tuning_cells
from minigpt.experiments.record import question_json
from minigpt.experiments.tuning import best_rate, extended
from minigpt.training import runtime
from minigpt.training.config import RunConfig

TOY = {"n_layer": 2, "n_head": 2, "n_embd": 24, "block_size": 16, "batch_size": 4, "steps": 20, "device": "cpu"}
VOCABULARY = 30


def question(activations: str = "relu,gelu", **varied: object) -> Question:
    return ask(without(varied), AblationOptions(activations=activations, seeds=3), varied)


def without(varied: dict) -> dict:
    """The toy model's flags, without those that are varied."""
    return {name: value for name, value in TOY.items() if name not in varied}


def from_command_line(words: list[str]) -> Question:
    parser = Parser("ablate", "")
    run_ablation.add_flags(parser)
    return run_ablation._question(parser.parse(words))[0]


# Grids


def test_arms_are_the_product_and_the_first_is_the_reference() -> None:
    """Every combination once, named by what was varied."""
    names = list(question(lr="1e-3,3e-3").arms())
    assert names == ["relu, lr=0.001", "relu, lr=0.003", "gelu, lr=0.001", "gelu, lr=0.003"]


def test_each_comparison_changes_one_thing() -> None:
    """A difference of two settings at once would answer no question."""
    asked = question(lr="1e-3,3e-3", bias="true,false")
    settings = {name: arm.settings for name, arm in asked.arms().items()}
    pairs = asked.pairs()
    assert len(pairs) == 3 * 4
    for arm, reference, factor in pairs:
        differing = [name for name in settings[arm] if settings[arm][name] != settings[reference][name]]
        assert differing == [factor]
        assert settings[reference][factor] == asked.factors[factor][0]


def test_all_pairs_on_request() -> None:
    """Every two arms once."""
    asked = replace(question("relu,gelu,silu"), options=AblationOptions(compare="all"))
    assert {frozenset(pair[:2]) for pair in asked.pairs()} == {
        frozenset(names) for names in (("relu", "gelu"), ("relu", "silu"), ("gelu", "silu"))
    }
    assert len(asked.pairs()) == 3


def test_values_with_commas_stand_between_semicolons() -> None:
    """By-layer specs hold commas themselves."""
    asked = question("relu;0=relu,1=gelu")
    assert asked.factors["activation"] == ("relu", "0=relu,1=gelu")
    assert question("0=relu,1=gelu;").factors["activation"] == ("0=relu,1=gelu",)


VALUES = {
    "lr": st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=3, unique=True),
    "bias": st.just([True, False]),
    "n_head": st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=3, unique=True),
    "norm": st.just(["layernorm", "rmsnorm"]),
}


@given(
    st.sampled_from(["relu,gelu", "swiglu", "relu;0=relu,1=gelu", ""]),
    st.fixed_dictionaries({}, optional=VALUES),
    st.integers(1, 9),
    st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_the_command_asks_the_same_question(activations: str, varied: dict, seeds: int, tuned: bool) -> None:
    """The command on the page is what repeats the ablation: to the last digit of every rate."""
    if (not activations and not varied) or (tuned and "lr" in varied):
        return
    asked = ask(
        {**without(varied), "weight_decay": 0.1 + 0.2}, AblationOptions(activations, seeds=seeds, tune_lr=tuned), varied
    )
    words = shlex.split(asked.command())
    assert words[:4] == ["python", "-m", "minigpt", "ablate"]
    again = from_command_line(words[4:])
    assert question_json(again)["factors"] == question_json(asked)["factors"]
    assert (again.asked, again.pairs(), again.seeds) == (asked.asked, asked.pairs(), asked.seeds)


def test_a_file_and_flags_ask_the_same(tmp_path: Path) -> None:
    """A TOML file takes every flag, and lists of values in [vary]; flags override it."""
    path = tmp_path / "grid.toml"
    path.write_text(
        'activations = "relu,gelu"\nseeds = 5\nn-layer = 2\n[vary]\nlr = [1e-3, 3e-3]\nbias = [true, false]\n'
    )
    words = "--activations relu,gelu --n-layer 2 --vary lr=1e-3,3e-3 --vary bias=true,false --seeds 4"
    assert from_command_line(["--config", str(path), "--seeds", "4"]) == from_command_line(words.split())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "nothing to compare"),
        ("--vary lr=", "no values for lr"),
        ("--activations ,", "no values for activation"),
        ("--vary leaning-rate=1,2", "unknown flag 'leaning-rate'"),
        ("--vary warmup-step=1,2", "did you mean 'warmup-steps'"),
        ("--vary lr=1e-3,fast", "'fast'; a value of type float"),
        ("--vary lr=1e-3,0.001", "twice"),
        ("--vary lr=1e-3 --vary lr=2e-3", "varied twice"),
        ("--vary lr", "needs a flag and its values"),
        ("--vary lr=1e-3,2e-3 --lr 1e-3", "both varied and fixed"),
        ("--activations relu,gelu --activation relu", "both varied and fixed"),
        ("--vary corpus=stdlib,grammar", "different text"),
        ("--vary tokenizer=char,byte", "different text"),
        ("--vary seed=1,2", "--seeds"),
        ("--vary threads=1,2", "changes nothing"),
        ("--activations relu,gelu --seeds 0", "seeds is too small"),
        ("--activations relu,gelu --margin nan", "margin is not a finite number"),
        ("--activations relu,gelu --eval-every 0", "evaluation is switched off"),
        ("--activations relu,gelu --tune-lr --vary lr=1,2", "both tuned and varied"),
        ("--activations relu,gelu --match width --d-ff 8", "chooses widths itself"),
        ("--activations relu,gelu --seeds 501", "need --yes"),
        ("--activations relu,swigul", "did you mean 'swiglu'"),
        ("--activations silu,swish", "two arms are the same"),
        ("--vary weight-decay=0.1,-1", "weight-decay is too small"),
        ("--activations relu,gelu --tune-lr --tune-rates 1e-3", "at least two positive numbers"),
        ("--vary l-r=1,2 --activations relu", "unknown flag 'l-r'"),
    ],
)
def test_bad_questions_are_refused(refused: Command, words: str, says: str) -> None:
    """One line, exit code 2, nothing on disk changed."""
    error = refused(2, f"ablate --corpus text.txt --data-dir data {TINY_MODEL} {words}" if words else "ablate")
    assert any(part in error for part in says.split("|"))


def test_a_place_that_is_taken_is_refused(refused: Command, workplace: Path) -> None:
    """Another ablation, or a run, is not overwritten by accident."""
    (workplace / "full").mkdir()
    (workplace / "full/notes.txt").write_text("mine")
    refused(2, "ablate --activations relu,gelu --out full", says=("holds no ablation",))


# Cells


def test_arms_are_alike_but_for_what_was_varied() -> None:
    """Same parameters within 1 %, same windows, and the same first weights wherever shapes agree."""
    arms = resolve_arms(question("relu,gelu,swiglu"), VOCABULARY, threads=1)
    described = [describe_arm(arm, arms[0])["fairness"] for arm in arms]
    assert all(abs(one["parameters"] / described[0]["parameters"] - 1) < 0.01 for one in described)
    assert all(one["same_windows"] for one in described)
    assert [one["same_start"].split()[0] for one in described] == ["28", "28", "22"]
    assert described[2]["d_ff"] == [64, 64]


def test_other_windows_are_not_called_the_same() -> None:
    """A larger batch sees other text at the same step."""
    arms = resolve_arms(question(batch_size="4,8"), VOCABULARY, threads=1)
    assert [describe_arm(arm, arms[0])["fairness"]["same_windows"] for arm in arms] == [True, False, True, False]


def test_widths_can_be_matched_instead() -> None:
    """--match width gives a gated arm as many neurons as the plain one, and half as many parameters again."""
    asked = ask(dict(TOY), AblationOptions("relu,swiglu", match="width"), {})
    plain, gated = resolve_arms(asked, VOCABULARY, threads=1)
    assert plain.widths == gated.widths == (96, 96)
    assert gated.parameters > 1.2 * plain.parameters


def test_arms_are_compiled_alike() -> None:
    """`--compile auto` repays for the larger model only; compiled models round differently, so all or none."""
    varied = {"n_layer": "1,24", "batch_size": "1,512"}
    asked = ask({**without(varied), "steps": 10**6, "n_embd": 64}, AblationOptions(), varied)
    assert len({arm.config.compile for arm in resolve_arms(asked, VOCABULARY, threads=1)}) == 1


@pytest.mark.parametrize(
    ("changes", "seeds", "decided"),
    [
        ({"steps": 2000}, 8, "on"),
        ({"steps": 2000}, 2, "off"),
        ({"steps": 500}, 8, "off"),
        ({"steps": 2000, "dropout": 0.1}, 8, "off"),
        ({"steps": 2000, "compile": "off"}, 8, "off"),
        ({"steps": 20, "compile": "on"}, 1, "on"),
    ],
)
def test_a_grid_is_compiled_where_that_repays(
    changes: dict, seeds: int, decided: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the number of cells of each architecture and their length, whatever the machine has of cores."""
    monkeypatch.setattr(runtime, "missing_compiler", lambda: "")
    asked = ask({"preset": "nanogpt-cpu", "device": "cpu", **changes}, AblationOptions("relu,gelu", seeds=seeds), {})
    for threads in (1, 4):
        assert {arm.config.compile for arm in resolve_arms(asked, 65, threads)} == {decided}


def test_a_grid_that_grows_keeps_its_cells(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds were trained without compiling; eight would repay it, but then the two would be trained again."""
    monkeypatch.setattr(runtime, "missing_compiler", lambda: "")
    base = {"preset": "nanogpt-cpu", "device": "cpu"}
    few, many = (ask(base, AblationOptions("relu,gelu", seeds=seeds), {}) for seeds in (2, 8))
    trained = {cell.directory for cell in cells_of(few, resolve_arms(few, 65, 1), "text")}
    assert {arm.config.compile for arm in resolve_arms(many, 65, 1, data="text")} == {"on"}
    monkeypatch.setattr(arms_to_cells, "read_result", lambda place: {} if place in trained else None)
    grown = cells_of(many, resolve_arms(many, 65, 1, data="text"), "text")
    assert trained < {cell.directory for cell in grown}


def test_evaluations_on_the_way_are_smaller_unless_asked_for() -> None:
    """The size is in every cell's configuration; a preset's and the user's own come first."""
    for asked, tokens in (({}, 32_768), ({"eval_tokens": 1000}, 1000), ({"preset": "gpt2-small"}, 1_048_576)):
        assert ask(asked, AblationOptions("relu,gelu"), {}).base["eval_tokens"] == tokens


def test_a_cell_is_named_by_what_is_learned() -> None:
    """Threads, logging and the preset's name do not make another cell; a rate, a seed or another text do."""
    asked = question()
    plain = {cell.id for cell in cells_of(asked, resolve_arms(asked, VOCABULARY, 1), "text")}
    assert len(plain) == 6
    for same in ({"log_every": 1, "threads": 2, "checkpoint_every": 5}, {"preset": "nanogpt-char"}):
        other = ask({**same, **spelled_out(asked)}, asked.options, {})
        assert {cell.id for cell in cells_of(other, resolve_arms(other, VOCABULARY, 1), "text")} == plain
    for changed in ({"lr": 2e-3}, {"weight_decay": 0.0}):
        other = ask({**TOY, **changed}, asked.options, {})
        assert not {cell.id for cell in cells_of(other, resolve_arms(other, VOCABULARY, 1), "text")} & plain
    assert not {cell.id for cell in cells_of(asked, resolve_arms(asked, VOCABULARY, 1), "other text")} & plain


def spelled_out(asked: Question) -> dict:
    """Every value of a question's configuration but its seed."""
    config = vars(RunConfig(**asked.base)) | {"min_lr": RunConfig.lr / 10, "warmup_steps": 2}
    left_out = ("preset", "activation", "log_every", "threads", "checkpoint_every", "seed")
    return {name: value for name, value in config.items() if name not in left_out and value is not None}


def test_the_command_of_a_cell_trains_it(workplace: Path) -> None:
    """The line on the page makes the same configuration, bit for bit of its hash."""
    from minigpt.commands import train_model
    from minigpt.training.run_directory import config_hash

    asked = question("relu;0=gelu,1=swiglu", lr="0.00123456789,3e-3")
    for cell in cells_of(asked, resolve_arms(asked, VOCABULARY, 1), "text"):
        words = shlex.split(train_command(cell.config))
        parser = Parser("train", "")
        train_model.add_flags(parser)
        config = runtime.resolve(RunConfig(**train_model.configured(parser.parse(words[2:]))))
        assert config_hash(config) == cell.identity["config"]


# Tuning


def test_tuning_shares_neither_seeds_nor_windows_with_judging() -> None:
    """A rate judged on what it was chosen on would look better than it is."""
    asked = ask(dict(TOY), AblationOptions("relu,gelu", seeds=8, tune_lr=True, tune_seeds=3), {})
    arms = resolve_arms(asked, VOCABULARY, 1)
    rates = {arm.name: tuning_rates(asked) for arm in arms}
    chosen, judged = tuning_cells(asked, arms, "text", rates), cells_of(asked, arms, "text", {"relu": 5e-4})
    assert len(chosen) == 3 * 2 * 4
    assert not {cell.config.seed for cell in chosen} & {cell.config.seed for cell in judged}
    assert ({cell.config.eval_part for cell in chosen}, {cell.config.eval_part for cell in judged}) == (
        {"even"},
        {"odd"},
    )
    assert {cell.config.lr for cell in judged if cell.arm == "relu"} == {5e-4}
    assert all(cell.config.min_lr == pytest.approx(cell.config.lr / 10) for cell in [*chosen, *judged])


def test_the_grid_grows_where_its_best_is_at_an_edge() -> None:
    """By the grid's own ratio, at the end that is best, until the best lies inside or the grid is long enough."""
    grid = (0.25, 0.5, 1.0)
    assert extended(grid, {0.25: 2.0, 0.5: 1.0, 1.0: 2.0}, 9) == grid
    assert extended(grid, {0.25: 0.5, 0.5: 1.0, 1.0: 2.0}, 9) == (0.125, *grid)
    assert extended(grid, {0.25: 3.0, 0.5: 2.0, 1.0: 1.0}, 9) == (*grid, 2.0)
    assert extended(grid, {0.25: 3.0, 0.5: 2.0, 1.0: 1.0}, 3) == grid


def test_a_rate_that_diverged_is_never_chosen() -> None:
    """One seed that diverged speaks against a rate whatever the others found; if all did, the lowest is left."""
    assert best_rate({1e-3: 2.0, 3e-3: math.inf}) == 1e-3
    assert best_rate({1e-3: math.inf, 3e-3: math.inf}) == 1e-3


def test_help_names_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    """The grid's flags come first, every training flag after them."""
    assert main(["ablate", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("--activations") < shown.index("--vary") < shown.index("--n-layer")
