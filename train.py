"""Train a GPT: `python train.py --help`. The same as `python -m minigpt train`."""

import sys

from minigpt.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
