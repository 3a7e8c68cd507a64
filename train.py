"""Train a GPT: `python train.py --help`. The same as `python -m minigpt train`."""

from minigpt.__main__ import console

if __name__ == "__main__":
    console("train")
