"""Arms, and what an ablation asks of them: which settings, on how many seeds, and what must be alike to be fair.

Plain data without torch. An arm is one setting over a base that all share; every arm gets the same seeds, so that
differences can be paired. Turning arms into trainings is the work of `arms_to_cells.py`.
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

from minigpt.base.errors import UsageError, did_you_mean
from minigpt.base.flags import flag, parsed, typed
from minigpt.training.config import FREE_ON_RESUME, RunConfig, with_preset

MOST_CELLS = 1000
# In an evaluation on the way: half of what a single run takes, since an ablation judges by the last one, of all tokens.
EVAL_TOKENS = 32_768
MATCHES = ("parameters", "width", "time")
COMPARISONS = ("reference", "all")

_TEXT = frozenset({"corpus", "tokenizer", "val_fraction", "test_fraction", "eval_part", "data_dir"})
_NOT_VARIED = {
    "seed": "give --seeds N: every arm gets the same seeds",
    "preset": "vary the flags that it sets",
    "eval_every": "every arm is evaluated alike",
    "eval_tokens": "every arm is evaluated alike",
    **dict.fromkeys(sorted(_TEXT), "losses on different text cannot be compared"),
    **dict.fromkeys(sorted(FREE_ON_RESUME - _TEXT), "it changes nothing that is learned"),
}


@dataclass(frozen=True)
class Times:
    """A multiple of what the base has, for settings that must follow its scale."""

    factor: float


@dataclass(frozen=True)
class Arm:
    """One setting: flags over a base.

    start: the arm whose trained cell of the same seed this one continues from; empty for fresh weights.
    seed_offset: what is added to every seed, for an arm that differs from another one by nothing else.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    start: str = ""
    seed_offset: int = 0

    def flags(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """The base's flags, and over them the arm's own, with multiples worked out."""
        return {**base, **{name: _worked_out(name, value, base) for name, value in self.settings.items()}}


@dataclass(frozen=True)
class AblationOptions:
    """How arms are compared; what they are trained on and how is a `RunConfig`."""

    activations: str = flag("", "ablation", "activations to compare, the first is the reference: relu,gelu,swiglu")
    seeds: int = flag(8, "ablation", "seeds of each arm: --seed, --seed + 1, …", at_least=1, below=1 << 16)
    compare: str = flag("reference", "ablation", "each arm with the reference, or all pairs", choices=COMPARISONS)
    match: str = flag("parameters", "ablation", "what is made equal between activations", choices=MATCHES)
    margin: float = flag(0.01, "ablation", "smallest difference that matters, in nats", above=0)
    alpha: float = flag(0.05, "ablation", "error rate of the whole family of comparisons", above=0, below=0.5)
    tune_lr: bool = flag(False, "ablation", "first choose each arm's rate, on other seeds and other windows")
    tune_rates: str = flag("", "ablation", "rates to begin with; default: --lr times 1/4, 1/2, 1, 2")
    tune_seeds: int = flag(2, "ablation", "seeds for each rate", at_least=1, below=1 << 16)
    workers: int = flag(0, "ablation", "trainings at a time; 0: one for each core, or GPU", at_least=0, below=1 << 12)
    cohort: int = flag(1, "ablation", "models of one shape to train as one; more than 1 is for GPUs", at_least=1)
    cells_dir: str = flag("runs/cells", "ablation", "where trainings are kept, shared by all ablations", path=True)


@dataclass(frozen=True)
class VariedFlags:
    """The table `[vary]` of a configuration file: flag -> list of values."""

    vary: dict[str, Any]


@dataclass(frozen=True)
class Question:
    """An ablation: the flags asked for, the values of each factor, and how to compare."""

    asked: dict[str, Any]
    factors: dict[str, tuple[Any, ...]]
    options: AblationOptions

    @property
    def base(self) -> dict[str, Any]:
        """Flags that all arms share: the preset's, over them those asked for, and smaller evaluations on the way."""
        return {"eval_tokens": EVAL_TOKENS, **with_preset(self.asked)}

    @property
    def seeds(self) -> list[int]:
        """The seeds of every arm."""
        first = self.asked.get("seed", RunConfig.seed)
        return [first + number for number in range(self.options.seeds)]

    def arms(self) -> dict[str, Arm]:
        """Every combination of the factors' values, by name; the one of all first values comes first."""
        grid = itertools.product(*self.factors.values())
        combinations = [dict(zip(self.factors, values, strict=True)) for values in grid]
        return {_name(settings): Arm(settings) for settings in combinations}

    def pairs(self) -> list[tuple[str, str, str]]:
        """(arm, reference, factor) of every comparison; each changes one factor, unless all pairs are asked for."""
        arms = list(self.arms().items())
        if self.options.compare == "all":
            return [(a, b, _differing(one, other)) for n, (a, one) in enumerate(arms) for b, other in arms[:n]]
        return [
            (name, _name({**arm.settings, factor: values[0]}), factor)
            for factor, values in self.factors.items()
            for name, arm in arms
            if arm.settings[factor] != values[0]
        ]

    def command(self) -> str:
        """The command line that asks this question."""
        words = ["python", "-m", "minigpt", "ablate"]
        for factor, values in self.factors.items():
            key = f"{_dashed(factor)}={_joined(values)}"
            words += ["--activations", _joined(values)] if factor == "activation" else ["--vary", key]
        defaults = AblationOptions()
        for item in fields(defaults):
            value = getattr(self.options, item.name)
            if item.name == "seeds" or (item.name != "activations" and value != getattr(defaults, item.name)):
                words += [f"--{_dashed(item.name)}", written(value)]
        for name, value in self.asked.items():
            words += [f"--{_dashed(name)}", written(value)]
        return shlex.join(words)


def ask(asked: dict[str, Any], options: AblationOptions, varied: dict[str, Any]) -> Question:
    """Make a question of the flags given, the options, and the values to vary (texts, or lists from a file).

    Raises:
        UsageError: nothing to compare, an unknown flag or one that must not vary, a value twice or of a wrong type.
    """
    factors: dict[str, tuple[Any, ...]] = {}
    if options.activations:
        factors["activation"] = _values("activation", options.activations)
    for key, values in varied.items():
        name = key.replace("-", "_")
        _check_varied(key, name)
        if name in factors:
            raise UsageError(f"{key} is varied twice; got {values!r} as well; give all its values at once")
        factors[name] = _values(name, values)
    if not factors:
        raise UsageError("nothing to compare; no factor was given; give --activations A,B or --vary FLAG=A,B")
    for name in factors:
        if name in asked:
            raise UsageError(f"{_dashed(name)} is both varied and fixed at {asked[name]!r}; leave one out")
    if options.tune_lr and "lr" in factors:
        raise UsageError(f"lr is both tuned and varied; got {factors['lr']}; choose --tune-lr or --vary lr=…")
    if options.match != "parameters" and ("d_ff" in factors or "d_ff" in asked):
        raise UsageError(f"--match {options.match} chooses widths itself and d-ff was given too; leave one out")
    _check_base(with_preset(asked))
    question = Question(asked, factors, options)
    tuning_rates(question)
    return question


def check_size(question: Question, allowed: bool) -> None:
    """Raise `UsageError` for a grid so large that it may be a slip, unless that was `allowed`."""
    cells = len(question.arms()) * len(question.seeds)
    if cells > MOST_CELLS and not allowed:
        raise UsageError(f"the grid has {cells:,} cells; more than {MOST_CELLS:,} need --yes; or vary fewer values")


def tuning_rates(question: Question) -> tuple[float, ...]:
    """The learning rates that tuning begins with, rising.

    Raises:
        UsageError: not positive numbers, or fewer than two.
    """
    text = question.options.tune_rates
    if not text:
        lr = question.base.get("lr", RunConfig.lr)
        return tuple(lr * factor for factor in (0.25, 0.5, 1.0, 2.0))
    rates = sorted({parsed("tune-rates", part, float) for part in _split(text)})
    if len(rates) < 2 or not all(0 < rate < math.inf for rate in rates):
        raise UsageError(f"tune-rates needs at least two positive numbers; got {text!r}; write 3e-4,1e-3,3e-3")
    return tuple(rates)


def train_command(config: RunConfig) -> str:
    """The command line that trains one cell by itself."""
    default = RunConfig(**with_preset({"preset": config.preset}))
    words = ["python", "train.py"]
    for item in fields(config):
        value = getattr(config, item.name)
        if item.name == "preset" or (value is not None and value != getattr(default, item.name)):
            words += [f"--{_dashed(item.name)}", written(value)]
    return shlex.join(words)


def written(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)


def _check_varied(key: str, name: str) -> None:
    known = {item.name for item in fields(RunConfig)}
    if name not in known:
        hint = did_you_mean(name, known).replace("_", "-") or "; see `minigpt train --help`"
        raise UsageError(f"unknown flag {key!r} in --vary{hint}")
    if name in _NOT_VARIED:
        raise UsageError(f"{key} cannot vary between arms; {_NOT_VARIED[name]}; leave it out of --vary")


def _check_base(base: dict[str, Any]) -> None:
    if base.get("eval_every", 1) == 0 or base.get("val_fraction", 1) == 0:
        raise UsageError("an ablation compares validation losses and evaluation is switched off; leave it on")
    if base.get("tensorboard"):
        raise UsageError("--tensorboard is for single runs; an ablation has its own page; leave it out")


def _values(name: str, given: Any) -> tuple[Any, ...]:
    """The values of one factor, of the type that its flag has."""
    hint = get_type_hints(RunConfig)[name]
    what = f"a value of {_dashed(name)}"
    if isinstance(given, str):
        values = [parsed(what, part, hint) for part in _split(given)]
    elif isinstance(given, list):
        values = [typed(what, value, hint) for value in given]
    else:
        raise UsageError(f"{_dashed(name)} in [vary] is {given!r}; a list of values is needed")
    if not values:
        raise UsageError(f"no values for {_dashed(name)}; got {given!r}; write {_dashed(name)}=A,B")
    twice = [value for number, value in enumerate(values) if value in values[:number]]
    if twice:
        raise UsageError(f"{_dashed(name)} has the value {twice[0]!r} twice; give each once")
    return tuple(values)


def _split(text: str) -> list[str]:
    """Values are separated by commas, or by semicolons where they contain commas (`0-1=relu,2-3=gelu`)."""
    return [part.strip() for part in text.split(";" if ";" in text else ",") if part.strip()]


def _joined(values: Sequence[Any]) -> str:
    texts = [written(value) for value in values]
    separated = ";".join(texts) if any("," in text for text in texts) else ",".join(texts)
    return separated + ";" if len(texts) == 1 and "," in separated else separated


def _worked_out(name: str, value: Any, base: Mapping[str, Any]) -> Any:
    """A setting as a flag takes it: multiples become what they are multiples of."""
    if not isinstance(value, Times):
        return value
    if name == "d_ff":
        return max(1, round(4 * base.get("n_embd", RunConfig.n_embd) * value.factor))
    # A final rate is a multiple of the peak's: its own default follows from that.
    default = base.get("lr" if name == "min_lr" else name, RunConfig.__dataclass_fields__[name].default)
    scaled = default * value.factor
    return max(1, round(scaled)) if isinstance(default, int) else scaled


def _name(settings: Mapping[str, Any]) -> str:
    """What an arm is called after its settings; an activation speaks for itself."""
    words = [
        written(value) if name == "activation" else f"{_dashed(name)}={written(value)}"
        for name, value in settings.items()
    ]
    return ", ".join(words)


def _differing(arm: Arm, other: Arm) -> str:
    return ", ".join(name for name, value in arm.settings.items() if value != other.settings[name])


def _dashed(name: str) -> str:
    return name.replace("_", "-")
