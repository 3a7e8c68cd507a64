"""A miniature GPT laboratory: any activation in the MLP, dead neurons beside perplexity.

The names in `__all__` are the library (docs/library.md). Each is imported when it is first used, so `import minigpt`
does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from minigpt.base import version

if TYPE_CHECKING:
    from minigpt.interop.audit import audit
    from minigpt.interop.export_hf import export_hf
    from minigpt.interop.trainer_callback import DeadNeuronCallback
    from minigpt.model import GPT, GPTConfig
    from minigpt.neurons.find_mlps import find_mlps
    from minigpt.neurons.health import LayerHealth
    from minigpt.neurons.probe import NeuronProbe
    from minigpt.training.config import RunConfig
    from minigpt.training.library import generate, load_run, train

__all__ = [
    "GPT",
    "DeadNeuronCallback",
    "GPTConfig",
    "LayerHealth",
    "NeuronProbe",
    "RunConfig",
    "__version__",
    "audit",
    "export_hf",
    "find_mlps",
    "generate",
    "load_run",
    "train",
]

__version__ = version.VERSION


def __getattr__(name: str) -> object:
    """Import one of the library's names; no other text is ever turned into an import."""
    match name:
        case "GPT":
            from minigpt.model import GPT

            return GPT
        case "GPTConfig":
            from minigpt.model import GPTConfig

            return GPTConfig
        case "RunConfig":
            from minigpt.training.config import RunConfig

            return RunConfig
        case "train":
            from minigpt.training.library import train

            return train
        case "load_run":
            from minigpt.training.library import load_run

            return load_run
        case "generate":
            from minigpt.training.library import generate

            return generate
        case "find_mlps":
            from minigpt.neurons.find_mlps import find_mlps

            return find_mlps
        case "NeuronProbe":
            from minigpt.neurons.probe import NeuronProbe

            return NeuronProbe
        case "LayerHealth":
            from minigpt.neurons.health import LayerHealth

            return LayerHealth
        case "audit":
            from minigpt.interop.audit import audit

            return audit
        case "DeadNeuronCallback":
            from minigpt.interop.trainer_callback import DeadNeuronCallback

            return DeadNeuronCallback
        case "export_hf":
            from minigpt.interop.export_hf import export_hf

            return export_hf
        case _:
            raise AttributeError(f"module 'minigpt' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
