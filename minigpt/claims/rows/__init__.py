"""The rows of the ledger, declared by subject."""
