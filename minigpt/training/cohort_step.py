"""One training step of several models of one shape, computed as one.

All weights are rows of one matrix (K,P), and so are gradients and Adam's moments; each model's own parameters and
memories are views of its row. So whoever evaluates, saves or operates on one of the models needs to know nothing of
this. `vmap` runs the model's own forward pass over the rows. Nothing mixes rows: what is not finite in one stays there.

Windows, loss, clipping, rate, decay and moments are individual. The results are those of `step.py` within rounding.
`cohort_shape.py` says which configurations may share a cohort. K is the number of models, P of a model's parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from minigpt.base.errors import DivergedError
from minigpt.neurons.life import LayerGradients, layer_gradients
from minigpt.parts.recorded import Recorded
from minigpt.text.batches import gather, window_starts
from minigpt.training.interventions import replaced_tokens
from minigpt.training.optimizers import MATRICES_FROM
from minigpt.training.ranks import ALONE
from minigpt.training.runtime import autocast, compiled
from minigpt.training.schedules import learning_rate
from minigpt.training.step import StepResult, Trainee, divergence
from minigpt.training.update_rules import adam_rows

# What is updated as one matrix, and whether its decay is decoupled; other rules update one model after the other.
ADAM = {"adamw": True, "adam": False}
MOMENTS = ("exp_avg", "exp_avg_sq")


class SomeDivergedError(DivergedError):
    """Some models' loss or gradient is not finite, and none was updated; `reasons` by their numbers in the cohort."""

    def __init__(self, reasons: dict[int, str]) -> None:
        super().__init__("; ".join(reasons.values()))
        self.reasons = reasons


class Cohort:
    """Trainees that are trained as one from now on; their parameters and memories move into common matrices."""

    def __init__(self, trainees: Sequence[Trainee]) -> None:
        self.trainees = trainees
        first = trainees[0]
        named = dict(first.model.named_parameters())
        decay_all = first.config.decay_all
        # Those that decay come first, as one piece of every row.
        self._names = sorted(named, key=lambda name: named[name].dim() < MATRICES_FROM and not decay_all)
        self._shapes = [named[name].shape for name in self._names]
        self._decaying = sum(p.numel() for p in named.values() if p.dim() >= MATRICES_FROM or decay_all)
        self._device = first.model.device
        self._weights = self._move_parameters()
        self._leaves = [piece.detach().requires_grad_() for piece in self._pieces(self._weights)]
        self._moments = self._move_moments() if first.config.optimizer in ADAM else None
        how = "on" if first.config.compile == "graphs" else first.config.compile  # recorded as a graph anyway
        self._forward = compiled(self._forward_as_one, how, self._device)
        self._adam = compiled(adam_rows, how, self._device)
        self._differentiate = self._recorded() if self._device.type == "cuda" else self._differentiated

    def take_step(
        self, steps: Sequence[int], between_batches: Callable[[], None] = lambda: None, watch_neurons: bool = False
    ) -> list[StepResult]:
        """Update every model, each of which has made its own number of updates; `between_batches` may raise to stop.

        Raises:
            SomeDivergedError: what happened to the models that diverged; all are as before the step.
        """
        configs = [trainee.config for trainee in self.trainees]
        rates = [learning_rate(config, step) for config, step in zip(configs, steps, strict=True)]
        losses, gradients = self._losses_and_gradients(steps, between_batches)  # (K,), (K,P)
        norms, found = torch.stack([torch.linalg.vector_norm(gradients, dim=1), losses]).tolist()
        self._stop_diverged(steps, gradients, found, norms)
        evidence = self._read_gradients(gradients) if watch_neurons else [None] * len(configs)
        clips = [config.grad_clip for config in configs]
        scales = [clip / norm if clip and norm > clip else 1.0 for clip, norm in zip(clips, norms, strict=True)]
        gradients *= self._column(scales)
        self._update(gradients, rates)
        return [StepResult(*row) for row in zip(found, norms, rates, evidence, strict=True)]

    def _losses_and_gradients(self, steps: Sequence[int], between_batches: Callable[[], None]) -> tuple[Tensor, Tensor]:
        """Each model's mean loss (K,) on the windows of its step, and the gradients of all (K,P)."""
        ids, config = self.trainees[0].ids, self.trainees[0].config
        starts = self._window_starts(steps).view(len(steps), config.grad_accumulation, -1)  # (K,A,B)
        losses = torch.zeros(len(steps), device=self._device)
        gradients = torch.zeros_like(self._weights)
        for micro_starts, noise in zip(starts.unbind(1), self._noise(steps), strict=False):
            between_batches()
            windows = gather(ids, micro_starts.flatten(), config.block_size, noise)
            inputs, targets = (part.to(self._device).view(len(steps), -1, config.block_size) for part in windows)
            for total, share in zip((losses, gradients), self._differentiate(inputs, targets), strict=True):
                total += share / config.grad_accumulation
        return losses, gradients

    def _recorded(self) -> Recorded[tuple[Tensor, Tensor]]:
        """What computes losses and gradients, as one CUDA graph that is launched as a whole."""
        config = self.trainees[0].config
        shape = (len(self.trainees), config.batch_size, config.block_size)
        windows = torch.zeros(shape, dtype=torch.int64, device=self._device)
        return Recorded(self._differentiated, windows, windows)

    def _differentiated(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean losses (K,) on windows (K,B,T), and their gradients (K,P)."""
        with autocast(self._device, self.trainees[0].config.dtype):
            logits = self._forward(self._leaves, inputs)  # (K,B,T,V)
        losses = F.cross_entropy(logits.float().flatten(0, 2), targets.flatten(), reduction="none")
        means = losses.view(len(inputs), -1).mean(dim=1)  # (K,)
        return means.detach(), _rows(torch.autograd.grad(means.sum(), self._leaves))

    def _forward_as_one(self, leaves: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """Each model's logits (K,B,T,V) for its windows (K,B,T)."""
        model = self.trainees[0].model

        def forward(parameters: dict[str, Tensor], ids: Tensor) -> Tensor:
            logits: Tensor = functional_call(model, parameters, (ids,))
            return logits

        # NOTE: the fused kernels take one model at a time, or refuse what vmap makes of their gradients.
        with sdpa_kernel(SDPBackend.MATH):
            logits: Tensor = torch.vmap(forward)(dict(zip(self._names, leaves, strict=True)), inputs)
        return logits

    def _window_starts(self, steps: Sequence[int]) -> Tensor:
        """Where each model's windows of its step begin, (K,W)."""
        config, tokens = self.trainees[0].config, len(self.trainees[0].ids)
        windows = config.batch_size * config.grad_accumulation
        seeds = [trainee.config.seed for trainee in self.trainees]
        return torch.stack(
            [
                window_starts(seed, step, windows, tokens, config.block_size)
                for seed, step in zip(seeds, steps, strict=True)
            ]
        )

    def _noise(self, steps: Sequence[int]) -> Iterable[Tensor | None]:
        """What replaces the tokens of each micro-batch of all models (K·B,T+1); None: they stay."""
        vocab_size = self.trainees[0].model.config.vocab_size
        each = [
            replaced_tokens(trainee.config, vocab_size, step, ALONE)
            for trainee, step in zip(self.trainees, steps, strict=True)
        ]
        for batch in zip(*each, strict=True):
            parts = [noise for noise in batch if noise is not None]
            yield torch.cat(parts) if parts else None

    def _stop_diverged(self, steps: Sequence[int], gradients: Tensor, losses: list[float], norms: list[float]) -> None:
        reasons = {}
        for number, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                trainee, starts = self.trainees[number], self._window_starts(steps)[number]
                self._show_gradients(number, gradients)
                reasons[number] = divergence(trainee, steps[number], starts, loss, norm)
        if reasons:
            raise SomeDivergedError(reasons)

    def _read_gradients(self, gradients: Tensor) -> list[list[LayerGradients | None]]:
        """What each model's gradients tell of its neurons, before anything scales them."""
        found = dict(zip(self._names, self._pieces(gradients), strict=True))
        layers = [
            layer_gradients(
                found[f"blocks.{layer}.mlp.w_out.weight"],
                found[f"blocks.{layer}.mlp.w_in.weight"],
                block.mlp.act.branches,
            )
            for layer, block in enumerate(self.trainees[0].model.blocks)
        ]
        return [list(of_model) for of_model in zip(*layers, strict=True)]

    @torch.no_grad()
    def _update(self, gradients: Tensor, rates: list[float]) -> None:
        if self._moments is None:
            for number, (trainee, rate) in enumerate(zip(self.trainees, rates, strict=True)):
                self._show_gradients(number, gradients)
                trainee.optimizer.step(rate)
            return
        counts, means, squares = self._moments
        configs = [trainee.config for trainee in self.trainees]
        self._adam(
            self._weights,
            gradients,
            means,
            squares,
            counts[:, :1] + 1,
            self._column(rates),
            self._column([config.beta1 for config in configs]),
            self._column([config.beta2 for config in configs]),
            self._column([config.weight_decay for config in configs]),
            self._decaying,
            ADAM[configs[0].optimizer],
        )
        counts += 1  # not before: a stop while the update is compiled leaves all as it was

    def _show_gradients(self, number: int, gradients: Tensor) -> None:
        """Let a model's parameters have their gradients, as those who read them there expect."""
        for name, piece in zip(self._names, self._pieces(gradients), strict=True):
            self.trainees[number].model.get_parameter(name).grad = piece[number]

    def _move_parameters(self) -> Tensor:
        """Put all parameters into one matrix (K,P), and let each model's own be views of its row."""
        parameters = [[trainee.model.get_parameter(name) for name in self._names] for trainee in self.trainees]
        weights = torch.stack([torch.cat([p.detach().flatten() for p in row]) for row in parameters])
        for number, row in enumerate(parameters):
            for parameter, piece in zip(row, self._pieces(weights), strict=True):
                parameter.data = piece[number]
        return weights

    def _move_moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Adam's counts of updates (K, number of tensors) and moments, each (K,P), of which memories become views."""
        counts = torch.zeros(len(self.trainees), len(self._names), device=self._device)
        means, squares = (torch.zeros_like(self._weights) for _ in MOMENTS)
        columns = [counts.unbind(1), *(self._pieces(moment) for moment in (means, squares))]
        for number, trainee in enumerate(self.trainees):
            for name, *places in zip(self._names, *columns, strict=True):
                memory = trainee.optimizer.memories.setdefault(trainee.model.get_parameter(name), {})
                for key, place in zip(("step", *MOMENTS), places, strict=True):
                    if key in memory:
                        place[number].copy_(memory[key])
                    memory[key] = place[number]
        return counts, means, squares

    def _pieces(self, rows: Tensor) -> list[Tensor]:
        """Views of all models' parameters, or what is kept of them, (K,…) in the order of names: rows (K,P)."""
        sizes = [shape.numel() for shape in self._shapes]
        pieces = torch.split(rows, sizes, dim=1)
        return [piece.view(len(rows), *shape) for piece, shape in zip(pieces, self._shapes, strict=True)]

    def _column(self, values: list[float]) -> Tensor:
        """One number for each model, (K,1)."""
        return torch.tensor(values, device=self._device)[:, None]


def _rows(pieces: Sequence[Tensor]) -> Tensor:
    """The inverse of taking pieces: (K,P)."""
    return torch.cat([piece.reshape(len(piece), -1) for piece in pieces], dim=1)
