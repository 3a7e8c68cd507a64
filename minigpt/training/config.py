"""The configuration of a run: every training flag, its default, and what it may be.

Plain data without torch, so that `--help` answers at once. A field's metadata makes its flag, its help and its check;
`config.json` is this dataclass after `resolve` in `runtime.py` has replaced each `auto` by what was chosen. The fields
of the model are those of `Architecture`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minigpt.base.errors import UsageError, did_you_mean
from minigpt.base.flags import flag
from minigpt.parts.architecture import ATTENTIONS, MEAN, Architecture, check_architecture
from minigpt.training.presets import PRESETS

OPTIMIZERS = ("adamw", "adam", "sgd", "momentum", "nesterov", "lion", "muon")
_DECAY_IN_GRADIENT = ("adam", "sgd", "momentum", "nesterov")
SCHEDULES = ("cosine", "constant", "linear", "wsd")
COSTS = ("cross-entropy", "squared-error", "binary")
MOST_THREADS = 4097
COMPILES = ("auto", "on", "graphs", "off")
DTYPES = ("auto", "float32", "bfloat16")
EVAL_PARTS = ("all", "even", "odd")
# What a resumed run may do differently: none of it changes what is learned.
FREE_ON_RESUME = frozenset({"log_every", "checkpoint_every", "tensorboard", "threads", "data_dir", "allow_data_change"})


@dataclass(frozen=True)
class TextConfig:
    """The preset, and the text to train on."""

    preset: str = flag("tiny", "preset", "starting values, which other flags override", choices=tuple(PRESETS))

    corpus: str = flag(
        "stdlib", "text", "`minigpt corpora` lists them; a .txt/.jsonl/.parquet file or folder", path=True
    )
    text_field: str | None = flag(None, "text", "field of rows that is the text; default: text, or the only one")
    tokenizer: str = flag("char", "text", "byte, char, bpe:N or gpt2")
    val_fraction: float = flag(0.1, "text", "share of the text kept for validation", at_least=0, below=1)
    test_fraction: float = flag(0.05, "text", "share of the text kept for the final test", at_least=0, below=1)
    data_dir: str = flag("data", "text", "where prepared tokens are kept", path=True)
    allow_data_change: bool = flag(False, "text", "resume although the text is not the one trained on so far")

    train_tokens: int = flag(0, "text", "train only on the first N tokens; 0: all", at_least=0, below=1 << 63)
    token_noise: float = flag(0.0, "text", "share of tokens to replace by random ones in training", at_least=0, below=1)


@dataclass(frozen=True)
class RunConfig(Architecture, TextConfig):
    """One training, completely described; `None` means that a value follows from the others.

    NOTE: a dataclass takes its bases' fields from the last base to the first: text, architecture, then these. The hash
    of a configuration depends on that order.
    """

    attention: str = flag(
        "auto", "model", "softmax, in one of two forms, or the mean of all so far", choices=("auto", *ATTENTIONS, MEAN)
    )

    init_from: str | None = flag(
        None, "start", "run whose newest weights to start from; default: random weights", path=True
    )
    init_moments: bool = flag(False, "start", "take over that run's optimizer state too")
    init_surgery: str = flag("none", "start", "which of its neurons get new weights first; as --recycle")
    init_killed: float = flag(0.0, "start", "share of each layer's neurons that are dead for ever", at_least=0, below=1)

    steps: int = flag(1000, "training", "optimizer updates", at_least=0)
    batch_size: int = flag(32, "training", "windows in one forward pass", at_least=1, below=1 << 20)
    grad_accumulation: int = flag(1, "training", "forward passes in one step", at_least=1, below=1 << 20)
    cost: str = flag("cross-entropy", "training", "what is minimised; evaluations are in nats", choices=COSTS)
    optimizer: str = flag("adamw", "training", "update rule", choices=OPTIMIZERS)
    lr: float = flag(1e-3, "training", "peak learning rate", above=0)
    min_lr: float | None = flag(None, "training", "final learning rate; default: a tenth of --lr", at_least=0)
    schedule: str = flag("cosine", "training", "rate after warm-up; wsd falls in the last fifth", choices=SCHEDULES)
    warmup_steps: int | None = flag(None, "training", "default: a tenth of --steps, at most 100", at_least=0)
    weight_decay: float = flag(0.1, "training", "decay of matrices; vectors are not decayed", at_least=0)
    decay_all: bool = flag(False, "training", "decay biases and other vectors too")
    beta1: float = flag(0.9, "training", "first-moment decay, or momentum", at_least=0, below=1)
    beta2: float = flag(0.99, "training", "second-moment decay", at_least=0, below=1)
    grad_clip: float = flag(1.0, "training", "largest gradient norm; 0: no clipping", at_least=0)
    l1: float = flag(0.0, "training", "weight of the mean |h| of all neurons in the loss", at_least=0)
    recycle: str = flag("none", "training", "which neurons get new weights: none, dead, dormant:0.025, random:8|dead")
    recycle_every: int = flag(0, "training", "steps between recyclings; 0: never", at_least=0)
    patience: int = flag(0, "training", "stop after N evaluations without improvement; 0: never", at_least=0)
    min_delta: float = flag(0.0, "training", "improvement, in nats, that patience counts", at_least=0)

    eval_every: int = flag(250, "watching", "steps between evaluations; 0: none at all", at_least=0)
    eval_tokens: int = flag(65_536, "watching", "tokens in one on the way; 0, and at the end: all", at_least=0)
    eval_part: str = flag("all", "watching", "validation windows: all, or every other one", choices=EVAL_PARTS)
    checkpoint_every: int = flag(250, "watching", "steps between checkpoints; 0: only the last", at_least=0)
    log_every: int = flag(10, "watching", "steps between train records; 0: none", at_least=0)
    tensorboard: bool = flag(False, "watching", "also write scalars and histograms for TensorBoard")

    seed: int = flag(1337, "machine", "everything random follows from it", at_least=0, below=1 << 63)
    device: str = flag("auto", "machine", "auto, cpu, cuda, cuda:N or mps")
    dtype: str = flag("auto", "machine", "auto: bfloat16 where the processor has it", choices=DTYPES)
    compile: str = flag("auto", "machine", "torch.compile; auto: where it repays", choices=COMPILES)
    threads: int = flag(0, "machine", "CPU threads; 0: torch's choice, or a quota's", at_least=0, below=MOST_THREADS)
    deterministic: bool = flag(False, "machine", "bit-exact kernels on a GPU too; slower")

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one update learns from."""
        return self.batch_size * self.grad_accumulation * self.block_size


def with_preset(asked: dict[str, Any]) -> dict[str, Any]:
    """The values that a preset starts from, overridden by those asked for; raises `UsageError` for an unknown one."""
    preset = asked.get("preset", RunConfig.preset)
    if preset not in PRESETS:
        known = ", ".join(PRESETS)
        raise UsageError(f"unknown preset {preset!r}{did_you_mean(preset, PRESETS) or ';'} allowed: {known}")
    return PRESETS[preset] | asked


def check(config: RunConfig) -> None:
    """Raise `UsageError` for the first value that its field does not allow, or that contradicts another."""
    check_architecture(config)
    if config.val_fraction + config.test_fraction >= 1:
        held_out = config.val_fraction + config.test_fraction
        raise UsageError(f"val-fraction and test-fraction leave no text to train on; got {held_out:g} in all; below 1")
    if 0 < config.train_tokens <= config.block_size:
        window = f"block-size {config.block_size} and the token after it"
        raise UsageError(f"train-tokens {config.train_tokens} is less than a window; {window} are needed; raise it")
    if config.min_lr is not None and config.min_lr > config.lr:
        raise UsageError(f"min-lr is above lr; got {config.min_lr:g} and {config.lr:g}; lower min-lr")
    if config.init_from is None and (config.init_moments or config.init_surgery != "none"):
        wanted = "init-moments" if config.init_moments else f"init-surgery {config.init_surgery}"
        raise UsageError(f"{wanted} needs a run to start from; got none; add --init-from RUN")
    if config.init_killed and config.decay_all and config.weight_decay and config.optimizer in _DECAY_IN_GRADIENT:
        got = f"init-killed {config.init_killed:g} and decay-all with {config.optimizer}"
        raise UsageError(f"such decay would carry the biases of killed neurons past 0; got {got}; use adamw")
    if (config.recycle == "none") is not (config.recycle_every == 0):
        got = f"recycle {config.recycle} and recycle-every {config.recycle_every}"
        raise UsageError(f"recycling needs both what and how often; got {got}; give both or neither")
    if config.patience and not config.eval_every:
        raise UsageError(f"patience {config.patience} needs evaluations; eval-every is 0; raise it")
