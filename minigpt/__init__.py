"""A miniature GPT laboratory: any activation in the MLP, dead neurons beside perplexity."""

__version__ = "0.1.0"
