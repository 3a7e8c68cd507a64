"""A miniature GPT laboratory: any activation in the MLP, dead neurons beside perplexity.

The names in `__all__` are the library (docs/library.md). Each is imported when it is first used, so `import minigpt`
does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from minigpt.base import version

if TYPE_CHECKING:
    from types import ModuleType

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
    home: ModuleType
    match name:
        case "GPT" | "GPTConfig":
            from minigpt import model as home
        case "RunConfig":
            from minigpt.training import config as home
        case "train" | "load_run" | "generate":
            from minigpt.training import library as home
        case "find_mlps":
            from minigpt.neurons import find_mlps as home
        case "NeuronProbe":
            from minigpt.neurons import probe as home
        case "LayerHealth":
            from minigpt.neurons import health as home
        case "audit":
            from minigpt.interop import audit as home
        case "DeadNeuronCallback":
            from minigpt.interop import trainer_callback as home
        case "export_hf":
            from minigpt.interop import export_hf as home
        case _:
            raise AttributeError(f"module 'minigpt' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
