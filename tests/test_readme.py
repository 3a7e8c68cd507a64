"""README and pages of docs/ are true: commands run, links lead somewhere, map and table are what the code says.

A command in an `sh` block runs here at toy size, in the order of a reader who begins with the README. A command in a
`text` block or between backticks takes too long or needs what a test has not: its flags and values are checked. What is
no command of minigpt (pip, git, tools/) is not run; `.ci/run` installs as the README says.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import draw_map
import draw_tables
import pytest
from child_processes import Start, needs_fork
from conftest import Command

from minigpt.activations import list_activations
from minigpt.base.flags import Parser
from minigpt.claims.scale import LedgerOptions
from minigpt.cli import COMMANDS
from minigpt.commands.train_model import configured
from minigpt.training.config import RunConfig, check

ROOT = Path(__file__).parents[1]
NAMES = (
    "runs exchange activations library ablations ledger glossary architecture "
    "measurements benchmarks performance performance-log audits/README reliability lessons/README lessons/one-page"
)
PATHS = ("README.md", *(f"docs/{name}.md" for name in NAMES.split()), "data/README.md", "CONTRIBUTING.md")
PAGES = {path: (ROOT / path).read_text(encoding="utf-8") for path in (*PATHS, "CHANGELOG.md")}
README, ACTIVATIONS = PAGES["README.md"], PAGES["docs/activations.md"]
CALL = re.compile(r"python (?:train\.py|sample\.py|-m minigpt)\b")
# Flags that shrink a command to toy size; what the command itself says comes later and wins, except for `--steps`.
TOY = (
    "--corpus my-texts --n-layer 2 --n-head 2 --n-embd 16 --block-size 16 --batch-size 2 --device cpu --threads 1 "
    "--eval-every 2 --eval-tokens 64 --checkpoint-every 2"
)
PLACEHOLDERS = {"SEED": "1", "DTYPE": "float32", "RUN": "runs/a-run"}


def calls(text: str) -> list[str]:
    """The calls of minigpt in lines of shell that begin at the margin, without comments and line continuations."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if not line.startswith(" ")]
    parts = [part.split("  #")[0].strip() for line in lines for part in line.split("&&")]
    return [part for part in parts if CALL.match(part)]


def commands_to_run() -> list[str]:
    """Every different call in the `sh` blocks of all pages, in the order of a reader who begins with the README."""
    blocks = [block for page in PAGES.values() for block in re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)]
    return list(dict.fromkeys(call for block in blocks for call in calls(block)))


def commands_to_parse() -> list[str]:
    """Every different call in a `text` block or between backticks, except in the map of the source."""
    found: list[str] = []
    for page in PAGES.values():
        page = re.sub(r"<!-- map.*?end of map -->", "", page, flags=re.DOTALL)
        found += [call for block in re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL) for call in calls(block)]
        prose = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
        found += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose) if CALL.match(code)]
    return [call for call in dict.fromkeys(found) if call != "python -m minigpt"]


def as_argv(call: str) -> list[str]:
    """Turn `python train.py …`, `python sample.py …` or `python -m minigpt …` into what the command line gets."""
    words = shlex.split(call)[1:]
    if words[:2] == ["-m", "minigpt"]:
        return words[2:]
    return [words[0].removesuffix(".py"), *words[1:]]


@needs_fork
def test_every_command_runs(
    minigpt: Command, start: Start, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of the pages, at toy size, in an empty folder with a text and a TOML file."""
    (workplace / "my-texts").mkdir()
    text = (workplace / "text.txt").read_text(encoding="utf-8")
    (workplace / "my-texts" / "one.txt").write_text("The beginning.\n" + text, encoding="utf-8")
    (workplace / "my.toml").write_text("lr = 3e-3\n", encoding="utf-8")
    assert len(commands_to_run()) >= 20
    for call in commands_to_run():
        name, *flags = as_argv(call)
        if name == "ablate":
            toy = [name, *TOY.split(), *flags, "--seeds", "2", "--steps", "4"]
            assert start(" ".join(toy)).wait() == 0, call
            continue
        is_new_run = name == "train" and "--resume" not in flags
        toy = [*TOY.split(), *flags, "--steps", "4"] if is_new_run else flags
        assert minigpt(name, *toy) == 0, (call, capsys.readouterr().err)


@pytest.mark.parametrize("call", commands_to_parse())
def test_every_other_command_could_run(call: str) -> None:
    """Commands, flags and values exist; a training's configuration is allowed."""
    name, *flags = [PLACEHOLDERS.get(word, word) for word in as_argv(call)]
    parser = Parser(prog=name, description="")
    COMMANDS[name].add_flags(parser)
    if {"--help", "--help-all"} & set(flags):
        return
    values = parser.parse(flags)
    if name == "train":
        check(dataclasses.replace(RunConfig(), **configured(values)))


def test_the_readme_is_short() -> None:
    """A newcomer reads it in one sitting; what does not fit is a page of docs/."""
    assert len(README.splitlines()) <= 220


@pytest.mark.parametrize("path", PAGES)
def test_links_lead_somewhere(path: str) -> None:
    """Every local file or folder that a page links to exists, and every heading that it names."""
    targets = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", PAGES[path])
    for target in (markdown or image for markdown, image in targets):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        place = (ROOT / path).parent / file if file else ROOT / path
        assert place.exists(), f"{path} links to {target}"
        if heading:
            headings = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings]


def test_every_page_is_linked_from_the_readme() -> None:
    """A page that nothing leads to is not read; what performance.md and its log say is led to by benchmarks.md."""
    for path in PAGES.keys() - {"README.md"}:
        assert f"({path})" in README or f"({Path(path).name})" in PAGES["docs/benchmarks.md"], path


def test_the_two_commands_are_those_of_continuous_integration() -> None:
    """Installing and testing is written down twice; both must be the same."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install -e . && python train.py" in README
    assert "pip install -e '.[test]' && python -m pytest" in README
    assert "-e '.[test]' && python -m pytest" in script
    assert "bash .ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


def test_what_is_known_is_the_ledgers() -> None:
    """The README quotes findings as the ledger has them, and names every verdict that it has and no other."""
    claims = {
        entry["id"]: entry for entry in json.loads((ROOT / "docs/claims/ledger.json").read_text("utf-8"))["claims"]
    }
    section = " ".join(README.split("## What is known")[1].split("\n## ")[0].split())
    quoted = re.findall(r"- ((?:(?! - ).)+?) \(\[(C\d+)\]", section)
    assert len(quoted) > 3
    for finding, claim in quoted:
        assert finding == claims[claim]["finding"]
    found = {"SUPPORTED": "Supported", "REFUTED": "Refuted", "INCONCLUSIVE": "Inconclusive", "VOID": "Void, .*?"}
    for verdict, word in found.items():
        named = [name for name, entry in claims.items() if entry["status"] == "judged" and entry["verdict"] == verdict]
        listed = re.search(rf"{word}: ((?:C\d+(?:, )?)+)", section)
        assert listed, verdict
        assert listed[1].split(", ") == named
    assert "43 statements" in section
    assert all(f"C{number}" in claims for number in range(1, 44))


def test_what_is_published_names_no_place_of_a_machine() -> None:
    """A reader's commands, and `claims run` on a copy of the ledger, would look for trainings where there are none."""
    ledger = json.loads((ROOT / "docs/claims/ledger.json").read_text("utf-8"))
    assert ledger["scale"]["options"]["cells_dir"] == LedgerOptions.cells_dir
    commands = [arm["command"] for entry in ledger["claims"] for arm in entry.get("arms", ())]
    assert len(commands) > 100
    assert not [command for command in commands if any(Path(word).is_absolute() for word in shlex.split(command))]


def test_the_map_is_the_tree() -> None:
    """Every source file is on the map of docs/architecture.md with what it says of itself, and nothing else is."""
    page = PAGES["docs/architecture.md"]
    assert draw_map.with_map(page) == page, "run python tools/draw_map.py --write"
    files = {path.name for path in (ROOT / "minigpt").rglob("*.py") if path.name != "__init__.py"}
    assert {word for word in draw_map.the_map().split() if word in files} == files


def test_the_lecture_fits_into_an_hour() -> None:
    """From the activation to the figure on dead neurons: the page leads along the files, and they stay short."""
    path = ["activations/layer", "model", "training/step", "training/loop", "neurons/probe", "neurons/health"]
    lecture = PAGES["docs/architecture.md"].split("## The lecture")[1].split("\n## ")[0]
    places = [lecture.index(f"(../minigpt/{name}.py)") for name in path]
    assert places == sorted(places)
    lines = {name: len((ROOT / f"minigpt/{name}.py").read_text(encoding="utf-8").splitlines()) for name in path}
    assert lines["model"] <= 280
    assert sum(lines.values()) <= 1300


def test_the_tables_are_what_their_commands_print() -> None:
    """Activations and health figures are in the code once; nobody computes a row of a page by hand."""
    drawn = {name: page for name, page in PAGES.items() if draw_tables.TABLE.search(page)}
    assert len(drawn) == 2
    for name, page in drawn.items():
        assert draw_tables.redrawn(page) == page, f"{name}: run python tools/draw_tables.py"
    assert f"(ReLU, GELU, SwiGLU and {len(list_activations()) - 3} more)" in README


def test_the_example_activation_passes_its_tests(tmp_path: Path) -> None:
    """Pasted above the line that the page names, the example passes the property tests; it once failed three."""
    example = re.search(r"```python\n(.*?)```", ACTIVATIONS, flags=re.DOTALL)
    line = re.search(r"above the line `(.*?)`", " ".join(ACTIVATIONS.split()))
    assert example
    assert line
    for folder in ("minigpt", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    file = tmp_path / "minigpt/activations/functions.py"
    before, after = file.read_text(encoding="utf-8").split(line[1])
    file.write_text(before + example[1] + "\n\n" + line[1] + after, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "--numprocesses=0", "-k", "sine", "tests/activations"]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout
