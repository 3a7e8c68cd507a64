"""The version of minigpt, where every floor can read it: the package's own module names the library and is not imported."""

VERSION = "0.1.0"
