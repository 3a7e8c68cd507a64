"""Randomness as a pure function, and the windows that it draws and that evaluation covers."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt.base import randomness
from minigpt.text.batches import COPY, evaluation_batches, gather, near, token_noise, window_starts

DRAW = "window_starts(seed=1337, step=7, windows=1000, tokens=100_000, block_size=64)"
# Written down once: whoever changes the order of batches makes every earlier run unrepeatable.
DRAWN_SHA256 = "331102c6ac523b38be2f595005d63e0c190c5eaeb859c515fd6586a061b58198"
DRAWN_FIRST = (28358, 26345, 50640, 40274)


def digest(starts: torch.Tensor) -> str:
    return hashlib.sha256(starts.numpy().astype("<i8").tobytes()).hexdigest()


# Randomness


def test_keys_are_the_same_everywhere():
    """Python's `hash` is salted per process; these numbers must never change."""
    assert randomness.key(1337, "data", 0) == 4473919988170508525
    assert randomness.key(1337, "init/wte.weight") == 5575505196539952194


@given(
    st.integers(0, 2**63 - 1), st.sampled_from(["data", "dropout", "sample", "init/wte.weight"]), st.integers(0, 10**9)
)
@settings(max_examples=100, deadline=None)
def test_keys_fit_torch_and_depend_on_every_argument(seed: int, purpose: str, step: int):
    """A neighbour in seed, purpose or step must differ in the low 32 bits, all that torch's generator reads."""
    own = randomness.key(seed, purpose, step)
    assert 0 <= own < 2**63
    others = [(seed + 1, purpose, step), (seed, purpose + "x", step), (seed, purpose, step + 1)]
    assert all(randomness.key(*other) % 2**32 != own % 2**32 for other in others)


def test_keys_do_not_collide():
    """Twenty thousand keys: a chance collision of 63-bit numbers has probability 2e-11."""
    keys = {randomness.key(s, p, t) for s in range(20) for p in ("data", "dropout") for t in range(500)}
    assert len(keys) == 20 * 2 * 500


def test_generators_are_fresh_and_leave_the_global_one_alone():
    """Two requests give the same numbers; nothing global moves."""
    before = torch.get_rng_state()
    first, second = (torch.rand(5, generator=randomness.generator(1, "sample", 2)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_is_a_function_of_seed_and_step():
    """A resumed run must drop the same units as the uninterrupted one."""
    masks = []
    for seed, step in ((1, 5), (1, 5), (1, 6), (2, 5)):
        randomness.seed_dropout(seed, step)
        masks.append(torch.rand(100))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0], masks[3])


# Training windows


def test_windows_are_the_same_in_every_process():
    """Two runs, two machines, two ranks: one list of windows, whatever else was drawn before."""
    torch.manual_seed(0)
    torch.rand(17)
    np.random.seed(3)
    here = window_starts(1337, 7, 1000, 100_000, 64)
    assert here[:4].tolist() == list(DRAWN_FIRST)
    assert digest(here) == DRAWN_SHA256
    program = (
        f"import torch; torch.rand(3); from minigpt.text.batches import window_starts; import hashlib;"
        f"print(hashlib.sha256({DRAW}.numpy().astype('<i8').tobytes()).hexdigest())"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == DRAWN_SHA256


def test_windows_differ_between_steps_and_seeds():
    """Seeing the same windows at each step would be learning one batch by heart."""
    base = window_starts(1, 1, 100, 10_000, 64)
    assert not torch.equal(base, window_starts(1, 2, 100, 10_000, 64))
    assert not torch.equal(base, window_starts(2, 1, 100, 10_000, 64))


@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_windows_lie_within_the_text(extra: int, block_size: int, step: int):
    """The last target is a token of the text, and every start that fits can be drawn."""
    tokens = block_size + extra
    starts = window_starts(5, step, 2000, tokens, block_size)
    assert starts.min() >= 0
    assert starts.max() + block_size <= tokens - 1
    assert starts.unique().numel() == extra  # misses one of 40 with probability 40 · 0.975^2000 < 1e-20


def test_windows_are_uniform():
    """Each start equally often: chi-square over 100 cells of 200,000 draws."""
    from scipy import stats

    starts = torch.cat([window_starts(1, step, 2000, 1010, 10) for step in range(100)])
    counts = np.bincount(starts.numpy() // 10, minlength=100)
    assert counts.size == 100
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_windows_read_the_text_and_its_successor(dtype: type):
    """Targets are the inputs one token later, int64 whatever the ids are stored as."""
    ids = np.arange(65_500, 65_530).astype(dtype)
    inputs, targets = gather(ids, torch.tensor([0, 25]), 4)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.tolist() == [[65_500, 65_501, 65_502, 65_503], [65_525, 65_526, 65_527, 65_528]]
    assert torch.equal(targets, inputs + 1)


def test_windows_of_a_copy_of_the_tokens_are_the_same():
    """On a GPU they are read from a tensor there, with the same noise."""
    ids = np.arange(60_000, 60_500).astype(np.uint16)
    starts = window_starts(1, 1, 8, len(ids), 16)
    noise = token_noise(1, 1, 8, 16, 50, 0.3)
    for some_noise in (None, noise):
        expected = gather(ids, starts, 16, some_noise)
        copied = gather(torch.from_numpy(ids.astype(COPY)), starts, 16, some_noise)
        assert all(torch.equal(one, other) for one, other in zip(expected, copied, strict=True))


def test_tokens_go_to_a_gpu_only_where_they_take_little_room(monkeypatch: pytest.MonkeyPatch):
    """A corpus of billions of tokens stays in its file; a CPU reads the file anyway."""
    ids = np.zeros(1000, dtype=np.uint16)
    assert near(ids, torch.device("cpu")) is ids
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * 4000, 10**9))
    assert near(ids, torch.device("cuda")) is ids


# Evaluation windows


@given(st.integers(2, 200), st.integers(1, 20), st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_evaluation_predicts_every_token_once(tokens: int, block_size: int, batch_size: int):
    """All but the first, in order, each from the tokens before it in its window; the last window may be short."""
    ids = np.arange(tokens, dtype=np.uint16)
    batches = list(evaluation_batches(ids, block_size, batch_size))
    predicted = torch.cat([targets.flatten() for _, targets in batches])
    assert predicted.tolist() == list(range(1, tokens))
    for inputs, targets in batches:
        assert inputs.shape == targets.shape
        assert inputs.size(0) <= batch_size
        assert inputs.size(1) <= block_size
        assert torch.equal(inputs + 1, targets)


@given(st.integers(2, 200), st.integers(1, 20), st.integers(1, 7), st.integers(1, 300))
@settings(max_examples=100, deadline=None)
def test_a_limit_spreads_whole_windows_over_the_text(tokens: int, block_size: int, batch_size: int, limit: int):
    """No token twice, at least `limit` of them and less than a window more, or all there are."""
    ids = np.arange(tokens, dtype=np.uint16)
    batches = list(evaluation_batches(ids, block_size, batch_size, limit))
    predicted = [token for _, targets in batches for token in targets.flatten().tolist()]
    assert len(set(predicted)) == len(predicted)
    if limit >= tokens - 1:
        assert len(predicted) == tokens - 1
    else:
        assert limit <= len(predicted) < limit + block_size or len(predicted) == tokens - 1


def test_a_limit_does_not_favour_the_beginning():
    """The first windows of a text are its title page; a sample must reach its end."""
    starts = torch.cat([inputs[:, 0] for inputs, _ in evaluation_batches(np.arange(10_001), 10, 8, limit=100)])
    assert starts.tolist() == list(range(0, 10_000, 1000))


@given(st.integers(2, 500), st.integers(1, 20), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_the_two_halves_are_disjoint_and_complete(tokens: int, block_size: int, batch_size: int):
    """What a learning rate was chosen on must not be what it is judged on, and nothing may be left out."""

    def predicted(part: str) -> list[int]:
        batches = evaluation_batches(np.arange(tokens), block_size, batch_size, part=part)
        return torch.cat([targets.flatten() for _, targets in batches] or [torch.zeros(0)]).tolist()

    even, odd = predicted("even"), predicted("odd")
    assert sorted(even + odd) == list(range(1, tokens))
    assert len(even) - len(odd) in range(block_size + 1)
