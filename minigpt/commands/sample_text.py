"""`minigpt sample`: continue a prompt with a trained model, as a stream."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from minigpt.base.errors import UsageError
from minigpt.base.flags import Parser, user_path
from minigpt.commands.prompts import StopStrings, add_prompt_flags, prompt_of
from minigpt.commands.streaming import TextStream
from minigpt.training.config import DTYPES, MOST_THREADS

if TYPE_CHECKING:
    from torch import Tensor

    from minigpt.text.tokenizers import Tokenizer
    from minigpt.training.inference import OpenedRun


def add_flags(parser: Parser) -> None:
    """The run, the prompt and how to choose tokens."""
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
    parser.add_argument("--checkpoint", default="last", metavar="WHICH", help="last, best or a step [last]")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps [auto]")
    parser.add_argument("--dtype", default="auto", choices=DTYPES, help="dtype of the weights; auto: the faster [auto]")
    parser.add_argument("--compile", default="auto", choices=("auto", "on", "off"), help="auto: where it repays [auto]")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0: the fastest number [0]")


def run(values: argparse.Namespace) -> int:
    """Print the prompt and its continuation; returns 0."""
    if not 0 <= values.seed < 1 << 63:
        raise UsageError(f"seed must be 0 or a positive whole number below 2^63; got {values.seed}")
    if not 0 <= values.threads < MOST_THREADS:
        raise UsageError(f"threads must be from 0 (torch's choice) to {MOST_THREADS - 1}; got {values.threads}")
    asked = prompt_of(values)
    import torch

    from minigpt.sampling.generate import check_sampling, generate
    from minigpt.sampling.token_choice import TokenChoice
    from minigpt.training.inference import decoding_threads, open_run, resolve_decoding
    from minigpt.training.runtime import fastest_dtype, threads_of_quota

    choice = TokenChoice(values.temperature, values.top_k, values.top_p)
    check_sampling(values.max_new_tokens, values.num_samples)
    stops = [StopStrings(values.stop) for _ in range(values.num_samples)]
    opened = open_run(values.run or _newest(), values.checkpoint, values.device)
    if threads := values.threads or decoding_threads(opened.model, values.num_samples) or threads_of_quota():
        torch.set_num_threads(threads)
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
        seed=values.seed,
        dtype=dtype,
        compiled=compiled,
    )
    _print_samples(prompt, tokens, opened.tokenizer, stops)
    return 0


def _newest() -> Path:
    """The newest finished run, else the newest; which one is said."""
    from minigpt.training.run_directory import newest_finished

    directory, finished = newest_finished()
    kind = "newest finished run" if finished else "newest run; none is finished"
    print(f"note: sampling {directory}, the {kind}", file=sys.stderr)
    return directory


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
