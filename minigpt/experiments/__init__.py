"""Experiments: ablations over activations, seeds and anything else, and the paired statistics that judge them."""
