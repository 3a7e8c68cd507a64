"""The house rules that no run would notice: imports point downward, nothing executes data, one file writes to disk."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "minigpt"
FILES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [*FILES, ROOT / "train.py", ROOT / "sample.py"]

# Each module may import from its own tier (within one package) and from those before it.
TIERS = (
    {"minigpt"},
    {"minigpt.base"},
    {"minigpt.sampling.token_choice"},
    {"minigpt.activations"},
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

FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "importlib",
    "yaml",
    "runpy",
}
FORBIDDEN_BUILTINS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_CALLS = {"torch.load", "torch.save", "torch.hub.load", "os.system", "os.popen"}
FORBIDDEN_TRUE = {"allow_pickle", "trust_remote_code", "shell"}
WRITING_METHODS = {"write_text", "write_bytes", "mkdir", "unlink", "rename", "touch", "symlink_to", "tofile"}
WRITING_CALLS = {
    "os.replace", "os.rename", "os.remove", "os.unlink", "os.mkdir", "os.makedirs", "os.rmdir", "os.truncate",
    "os.ftruncate", "shutil.rmtree", "shutil.move", "shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree",
    "np.save", "np.savez", "np.savetxt", "np.memmap", "numpy.save", "safetensors.torch.save_file", "json.dump",
}  # fmt: skip


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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


def tier(module: str) -> int:
    """The tier of the longest listed prefix of a module's name."""
    parts = module.split(".")
    for length in range(len(parts), 1, -1):
        prefix = ".".join(parts[:length])
        for level, names in enumerate(TIERS):
            if prefix in names:
                return level
    if module == "minigpt":
        return 0
    raise AssertionError(f"{module} has no tier; add it to TIERS")


def is_allowed(importer: str, imported: str) -> bool:
    """Whether the import points downward or to a neighbour in the same package."""
    if importer == imported or importer == "minigpt":
        return False
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


def dotted(node: ast.expr) -> str:
    """`a.b.c` for nested attributes of a name; only the attributes for anything else, with a leading dot."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def aliases(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for, so that `from torch import load` hides nothing."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom):
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def resolved(function: ast.expr, names: dict[str, str]) -> str:
    head, dot, rest = dotted(function).partition(".")
    return names.get(head, head) + dot + rest


def dangerous_lines(source: str) -> list[str]:
    """What of a file could execute data that it reads."""
    tree = ast.parse(source)
    names = aliases(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
            found += [(node.lineno, name) for name in modules if name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.Call):
            name = resolved(node.func, names)
            if name in FORBIDDEN_BUILTINS | FORBIDDEN_CALLS or name.removeprefix("builtins.") in FORBIDDEN_BUILTINS:
                found.append((node.lineno, name))
            for keyword in node.keywords:
                off = isinstance(keyword.value, ast.Constant) and not keyword.value.value
                if keyword.arg in FORBIDDEN_TRUE and not off:
                    found.append((node.lineno, keyword.arg))
    return [f"line {line}: {what}" for line, what in found]


def writing_lines(source: str) -> list[str]:
    """What of a file writes to disk by itself instead of through `storage`."""
    tree = ast.parse(source)
    names = aliases(tree)
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = resolved(node.func, names)
        method = name.rpartition(".")[2] if "." in name else ""
        through_storage = name.startswith(("storage.", "minigpt.base.storage."))
        opens = name in ("open", "io.open", "os.fdopen", "codecs.open", "gzip.open") or method == "open"
        writes = name in WRITING_CALLS or (method in WRITING_METHODS and not through_storage)
        if writes or (opens and _opens_for_writing(node, name)):
            found.append((node.lineno, name))
    return [f"line {line}: {what}" for line, what in found]


def _opens_for_writing(call: ast.Call, name: str) -> bool:
    """Whether the mode may create or change a file; a mode that is no literal counts as writing."""
    if name == "os.open":
        flags = {dotted(part).rpartition(".")[2] for part in ast.walk(call) if isinstance(part, ast.Attribute)}
        devnull = any(dotted(argument) == "os.devnull" for argument in call.args)
        return not devnull and bool(flags & {"O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND", "O_TRUNC"})
    if name == "tokenize.open":
        return False
    first = 0 if isinstance(call.func, ast.Attribute) and name not in ("io.open", "os.fdopen", "codecs.open") else 1
    given = [keyword.value for keyword in call.keywords if keyword.arg == "mode"] + call.args[first : first + 1]
    return any(not isinstance(mode, ast.Constant) or bool(set(str(mode.value)) & set("wax+")) for mode in given)


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
        ("minigpt.activations.registry", "if TYPE_CHECKING:\n    from minigpt.model import GPT"),
    ],
)
def test_an_upward_import_is_seen(importer: str, source: str):
    """The check above must be able to fail."""
    assert len(upward_edges(importer, source)) == 1


def test_configuration_is_plain_data():
    """`--help` shows the configuration's fields and must not wait for torch."""
    tree = ast.parse((PACKAGE / "training" / "config.py").read_text("utf-8"))
    assert {module for _, module in imported_modules(tree)} == {
        "minigpt.base.errors",
        "minigpt.training.presets",
    }
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


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_files_stay_readable(path: Path):
    """One job a file; a name that says nothing collects everything."""
    assert len(path.read_text("utf-8").splitlines()) <= MAX_LINES
    assert path.stem not in {"utils", "util", "helpers", "misc", "common"}


# What may execute, and what may write


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_nothing_executes_data(path: Path):
    """A checkpoint, corpus or configuration from a stranger must not be able to run code."""
    assert dangerous_lines(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from importlib import import_module",
        "import torch\ntorch.load(path)",
        "from torch import load as read\nread(path)",
        "import torch as t\nt.save(x, path)",
        "eval('1')",
        "import builtins\nbuiltins.exec('1')",
        "__import__('os')",
        "np.load(path, allow_pickle=True)",
        "load_dataset(name, trust_remote_code=choice)",
        "subprocess.run(line, shell=True)",
        "import yaml",
    ],
)
def test_dangerous_code_is_seen(source: str):
    """The check above must be able to fail."""
    assert len(dangerous_lines(source)) == 1


def test_harmless_code_is_not_flagged():
    """`model.eval()`, `re.compile` and `torch.compile` execute no data."""
    assert dangerous_lines("model.eval(); re.compile('x'); torch.compile(m); np.load(p, allow_pickle=False)") == []
    assert (
        writing_lines("open(p); open(p, 'rb'); p.open('rb'); p.open(); storage.write_text(p, t); s.replace(a, b)") == []
    )


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name != "storage.py"], ids=module_name)
def test_only_storage_writes_to_disk(path: Path):
    """Atomic replacement, fsync and clear errors hold for every file only if one place writes them all."""
    assert writing_lines(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "open(p, 'w')",
        "open(p, mode='ab')",
        "open(p, mode)",
        "p.open('w')",
        "p.open(mode='r+b')",
        "Path(p).write_text('x')",
        "path.write_bytes(b'')",
        "import os\nos.replace(a, b)",
        "from os import remove\nremove(a)",
        "os.open(p, os.O_WRONLY | os.O_CREAT)",
        "path.mkdir()",
        "import numpy as np\nnp.save(p, x)",
        "shutil.rmtree(p)",
    ],
)
def test_writing_is_seen(source: str):
    """The check above must be able to fail."""
    assert len(writing_lines(source)) == 1
