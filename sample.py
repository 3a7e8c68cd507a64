"""Continue a prompt with a trained GPT: `python sample.py --help`. The same as `python -m minigpt sample`."""

from minigpt.__main__ import console

if __name__ == "__main__":
    console("sample")
