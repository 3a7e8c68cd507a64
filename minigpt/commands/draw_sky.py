"""`minigpt sky`: the picture of all neurons of a run or an audit, brighter the more often they fire, dead ones red."""

from __future__ import annotations

import argparse
from pathlib import Path

from minigpt.base.errors import CheckpointError, UsageError
from minigpt.base.flags import Parser, user_path
from minigpt.base.help_text import Introduction
from minigpt.base.storage import make_directory, write_bytes
from minigpt.commands.showing import add_open_flag, show

_ENDINGS = (".svg", ".png")
_MOST_SKIES = 8


def add_flags(parser: Parser) -> None:
    """Whose sky, and where it goes."""
    parser.introduction = Introduction(
        examples=(
            ("", "the newest run's, beside its other files"),
            ("runs/healthy runs/harsh --name healthy --name harsh --out sky.png", "two in one picture"),
        )
    )
    help_ = "runs or audits, drawn one below the other [the newest run under runs/]"
    parser.add_argument("directories", nargs="*", type=user_path, metavar="DIRECTORY", help=help_)
    parser.add_argument(
        "--out", type=user_path, metavar="FILE", help="an .svg or .png [sky.svg in the first directory]"
    )
    help_ = "heading in place of a directory's name; given once for each"
    parser.add_argument("--name", action="append", metavar="TEXT", help=help_)
    parser.add_argument("--moving", action="store_true", help="the deaths of the training as a loop; SVG only")
    add_open_flag(parser)


def run(values: argparse.Namespace) -> int:
    """Draw the sky of every directory into one file and say where it is; returns 0."""
    from minigpt.report.run_page import read_sky
    from minigpt.report.sky_drawing import sky_svg
    from minigpt.report.sky_files import as_png, moving, stacked
    from minigpt.training.run_directory import newest_run

    directories = values.directories or [newest_run()]
    out = values.out or directories[0] / "sky.svg"
    names = _names(values.name, directories)
    _check(out, values.moving, len(directories))
    pictures = []
    for number, (directory, name) in enumerate(zip(directories, names, strict=True)):
        sky = read_sky(directory)
        if sky is None:
            advice = f"`minigpt neurons {directory}` counts them"
            raise CheckpointError(f"{directory} does not say which neurons are dead; its log has no deaths; {advice}")
        draw = moving if values.moving else sky_svg
        pictures.append(draw(sky, f"sky{number}", name))
    svg = stacked(pictures)
    make_directory(out.parent)
    write_bytes(out, as_png(svg) if out.suffix == ".png" else svg.encode("utf-8"))
    print(f"wrote {out}")
    show(out, values.open)
    return 0


def _names(given: list[str] | None, directories: list[Path]) -> list[str]:
    names = given or [path.absolute().name for path in directories]
    if len(names) != len(directories):
        raise UsageError(f"--name was given {len(names)} times for {len(directories)} directories; give one for each")
    return names


def _check(out: Path, moves: bool, skies: int) -> None:
    if out.suffix not in _ENDINGS:
        raise UsageError(f"a sky is an .svg or a .png; got {str(out)!r}; write for example --out sky.svg")
    if moves and out.suffix != ".svg":
        raise UsageError(f"only an .svg can move; got {str(out)!r}; leave out --moving, or write --out sky.svg")
    if skies > _MOST_SKIES:
        raise UsageError(f"too many skies for one picture; got {skies}; at most {_MOST_SKIES}")
