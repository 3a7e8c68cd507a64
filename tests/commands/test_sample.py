"""`minigpt sample`: the text it streams, what decodes it, and characters that a terminal must not obey."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import tree_hash

from minigpt.base.errors import UsageError
from minigpt.commands import streaming
from minigpt.commands.streaming import TextStream
from minigpt.model import GPT, GPTConfig
from minigpt.text.tokenizers import ByteTokenizer, Tokenizer
from minigpt.training import checkpoints, run_directory, runtime
from minigpt.training.inference import decoding_threads, resolve_decoding

Capture = pytest.CaptureFixture[str]
PROJECT = Path(__file__).parents[2]


# ---------------------------------------------------------------------------------------------- sample


def test_a_sample_is_the_prompt_and_its_continuation(command) -> None:
    """As many new characters as asked for, and a line end; nothing else on stdout, and nothing on disk changes."""
    before = tree_hash(Path())
    code, output, error = command("sample runs/first --max-new-tokens 9 --prompt", "am a")
    assert (code, error) == (0, "")
    assert output.startswith("am a")
    assert len(output) == len("am a") + 9 + 1
    assert tree_hash(Path()) == before


class Recorder(io.StringIO):
    """An output that remembers what had been written at each flush."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed: list[str] = []

    def flush(self) -> None:
        self.flushed.append(self.getvalue())


def test_text_streams_token_by_token(command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt is there before the first token, and each token is flushed by itself."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", recorder := Recorder())
        assert command("sample --max-new-tokens 5 --prompt", "am a")[0] == 0
    whole = recorder.getvalue()
    assert recorder.flushed == [whole[:length] for length in (4, 5, 6, 7, 8, 9, 10)]


def test_the_seed_fixes_the_text_and_the_number_of_samples_does_not_matter(command) -> None:
    """Three samples differ; the first of them is the one that is drawn alone."""
    sample = "sample --max-new-tokens 30 --prompt a"
    alone, again, other = (command(f"{sample} --seed {seed}")[1] for seed in (1, 1, 2))
    assert alone == again != other
    three = command(f"{sample} --seed 1 --num-samples 3")[1]
    texts = [part.partition("\n")[2] if number else part for number, part in enumerate(three.split("--- sample "))]
    assert len(texts) == 3
    assert texts[0] == alone
    assert len(set(texts)) == 3
    assert all(text.startswith("a") and len(text) == 32 for text in texts)
    assert three.startswith(command(f"{sample} --seed 1 --num-samples 2")[1])


def test_temperature_zero_needs_no_seed(command) -> None:
    """Greedy, and so is --top-k 1; a top-k beyond the vocabulary is the same as none."""
    sample = "sample runs/first --max-new-tokens 30"
    greedy = command(f"{sample} --temperature 0 --seed 1")[1]
    for flags in ("--temperature 0 --seed 2", "--top-k 1", "--temperature 1e-300", "--top-p 1e-9"):
        assert command(f"{sample} {flags}")[1] == greedy
    assert command(f"{sample} --top-k 999999")[1] == command(sample)[1] != greedy


def test_how_it_is_decoded_does_not_change_the_text(command) -> None:
    """Short texts are never worth compiling; weights in bfloat16 leave greedy text of a trained model nearly alone."""
    sample = "sample runs/first --max-new-tokens 30 --temperature 0"
    code, text, error = command(sample)
    assert (code, error) == (0, "note: past 16 tokens the model goes on from the last 8\n")
    for flags in ("--compile off", "--dtype float32", "--compile=off --dtype=float32"):
        assert command(f"{sample} {flags}")[1] == text
    assert len(command(f"{sample} --dtype bfloat16")[1]) == len(text)


def test_interactive_continues_each_line(command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each prompt has the next seed; one that cannot be read is refused, and the next is asked for."""
    sample = "sample runs/first --max-new-tokens 8"
    monkeypatch.setattr(sys, "stdin", io.StringIO("am a\né\nam a\n"))
    code, output, error = command(f"{sample} --interactive")
    single = [command(f"{sample} --seed {seed} --prompt", "am a")[1] for seed in (1337, 1339)]
    assert (code, output) == (0, "".join(single))
    assert error.startswith("error: the prompt has characters never seen")
    assert command(f"{sample} --interactive --prompt a")[0] == 2


def test_compiling_without_a_compiler(command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, it is refused before anything is printed; `auto` does without."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    code, output, error = command("sample --max-new-tokens 5 --compile on")
    assert (code, output) == (2, "")
    assert "no C++ compiler" in error
    assert "--compile off" in error
    assert command("sample --max-new-tokens 5")[0] == 0


def test_bfloat16_where_it_is_emulated_is_slow_and_says_so(command, monkeypatch: pytest.MonkeyPatch) -> None:
    """It works, with a note on stderr; the default stays silent."""
    monkeypatch.setattr(runtime, "fastest_dtype", lambda device: "float32")
    code, _, error = command("sample runs/first --max-new-tokens 5 --dtype bfloat16")
    assert code == 0
    assert "no native bfloat16" in error
    assert command("sample runs/first --max-new-tokens 5")[2] == ""


@pytest.mark.parametrize(("width", "samples", "threads"), [(16, 1, 1), (16, 8, 0), (1024, 1, 0)])
def test_a_small_model_decodes_in_one_thread(width: int, samples: int, threads: int) -> None:
    """In several they would wait for each other; a large model reads its weights with all, many samples share rows."""
    model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=width))
    assert decoding_threads(model, samples) == threads


@pytest.mark.parametrize(
    ("width", "tokens", "asked", "decided"),
    [
        (16, 400, ("auto", "auto"), (torch.float32, False)),
        (16, 10**9, ("auto", "auto"), (torch.float32, True)),
        (16, 10**9, ("auto", "off"), (torch.float32, False)),
        (16, 1, ("auto", "on"), (torch.float32, True)),
        (16, 1, ("bfloat16", "on"), (torch.bfloat16, True)),
        (1024, 1, ("auto", "on"), (torch.bfloat16, True)),
        (1024, 1, ("auto", "off"), (torch.float32, False)),
        (1024, 1, ("float32", "on"), (torch.float32, True)),
    ],
)
def test_what_auto_decides(width, tokens, asked, decided, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled if the text repays it; then in bfloat16 if the weights are too large for the processor's caches."""
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/" + name)
    monkeypatch.setattr(runtime, "fastest_dtype", lambda device: "bfloat16")
    model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=width))
    assert resolve_decoding(model, *asked, tokens) == decided


def test_a_gpu_records_a_step_only_if_asked() -> None:
    """What that gains has not been measured; where there are no CUDA graphs it is refused."""

    def model_on(device: str) -> Any:
        return SimpleNamespace(
            device=torch.device(device), parameter_count=lambda: 1000, config=SimpleNamespace(n_layer=4)
        )

    assert resolve_decoding(model_on("cuda"), "auto", "auto", 10**9) == (torch.float32, False)
    assert resolve_decoding(model_on("cuda"), "auto", "on", 1) == (torch.float32, True)
    assert resolve_decoding(model_on("mps"), "auto", "auto", 10**9) == (torch.float32, False)
    with pytest.raises(UsageError, match="mps cannot"):
        resolve_decoding(model_on("mps"), "auto", "on", 1)


def test_characters_never_seen_are_named(command) -> None:
    """Exit 2, or with --skip-unknown a note and the rest of the prompt; all unknown is as good as empty."""
    code, output, error = command("sample runs/first --prompt", "am é€ a\u202e")
    assert (code, output) == (2, "")
    assert "'é', '€', '\\u202e'" in error
    assert "--skip-unknown" in error
    assert error.count("\n") == 1
    code, output, error = command("sample runs/first --max-new-tokens 3 --skip-unknown --prompt", "am é€at")
    assert code == 0
    assert output.startswith("am at")
    assert "note: left out 'é', '€'" in error
    assert command("sample --max-new-tokens 3 --skip-unknown --prompt", "é")[0] == 0
    assert command("sample --prompt", "\ud800")[0] == 2


def test_an_empty_prompt_starts_a_line(command) -> None:
    """The documented start token; nothing of it is printed."""
    code, output, _ = command("sample runs/first --max-new-tokens 5")
    assert (code, len(output)) == (0, 6)
    assert command("sample runs/first --max-new-tokens 0") == (0, "\n", "")


def test_a_prompt_longer_than_the_context_is_noted(command) -> None:
    """All of it is printed, the last 16 characters are read: what precedes them cannot matter."""
    code, output, error = command("sample runs/first --max-new-tokens 8 --prompt", "b" * 10 + "a" * 16)
    assert code == 0
    assert "the prompt has 26 tokens; the model reads the last 16" in error
    assert output.startswith("b" * 10 + "a" * 16)
    assert command("sample --max-new-tokens 8 --prompt", "a" * 16)[1] == output[10:]
    assert "past 16 tokens" in command("sample --max-new-tokens 20")[2]


def test_the_newest_run_is_the_default(command, place: Path) -> None:
    """Every command without RUN takes the one whose training was started last, by name if times are equal."""
    shutil.copytree(place / "runs/first", place / "runs/second")
    for name, moment in (("first", 2000), ("second", 1000)):
        os.utime(place / "runs" / name / "config.json", (moment, moment))
    assert "runs/first, step 12" in command("evaluate")[1].replace(os.sep, "/")
    os.utime(place / "runs/second/config.json", (3000, 3000))
    assert "runs/second, step 12" in command("evaluate")[1].replace(os.sep, "/")
    os.utime(place / "runs/first/config.json", (3000, 3000))
    assert "runs/second, step 12" in command("evaluate")[1].replace(os.sep, "/")


def test_a_checkpoint_is_chosen_by_name_or_step(command, place: Path) -> None:
    """last, best, or a step that is there; another step is refused with those that are."""
    run = place / "runs/first"
    best = checkpoints.read(checkpoints.directory_of(run, 12)).progress["best_step"]
    for which, step in (("last", 12), ("best", best), ("8", 8), ("12", 12)):
        code, output, _ = command(f"evaluate --json --checkpoint {which}")
        assert (code, json.loads(output)["step"]) == (0, step)
    code, _, error = command("sample --checkpoint 5")
    assert code == 4
    assert "no checkpoint of step 5" in error
    assert "8, 12" in error
    assert command("sample --checkpoint 8")[1] != command("sample --checkpoint 12")[1]


def test_a_damaged_last_checkpoint_is_passed_over_unless_asked_for(command, place: Path) -> None:
    """`last` warns and takes the one before; the step itself is refused."""
    damaged = checkpoints.directory_of(place / "runs/first", 12) / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x7f")
    code, output, error = command("evaluate --json")
    assert (code, json.loads(output)["step"]) == (0, 8)
    assert "warning" in error
    assert command("sample --checkpoint 12")[0] == 4


def test_a_run_without_a_checkpoint_says_so(command, place: Path) -> None:
    """A training that has only begun is no error of the user: exit 4 and "wait"."""
    shutil.rmtree(place / "runs/first/checkpoints")
    for name in ("sample", "evaluate"):
        code, output, error = command(name)
        assert (code, output) == (4, "")
        assert "has no checkpoint yet" in error


def test_a_directory_that_is_no_run_is_refused(command, place: Path) -> None:
    """So is a file, and a tokenizer of another text beside the weights."""
    for name in ("sample", "evaluate", "verify"):
        for target in ("data", "text.txt", "nowhere"):
            code, output, error = command(f"{name} {target}")
            assert (code, output) == (4, "")
            assert f"no run at {target}" in error
    tokenizer = place / "runs/first/tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("a", "\u2126", 1))
    assert command("sample")[0] == 4


# ---------------------------------------------------------------------------------------------- characters


class Generated(ByteTokenizer):
    """Bytes that a model is made to say, whatever its weights."""

    def __init__(self, said: bytes) -> None:
        super().__init__()
        self.said = list(said)

    def decode_bytes(self, ids) -> bytes:  # type: ignore[no-untyped-def]
        return bytes(self.said.pop(0) for _ in ids)

    def unknown(self, text: str) -> list[str]:
        return []

    def encode(self, text: str):  # type: ignore[no-untyped-def]
        return super().encode("\n")[:0]


@pytest.mark.parametrize("terminal", [True, False])
def test_characters_in_parts_come_out_whole_and_controls_only_into_a_pipe(
    command, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    """Of 4 bytes of an emoji each is a token: no U+FFFD appears; an escape sequence reaches a pipe, not a terminal."""
    said = "é🙂\x1b[31m\u202e!".encode()
    tokenizer: Tokenizer = Generated(said)
    monkeypatch.setattr("minigpt.training.inference.run_directory.read_run_tokenizer", lambda run: stand_in)
    stand_in = run_directory.load_tokenizer(json.loads(Path("runs/first/tokenizer.json").read_text()), "tokenizer")
    monkeypatch.setattr(stand_in, "decode_bytes", tokenizer.decode_bytes, raising=False)
    monkeypatch.setattr(streaming.sys.stdout, "isatty", lambda: terminal, raising=False)
    code, output, _ = command(f"sample --max-new-tokens {len(said)}")
    assert code == 0
    assert output == ("é🙂\\x1b[31m\\u202e!\n" if terminal else "é🙂\x1b[31m\u202e!\n")


def test_a_line_end_in_parts_is_a_line_end(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A carriage return waits for the line feed; alone it would command the terminal."""
    monkeypatch.setattr(streaming.sys.stdout, "isatty", lambda: True, raising=False)
    stream = TextStream()
    for part in (b"a\r", b"\nb\r", b"c\r"):
        stream.write(part)
    stream.write(b"", final=True)
    assert capsys.readouterr().out == "a\nb\\rc\\r"


def test_a_character_cut_short_becomes_a_replacement(capsys: Capture) -> None:
    """At the end of a text half a character cannot wait any longer."""
    stream = TextStream()
    stream.write("ab🙂".encode()[:-1])
    stream.write(b"\n", final=True)
    assert capsys.readouterr().out == "ab\ufffd\n"


@pytest.mark.skipif(os.name == "nt", reason="a closed pipe is another error there")
def test_a_closed_pipe_ends_quietly(place: Path) -> None:
    """`sample | head -c 100` of an endless text: the reader leaves, and nobody complains."""
    program = "import sys; from minigpt.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", program, "sample", "runs/first", "--max-new-tokens", "999999999", "--compile", "off"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(100)) == 100
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert process.stderr.read().decode().startswith("note: past 16 tokens")
