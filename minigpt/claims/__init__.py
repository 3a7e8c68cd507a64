"""The claims ledger: every claim of an article, what it would take to be true, and what was found."""
