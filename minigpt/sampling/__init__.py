"""Sampling: continue a prompt, one token at a time, cached and compiled where that pays."""
