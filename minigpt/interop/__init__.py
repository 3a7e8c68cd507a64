"""Models of other people audited, and ours carried to the rest of the ecosystem and back."""
