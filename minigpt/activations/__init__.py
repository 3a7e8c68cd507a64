"""What lies between `w_in` and `w_out` of an MLP: functions, the registry that knows them, the module of a layer."""

from minigpt.activations.fair_widths import init_gain, matched_width
from minigpt.activations.layer import Activation, build_activation
from minigpt.activations.registry import ActivationEntry, list_activations
from minigpt.activations.specs import (
    canonical_activation,
    canonical_widths,
    parse_activation,
    parse_widths,
    resolve_spec,
)

__all__ = [
    "Activation",
    "ActivationEntry",
    "build_activation",
    "canonical_activation",
    "canonical_widths",
    "init_gain",
    "list_activations",
    "matched_width",
    "parse_activation",
    "parse_widths",
    "resolve_spec",
]
