"""Experiments: one engine that trains arms over seeds, ablations made of them, and paired statistics to judge them."""
