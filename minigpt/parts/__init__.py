"""What the model is built with, besides GPT-2's own parts: settings, initial weights, dropout, cache, variants."""
