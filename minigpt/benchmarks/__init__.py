"""Speed: what this machine could do, what minigpt does of it, and what other programs do in the same minutes."""
