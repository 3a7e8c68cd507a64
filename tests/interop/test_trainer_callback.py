"""The callback of Hugging Face's Trainer: exact counts of evaluation batches alone; figures that arrive everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_architectures import tiny
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from minigpt.base.errors import UsageError
from minigpt.interop.trainer_callback import DeadNeuronCallback

PLANTED = 6  # dead neurons of 48 in the first layer


class Logged(TrainerCallback):
    """What a reporter such as TensorBoard is given."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **more: Any) -> None:
        self.logs.append(dict(logs))


def opt(dead: int = PLANTED) -> nn.Module:
    """A small OPT, some neurons of whose first layer never fire."""
    model = tiny("opt")
    with torch.no_grad():
        model.model.decoder.layers[0].fc1.bias[:dead] = -1e4
    return model


def rows(count: int = 6, padded: bool = True, time: int = 12) -> list[dict[str, Tensor]]:
    """Sequences of two to four tokens, padded on the right, or of twelve."""
    ids = torch.randint(3, 99, (count, time), generator=torch.Generator().manual_seed(2))
    lengths = torch.arange(count) % 3 + 2 if padded else torch.full((count,), time)
    mask = (torch.arange(time) < lengths[:, None]).long()
    labels = torch.where(mask.bool(), ids, -100)
    return [{"input_ids": i, "attention_mask": m, "labels": t} for i, m, t in zip(ids, mask, labels, strict=True)]


def trainer(place: Path, model: nn.Module, *callbacks: Any, rows_: Any = None, **settings: Any) -> Trainer:
    arguments: dict[str, Any] = {
        "output_dir": str(place), "max_steps": 4, "eval_steps": 2, "eval_strategy": "steps", "save_strategy": "steps",
        "save_steps": 4, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 4, "use_cpu": True,
        "report_to": "none", "disable_tqdm": True, "learning_rate": 1e-3, "dataloader_pin_memory": False, "seed": 1,
    }  # fmt: skip
    data = rows() if rows_ is None else rows_
    return Trainer(
        model,
        TrainingArguments(**arguments | settings),
        train_dataset=data,
        eval_dataset=data,
        callbacks=list(callbacks),
    )


def brute_force(model: nn.Module, data: list[dict[str, Tensor]], with_padding: bool = False) -> list[float]:
    """The dead share of each layer, token by token."""
    fired = [torch.zeros(48, dtype=torch.bool) for _ in range(2)]
    for layer, block in enumerate(model.model.decoder.layers):
        block.fc2.register_forward_pre_hook(lambda _, inputs, layer=layer: seen.append((layer, inputs[0].clone())))
    with torch.no_grad():
        for row in data:
            seen: list[tuple[int, Tensor]] = []
            model(input_ids=row["input_ids"][None], attention_mask=row["attention_mask"][None])
            for layer, hidden in seen:
                for token in range(len(row["input_ids"]) if with_padding else int(row["attention_mask"].sum())):
                    fired[layer] |= hidden.reshape(-1, 48)[token] != 0
    return [1 - layer.double().mean().item() for layer in fired]


def test_figures_arrive_in_metrics_logs_and_the_state_on_disk(tmp_path: Path):
    """`evaluate` logs before `on_evaluate`: figures that only the metrics got would miss TensorBoard and the file."""
    logged = Logged()
    training = trainer(tmp_path, opt(), logged, DeadNeuronCallback())
    training.train()
    state = json.loads((tmp_path / "checkpoint-4/trainer_state.json").read_text())
    for entries in (training.state.log_history, state["log_history"]):
        found = [entry for entry in entries if "eval_dead_fraction" in entry]
        assert [entry["step"] for entry in found] == [2, 4]
        assert found[0]["eval_dead_fraction_layer_0"] >= PLANTED / 48
    assert sum("eval_dead_fraction" in logs for logs in logged.logs) == 2
    metrics = training.evaluate()
    assert {"eval_loss", "eval_dead_fraction", "eval_inert_fraction", "eval_dead_fraction_layer_1"} <= metrics.keys()


def test_counts_are_those_of_a_loop_over_tokens(tmp_path: Path):
    """Padding does not count, and neither do forward passes that are no evaluation."""
    model = opt()
    training = trainer(tmp_path, model, DeadNeuronCallback())
    other = [{**row, "input_ids": row["input_ids"].flip(0)} for row in rows()]
    training.predict(other)
    model(input_ids=other[0]["input_ids"][None])
    found = training.evaluate()
    expected = brute_force(model, rows())
    assert [found[f"eval_dead_fraction_layer_{layer}"] for layer in range(2)] == pytest.approx(expected, abs=1e-12)
    assert found["eval_dead_fraction"] == pytest.approx(sum(expected) / 2)
    assert expected[0] >= PLANTED / 48


def test_padding_would_show():
    """The comparison above can fail: with padding, other neurons fire."""
    without, with_padding = brute_force(opt(), rows()), brute_force(opt(), rows(), with_padding=True)
    assert without > with_padding


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_is_left_as_it_was(tmp_path: Path, checkpointing: bool):
    """A callback that watches must not change a bit, and with gradient checkpointing hooks would fire twice."""
    weights = []
    for callbacks in ([], [DeadNeuronCallback()]):
        model = opt()
        if checkpointing:
            model.gradient_checkpointing_enable()
        trainer(tmp_path, model, *callbacks).train()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(*weights)


def test_a_dying_layer_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A curve has to be looked at; a line says which layer, how much of it, and not again while nothing changes."""
    model = opt(dead=0)
    training = trainer(tmp_path, model, DeadNeuronCallback())
    training.evaluate()
    with torch.no_grad():
        model.model.decoder.layers[1].fc1.bias[:24] = -1e4
    training.evaluate()
    training.evaluate()
    lines = [line for line in capsys.readouterr().err.splitlines() if "dying" in line]
    assert len(lines) == 1
    assert lines[0].startswith("layer 1 is dying: ")
    assert "on 18 tokens" in lines[0]


def test_several_evaluation_sets_keep_their_names(tmp_path: Path):
    """Figures of two texts must not overwrite each other."""
    training = trainer(tmp_path, opt(), DeadNeuronCallback())
    training.eval_dataset = {"one": rows(), "two": rows(2)}
    assert {"eval_one_dead_fraction", "eval_two_dead_fraction"} <= training.evaluate().keys()


def test_experts_are_counted(tmp_path: Path):
    """Packed experts run in one fused product by default, which no hook sees: they would all look unused."""
    data = rows(padded=False)
    callback = DeadNeuronCallback()
    found = trainer(tmp_path, tiny("mixtral"), callback, rows_=data).evaluate()
    assert len(callback._counts._sites) == 2 * 4
    assert found["eval_dead_fraction"] < 0.5
    assert 0 <= found["eval_inert_fraction"] < 1


def test_experts_ignore_padding(tmp_path: Path):
    """What the padding would wake stays dead: the figures are those of the rows without it, one at a time."""
    short = [{name: value[: int(row["attention_mask"].sum())] for name, value in row.items()} for row in rows()]
    found = trainer(tmp_path, tiny("mixtral"), DeadNeuronCallback()).evaluate()
    alone = trainer(
        tmp_path, tiny("mixtral"), DeadNeuronCallback(), rows_=short, per_device_eval_batch_size=1
    ).evaluate()
    for name in ("eval_dead_fraction", "eval_dead_fraction_layer_0", "eval_inert_fraction"):
        assert found[name] == pytest.approx(alone[name], abs=1e-12)


def test_compiled_models_are_refused(tmp_path: Path):
    """Hooks never fire there, and zeros would read as 100 % dead."""
    model = opt()
    model.compile(backend="eager")
    with pytest.raises(UsageError, match="hooks never fire in a compiled model"):
        trainer(tmp_path, model, DeadNeuronCallback())
    with pytest.raises(UsageError, match="torch_compile is on"):
        trainer(tmp_path, opt(), DeadNeuronCallback(), torch_compile=True)


def test_a_callback_that_comes_too_late_says_so(tmp_path: Path):
    """Part of an evaluation must not pass for the whole."""
    training = trainer(tmp_path, opt())
    training.add_callback(DeadNeuronCallback())
    with pytest.raises(UsageError, match="came too late"):
        training.evaluate()
    training.train()
    assert any("eval_dead_fraction" in entry for entry in training.state.log_history)
