"""`minigpt sample`: continue a prompt with a trained model, as a stream."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from minigpt.base.errors import UsageError
from minigpt.base.flags import Parser, user_path
from minigpt.base.help_text import Introduction
from minigpt.commands.prompts import StopStrings, add_prompt_flags, asked_prompts, prompt_of
from minigpt.commands.run_flags import add_checkpoint, add_device, add_threads, check_seed, check_threads
from minigpt.commands.streaming import TextStream
from minigpt.training.config import DTYPES

if TYPE_CHECKING:
    from torch import Tensor

    from minigpt.sampling.token_choice import TokenChoice
    from minigpt.text.tokenizers import Tokenizer
    from minigpt.training.inference import OpenedRun

INTRODUCTION = Introduction(
    examples=(
        ('--prompt "The "', "continues a prompt with the newest finished run"),
        ("--interactive --temperature 0.5", "asks for prompts, and keeps to likelier tokens"),
    ),
    common=(
        *("--prompt", "--interactive", "--max-new-tokens", "--temperature", "--top-k", "--top-p", "--num-samples"),
        *("--seed", "--stop", "--checkpoint", "--device"),
    ),
)


def add_flags(parser: Parser) -> None:
    """The run, the prompt and how to choose tokens."""
    parser.introduction = INTRODUCTION
    parser.add_argument(
        "run", nargs="?", type=user_path, metavar="RUN", help="run directory [the newest finished one under runs/]"
    )
    add_prompt_flags(parser)
    parser.add_argument("--max-new-tokens", type=int, default=400, metavar="N", help="tokens to add [400]")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="X", help="0: always the likeliest [0.8]")
    parser.add_argument("--top-k", type=int, default=0, metavar="N", help="only the N likeliest tokens; 0: all [0]")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="X", help="only the likeliest of total share X [1]")
    parser.add_argument("--num-samples", type=int, default=1, metavar="N", help="samples, drawn in one batch [1]")
    parser.add_argument("--seed", type=int, default=1337, metavar="N", help="seed of the draws [1337]")
    parser.add_argument("--skip-unknown", action="store_true", help="leave out characters the model has never seen")
    add_checkpoint(parser)
    add_device(parser)
    parser.add_argument("--dtype", default="auto", choices=DTYPES, help="dtype of the weights; auto: the faster [auto]")
    parser.add_argument("--compile", default="auto", choices=("auto", "on", "off"), help="auto: where it repays [auto]")
    add_threads(parser, "the fastest number")


def run(values: argparse.Namespace) -> int:
    """Print the prompt and its continuation, or ask for prompts until there is none; returns 0."""
    check_seed(values.seed)
    check_threads(values.threads)
    asked = "" if values.interactive else prompt_of(values)
    import torch

    from minigpt.sampling.generate import check_sampling
    from minigpt.sampling.token_choice import TokenChoice
    from minigpt.training.inference import decoding_threads, open_run
    from minigpt.training.run_directory import newest_finished
    from minigpt.training.runtime import threads_of_quota

    choice = TokenChoice(values.temperature, values.top_k, values.top_p)
    check_sampling(values.max_new_tokens, values.num_samples)
    StopStrings(values.stop)  # refuses what is no text to end at
    opened = open_run(values.run or newest_finished()[0], values.checkpoint, values.device)
    _mention_run(opened, named=values.run is not None)
    if threads := values.threads or decoding_threads(opened.model, values.num_samples) or threads_of_quota():
        torch.set_num_threads(threads)
    if not values.interactive:
        _continue(opened, asked, choice, values, values.seed)
        return 0
    for number, prompt in enumerate(asked_prompts(values)):
        try:
            _continue(opened, prompt, choice, values, (values.seed + number) % (1 << 63))
        except UsageError as error:  # of this prompt alone
            print(f"error: {error}", file=sys.stderr)
    return 0


def _continue(opened: OpenedRun, asked: str, choice: TokenChoice, values: argparse.Namespace, seed: int) -> None:
    """Print one prompt and its samples, and what there is to say of them."""
    import torch

    from minigpt.sampling.generate import generate
    from minigpt.training.inference import resolve_decoding
    from minigpt.training.runtime import fastest_dtype

    prompt = _healed(_known_part(asked, opened.tokenizer, values.skip_unknown), opened.tokenizer)
    ids = torch.tensor(opened.tokenizer.encode(prompt).tolist() or opened.tokenizer.start)
    _mention_long_text(opened, len(ids), values.max_new_tokens)
    dtype, compiled = resolve_decoding(opened.model, values.dtype, values.compile, values.max_new_tokens)
    _mention_what_takes_long(dtype == torch.bfloat16 and fastest_dtype(opened.model.device) == "float32", compiled)
    tokens = generate(
        opened.model,
        ids,
        choice,
        max_new_tokens=values.max_new_tokens,
        num_samples=values.num_samples,
        seed=seed,
        dtype=dtype,
        compiled=compiled,
    )
    stops = [StopStrings(values.stop) for _ in range(values.num_samples)]
    _print_samples(prompt, tokens, opened.tokenizer, stops)


def _mention_run(opened: OpenedRun, named: bool) -> None:
    """Say what is sampled, unless the user named a run and has its last words."""
    from minigpt.training.run_directory import state_in_words

    state, step, steps = state_in_words(opened.directory), opened.checkpoint.step, opened.config.steps
    if named and state == "finished" and step == steps:
        return
    print(f"note: sampling {opened.directory}, step {step:,} of {steps:,}, {state}", file=sys.stderr)


def _known_part(prompt: str, tokenizer: Tokenizer, skip_unknown: bool) -> str:
    """The prompt without characters that the tokenizer lacks; `UsageError` names them unless they may be skipped."""
    unknown = tokenizer.unknown(prompt)
    if not unknown:
        return prompt
    names = ", ".join(repr(character) for character in unknown[:10])
    if not skip_unknown:
        raise UsageError(f"the prompt has characters never seen in training; {names}; --skip-unknown leaves them out")
    print(f"note: left out {names}: never seen in training", file=sys.stderr)
    return "".join(character for character in prompt if character not in unknown)


def _healed(prompt: str, tokenizer: Tokenizer) -> str:
    """The prompt without a last space that belongs to the next word for this tokenizer; that is said."""
    from minigpt.text.tokenizers import without_open_space

    healed = without_open_space(tokenizer, prompt)
    if healed != prompt:
        print(f"note: the prompt's last space is dropped; {tokenizer.spec} has it begin the next word", file=sys.stderr)
    return healed


def _mention_long_text(opened: OpenedRun, prompt_tokens: int, new_tokens: int) -> None:
    context = opened.config.block_size
    if prompt_tokens > context:
        print(f"note: the prompt has {prompt_tokens} tokens; the model reads the last {context}", file=sys.stderr)
    elif prompt_tokens + new_tokens > context:
        print(f"note: past {context} tokens the model goes on from the last {max(1, context // 2)}", file=sys.stderr)


def _mention_what_takes_long(emulated: bool, compiled: bool) -> None:
    from minigpt.training.terminal import EMULATION

    if emulated:
        print(f"note: {EMULATION}", file=sys.stderr)
    if compiled:
        print("note: compiling, which may take half a minute; --compile off starts at once", file=sys.stderr)


def _print_samples(prompt: str, tokens: Iterator[Tensor], tokenizer: Tokenizer, stops: list[StopStrings]) -> None:
    """Stream the first sample; print the others, drawn in the same batch, below it."""
    others: list[list[bytes]] = [[] for _ in stops[1:]]
    stream = TextStream()
    stream.write(prompt.encode("utf-8"))
    for chosen in tokens:
        first, *rest = (tokenizer.decode_bytes([token]) for token in chosen.tolist())
        stream.write(stops[0].passed(first))
        for collected, stop, piece in zip(others, stops[1:], rest, strict=True):
            collected.append(stop.passed(piece))
        if all(stop.found for stop in stops):
            break
    stream.write(stops[0].rest() + b"\n", final=True)
    for number, (collected, stop) in enumerate(zip(others, stops[1:], strict=True), start=2):
        text = b"".join(collected) + stop.rest()
        TextStream().write(f"--- sample {number}\n{prompt}".encode() + text + b"\n", final=True)
