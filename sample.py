"""Continue a prompt with a trained GPT: `python sample.py --help`. The same as `python -m minigpt sample`."""

import sys

from minigpt.cli import main

if __name__ == "__main__":
    sys.exit(main(["sample", *sys.argv[1:]]))
