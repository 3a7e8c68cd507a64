"""What of its text a training sees: the beginning only, or some tokens replaced; validation is untouched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_RUN, Command
from hypothesis import given, settings
from hypothesis import strategies as st
from run_files import final_hash, records
from scipy import stats
from small_models import CONFIG, IDS, small_model, weights

from minigpt.text.batches import gather, token_noise
from minigpt.text.preparation import prepare_text
from minigpt.training import run_directory, step
from minigpt.training.config import RunConfig
from minigpt.training.optimizers import build_optimizer
from minigpt.training.step import Trainee, take_step

# The beginning only


def test_trains_on_the_first_tokens_only(minigpt: Command, workplace: Path, haste: None) -> None:
    """What comes after them has no influence on the weights, and all of the validation text is still used."""
    text = Path("text.txt").read_text()
    flags = f"{TINY_RUN} --train-tokens 5000 --eval-every 0 --tokenizer byte"
    assert minigpt(f"train {flags} --out run") == 0
    assert minigpt(f"train {flags} --train-tokens 0 --out all") == 0
    Path("text.txt").write_text(text[:5000] + text[5000:16_000][::-1] + text[16_000:])
    assert minigpt(f"train {flags} --out other-end") == 0
    assert final_hash(Path("run")) == final_hash(Path("other-end")) != final_hash(Path("all"))


def test_validation_keeps_its_size(minigpt: Command, workplace: Path, haste: None) -> None:
    """Fewer tokens to train on are no fewer to be judged on."""
    for out, tokens in (("few", 100), ("all", 0)):
        assert minigpt(f"train {TINY_RUN} --steps 1 --train-tokens {tokens} --out {out}") == 0
    assert records(Path("few"), "eval")[-1]["tokens"] == records(Path("all"), "eval")[-1]["tokens"] > 1000


@pytest.mark.parametrize(
    ("tokens", "code", "says"),
    [
        (16, 2, ("train-tokens 16 is less than a window", "block-size 16")),
        (100_000, 3, ("train-tokens 100,000 is more than there are",)),
    ],
)
def test_refuses_too_few_and_too_many(refused, minigpt: Command, tokens: int, code: int, says) -> None:
    """Less than a window cannot be trained on; more than there is would claim what did not happen."""
    assert minigpt(f"train {TINY_RUN} --steps 1 --out first") == 0
    refused(code, f"train {TINY_RUN} --train-tokens {tokens} --out run", says=says)


# Replaced tokens


@given(share=st.floats(0.05, 0.9), seed=st.integers(0, 1000), update=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_noise_replaces_the_share_it_names_by_any_token_alike(share: float, seed: int, update: int) -> None:
    """A binomial number of places, and uniform tokens there; the same again for the same step."""
    noise = token_noise(seed, update, 64, 15, 20, share)
    assert noise.shape == (64, 16)
    replaced = noise[noise >= 0]
    assert stats.binomtest(len(replaced), noise.numel(), share).pvalue > 1e-6
    assert stats.chisquare(np.bincount(replaced.numpy(), minlength=20)).pvalue > 1e-6
    assert torch.equal(noise, token_noise(seed, update, 64, 15, 20, share))
    assert not torch.equal(noise, token_noise(seed, update + 1, 64, 15, 20, share))


def test_a_replaced_token_is_the_same_as_input_and_as_target() -> None:
    """Noise is in the text, not between a token and itself; where there is none, the text is untouched."""
    starts = torch.tensor([3, 500])
    noise = token_noise(1, 0, 2, 10, 23, 0.5)
    clean, (inputs, targets) = gather(IDS, starts, 10)[0], gather(IDS, starts, 10, noise)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    kept = noise[:, :-1] < 0
    assert torch.equal(inputs[kept], clean[kept])
    assert torch.equal(inputs[~kept], noise[:, :-1][~kept])


def test_noise_does_not_depend_on_how_a_step_is_cut_into_batches() -> None:
    """Two batches of four windows see what one of eight sees."""
    results = []
    for cut in ({"batch_size": 8}, {"batch_size": 4, "grad_accumulation": 2}):
        model, config = small_model(), replace(CONFIG, token_noise=0.3, optimizer="sgd", **cut)
        take_step(Trainee(model, model, build_optimizer(model, config), IDS, config), 5)
        results.append(torch.cat([value.flatten() for value in weights(model)]))
    assert torch.allclose(*results, atol=1e-6)
    model = small_model()
    take_step(Trainee(model, model, build_optimizer(model, CONFIG), IDS, replace(CONFIG, optimizer="sgd")), 5)
    assert not torch.allclose(results[0], torch.cat([value.flatten() for value in weights(model)]), atol=1e-4)


def test_every_training_batch_and_no_validation_token_is_noisy(
    minigpt: Command, workplace: Path, haste: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reaches the model in a run is counted; an untrained model's validation loss is that without noise."""
    seen, original = [], step._accumulate_gradient

    def spy(trainee, inputs, *others, **options):  # type: ignore[no-untyped-def]
        seen.append(inputs)
        return original(trainee, inputs, *others, **options)

    monkeypatch.setattr(step, "_accumulate_gradient", spy)
    for out, share in (("noisy", 0.9), ("clean", 0.0)):
        assert minigpt(f"train {TINY_RUN} --token-noise {share} --out {out}") == 0
    noisy, clean = torch.stack(seen[:12]), torch.stack(seen[12:])
    vocab_size = 1 + int(max(prepare_text(run_directory.read_config(Path("noisy"))).tokens("train")))
    different = (noisy != clean).double().mean().item()
    assert different == pytest.approx(0.9 * (1 - 1 / vocab_size), abs=0.04)
    first, second = (records(Path(out), "eval")[0] for out in ("noisy", "clean"))
    assert first == second


def test_the_text_of_a_run_is_part_of_what_it_is() -> None:
    """Runs that see other text have other names."""
    plain = RunConfig()
    changes = ({"train_tokens": 1000}, {"token_noise": 0.1}, {"decay_all": True}, {"init_bias": -1.0})
    hashes = {run_directory.config_hash(replace(plain, **change)) for change in ({}, *changes)}
    assert len(hashes) == 5
