"""Text: corpora (what text), tokenizers (text to ids), the token store, batches (ids to windows)."""
