"""The version of minigpt, for every floor: `minigpt` itself names the whole library, so nothing inside imports it."""

VERSION = "0.1.0"
