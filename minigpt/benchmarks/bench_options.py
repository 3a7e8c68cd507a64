"""What `minigpt bench` can be asked: its parts, its flags, the programs to compare with. Plain data without torch."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from minigpt.base.errors import UsageError, did_you_mean
from minigpt.base.flags import flag

DEFAULT_PARTS = ("gemm", "train", "instrument", "decode", "start")
PARTS = (*DEFAULT_PARTS, "scaling", "parity", "ablation", "busy", "audit")
PRESET = "nanogpt-cpu"
# Every peer computes this one, so with a peer ours does too.
PEER_ACTIVATION = "gelu"
NANOGPT = "nanoGPT"
# What whole trainings of nanoGPT take, within its folder; its own preparation writes the text.
NANOGPT_RECIPE = "config/train_shakespeare_char.py"
_NANOGPT_FILES = ("train.py", NANOGPT_RECIPE, "data/shakespeare_char/train.bin")
PACKAGES = {"hf": "transformers", "x-transformers": "x-transformers"}
# What is called of a nanoGPT's model.py.
_NANOGPT_CLASSES: dict[str, tuple[str, ...]] = {
    "GPTConfig": (),
    "GPT": ("forward", "generate", "configure_optimizers"),
}


@dataclass(frozen=True)
class BenchOptions:
    """How long to measure."""

    blocks: int = flag(10, "measuring", "blocks of each program, in turn with the others", at_least=1, below=100_001)
    steps_per_block: int = flag(20, "measuring", "training steps of a block", at_least=1, below=1_000_001)
    peer_best: bool = flag(False, "measuring", "also run each peer at its best: bfloat16, fused AdamW, memory kept")
    parity_steps: int = flag(200, "measuring", "steps after which parity compares losses", at_least=1, below=1_000_001)
    ablation_blocks: int = flag(3, "measuring", "whole ablations, in turn with the others", at_least=1, below=1001)
    ablation_seeds: int = flag(8, "measuring", "models of such an ablation", at_least=1, below=1 << 16)
    quick: bool = flag(False, "measuring", "scaling: fewer points; audit: a tiny model")


@dataclass(frozen=True)
class Peer:
    """Another program: nanoGPT at `path`, or an installed package, where `path` is empty."""

    name: str
    path: str = ""


def check_parts(parts: list[str], every: bool = False) -> tuple[str, ...]:
    """The parts to run, in their order, each once; raises `UsageError` for an unknown one, or one beside `every`."""
    if every and parts:
        raise UsageError(f"--all measures every part; got {' '.join(parts)} as well; leave one of the two out")
    for part in parts:
        if part not in PARTS:
            raise UsageError(f"unknown part {part!r}{did_you_mean(part, PARTS) or ';'} allowed: {', '.join(PARTS)}")
    return PARTS if every else tuple(part for part in PARTS if part in (parts or DEFAULT_PARTS))


def check_trains(peer: Peer) -> None:
    """Raise `UsageError` if a nanoGPT lacks what its whole trainings need; nothing of it is executed."""
    for name in _NANOGPT_FILES if peer.name == NANOGPT else ():
        if not (Path(peer.path) / name).is_file():
            advice = "give a whole clone, and run `python data/shakespeare_char/prepare.py` there once"
            raise UsageError(f"whole trainings of nanoGPT need {name}; {peer.path} has none; {advice}")


def check_peer(text: str) -> Peer:
    """The peer that a value of `--peer` names; nothing of it is executed.

    Raises:
        UsageError: neither an installed package nor a folder with nanoGPT's model.
    """
    if text in PACKAGES:
        _check_installed(text)
        return Peer(text)
    folder = Path(text)
    if not folder.is_dir():
        allowed = f"hf, x-transformers or the path of a nanoGPT{did_you_mean(text, PACKAGES)}"
        raise UsageError(f"unknown peer {text!r}; there is no such folder; allowed: {allowed}")
    missing = _missing_of_nanogpt(folder / "model.py")
    if missing:
        raise UsageError(f"{text} is no nanoGPT; it lacks {missing}; give the path of a clone of karpathy/nanoGPT")
    return Peer(NANOGPT, str(folder.resolve()))


def _check_installed(name: str) -> None:
    try:
        if name == "hf":
            import transformers  # noqa: F401
        else:
            import x_transformers  # noqa: F401
    except ImportError as error:
        package = PACKAGES[name]
        raise UsageError(f"peer {name} is not installed; {error}; install it with `pip install {package}`") from error


def _missing_of_nanogpt(path: Path) -> str:
    """What of nanoGPT's interface a model.py lacks, or an empty string; the file is only parsed."""
    if not path.is_file():
        return path.name
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return f"a {path.name} that can be read"
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for name, methods in _NANOGPT_CLASSES.items():
        if name not in classes:
            return f"class {name} in {path.name}"
        defined = {node.name for node in classes[name].body if isinstance(node, ast.FunctionDef)}
        for method in methods:
            if method not in defined:
                return f"method {method} of {name} in {path.name}"
    return ""
