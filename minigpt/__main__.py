"""`python -m minigpt COMMAND`."""

from minigpt.cli import console

if __name__ == "__main__":
    console()
