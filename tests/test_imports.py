"""The order of the house, which no run would notice: imports point downward, files are short, names are unique."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from source_files import FILES, PACKAGE, ROOT, SOURCES, TESTS, dotted, module_name

# Each module may import from its own tier (within one package) and from those before it.
TIERS = (
    {"minigpt.base"},
    {"minigpt.sampling.token_choice"},
    {"minigpt.activations"},
    {"minigpt.parts"},
    {"minigpt.model"},
    {"minigpt.sampling", "minigpt.neurons", "minigpt.text"},
    {"minigpt.training"},
    {"minigpt.experiments", "minigpt.interop"},
    {"minigpt.benchmarks", "minigpt.claims"},
    {"minigpt.commands"},
    {"minigpt.cli"},
    {"minigpt.__main__"},
)
MAX_LINES = 400
MODULES = {module_name(path) for path in FILES}


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every module of minigpt that a file imports anywhere, inside functions and TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "minigpt")
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative import; write the full name"
            if (node.module or "").split(".")[0] == "minigpt":
                for alias in node.names:
                    submodule = f"{node.module}.{alias.name}"
                    yield node.lineno, submodule if submodule in MODULES else str(node.module)


def without_type_checking(tree: ast.Module) -> ast.Module:
    """A file without what only a type checker reads."""

    class Pruned(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> Any:
            self.generic_visit(node)
            return node.orelse if dotted(node.test).endswith("TYPE_CHECKING") else node

    return Pruned().visit(tree)


def circle(sources: dict[str, str]) -> list[str]:
    """Modules that import each other in a ring, inside functions too; none if there is no ring."""
    graph = {
        name: {other for _, other in imported_modules(without_type_checking(ast.parse(source)))}
        for name, source in sources.items()
    }
    while leaves := [name for name, others in graph.items() if not others & graph.keys()]:
        for name in leaves:
            del graph[name]
    if not graph:
        return []
    path = [min(graph)]
    while len(path) == len(set(path)):
        path.append(min(graph[path[-1]] & graph.keys()))
    return path[path.index(path[-1]) :]


def doubled_names(paths: Iterable[Path]) -> list[str]:
    """File names that occur more than once, except `__init__` and `__main__`."""
    counted = Counter(path.stem for path in paths)
    return sorted(name for name, count in counted.items() if count > 1 and not name.startswith("__"))


def tier(module: str) -> int:
    """The tier of the longest listed prefix of a module's name."""
    parts = module.split(".")
    for length in range(len(parts), 1, -1):
        prefix = ".".join(parts[:length])
        for level, names in enumerate(TIERS):
            if prefix in names:
                return level
    raise AssertionError(f"{module} has no tier; add it to TIERS")


def is_allowed(importer: str, imported: str) -> bool:
    """Whether the import points downward or to a neighbour in the same package.

    The package's own face may import from any floor, because nothing may import it; that it does so lazily is tested in
    test_library.py.
    """
    if imported == "minigpt":
        return False  # the face names the library for those outside; inside, names are imported from where they are
    if importer == "minigpt":
        return True
    if importer.startswith("minigpt.report"):
        return imported.startswith("minigpt.report") or tier(imported) <= tier("minigpt.base")
    if imported.startswith("minigpt.report"):
        return tier(importer) >= tier("minigpt.commands")
    same_package = importer.split(".")[:2] == imported.split(".")[:2]
    return same_package or tier(imported) < tier(importer)


def upward_edges(importer: str, source: str) -> list[str]:
    tree = ast.parse(source)
    edges = imported_modules(tree)
    return [f"{importer}:{line} imports {other}" for line, other in edges if not is_allowed(importer, other)]


# Imports


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_downward(path: Path):
    """An upward edge, even a deferred one inside a function, is how a house becomes a heap."""
    assert upward_edges(module_name(path), path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("minigpt.model", "from minigpt.training.config import RunConfig"),
        ("minigpt.model", "def f():\n    from minigpt import training"),
        ("minigpt.base.errors", "from minigpt.model import GPT"),
        ("minigpt.base.storage", "from minigpt.text import store"),
        ("minigpt.text.batches", "from minigpt.neurons.probe import NeuronProbe"),
        ("minigpt.training.loop", "from minigpt.commands import train"),
        ("minigpt.report.page", "from minigpt.neurons.health import LayerHealth"),
        ("minigpt.training.loop", "from minigpt.report.page import write"),
        ("minigpt.training.runtime", "import minigpt"),
        ("minigpt.cli", "from minigpt import __version__"),
        ("minigpt.activations.registry", "if TYPE_CHECKING:\n    from minigpt.model import GPT"),
    ],
)
def test_an_upward_import_is_seen(importer: str, source: str):
    """The check above must be able to fail."""
    assert len(upward_edges(importer, source)) == 1


def test_no_modules_import_each_other():
    """A ring of modules has no bottom: none of them can be read, tested or moved without the others."""
    assert circle({module_name(path): path.read_text("utf-8") for path in FILES}) == []


@pytest.mark.parametrize(
    ("second", "ring"),
    [
        ("from minigpt.text import batches", ["minigpt.text.batches", "minigpt.text.store", "minigpt.text.batches"]),
        ("def f():\n    import minigpt.text.batches", ["minigpt.text.batches", "minigpt.text.store"] * 2),
        ("if TYPE_CHECKING:\n    from minigpt.text.batches import near", []),
        ("from minigpt.base import errors", []),
    ],
)
def test_a_ring_is_seen(second: str, ring: list[str]):
    """The check above must be able to fail, and must not for what only a type checker reads."""
    sources = {
        "minigpt.base.errors": "import math",
        "minigpt.text.batches": "from minigpt.text.store import prepare",
        "minigpt.text.store": second,
    }
    assert circle(sources) == ring[:3]


def test_configuration_is_plain_data():
    """`--help` shows the configuration's fields and must not wait for torch: neither it nor what it imports may."""
    modules, frontier = set(), {"minigpt.training.config"}
    while frontier:
        modules |= frontier
        trees = [ast.parse((ROOT / f"{name.replace('.', '/')}.py").read_text("utf-8")) for name in frontier]
        frontier = {module for tree in trees for _, module in imported_modules(tree)} - modules
    assert modules == {
        "minigpt.base.errors",
        "minigpt.base.flags",
        "minigpt.base.formats",
        "minigpt.base.help_text",
        "minigpt.base.invocation",
        "minigpt.base.reading",
        "minigpt.base.strict_json",
        "minigpt.base.tables",
        "minigpt.parts.architecture",
        "minigpt.training.config",
        "minigpt.training.presets",
    }
    for name in modules:
        assert_only_stdlib(name)


def assert_only_stdlib(module: str) -> None:
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8"))
    roots = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    roots |= {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert roots - {"minigpt"} <= sys.stdlib_module_names


@pytest.mark.parametrize("arguments", [["train", "--help"], ["sample", "--help"], ["--help"]], ids=" ".join)
def test_help_does_not_import_torch(arguments: list[str]):
    """Importing torch takes seconds; someone who asks for help should not wait for it."""
    program = (
        "import sys; from minigpt.cli import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'datasets', 'matplotlib', 'scipy', 'transformers', 'tiktoken'} & set(sys.modules);"
        "print('heavy:', *sorted(heavy)); sys.exit(code)"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "heavy:"
    assert "usage:" in done.stdout


# Size and names


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=module_name)
def test_files_stay_readable(path: Path):
    """One job a file; a name that says nothing collects everything."""
    assert len(path.read_text("utf-8").splitlines()) <= MAX_LINES
    assert path.stem not in {"utils", "util", "helpers", "misc", "common"}


def test_every_file_has_its_own_name():
    """Whoever looks for a file by its name, or reads it in a traceback, finds one."""
    assert doubled_names([*SOURCES, *TESTS]) == []


def test_a_second_file_of_one_name_is_seen():
    """The check above must be able to fail; every folder has its `__init__`."""
    paths = ["minigpt/text/splits.py", "minigpt/claims/splits.py", "minigpt/text/__init__.py", "minigpt/__init__.py"]
    assert doubled_names(map(Path, paths)) == ["splits"]
    assert doubled_names([*SOURCES, PACKAGE / "train.py"]) == ["train"]
