"""Figures and self-contained pages, drawn only from what runs left on disk."""
