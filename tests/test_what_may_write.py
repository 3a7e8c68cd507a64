"""What code may not do, which no run would notice: execute data that it reads, or write to disk by itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from source_files import PACKAGE, SOURCES, dotted, module_name

# The one file that runs code of the user's, which `--plugin` names.
PLUGINS = PACKAGE / "base/plugins.py"
STORAGE = tuple(PACKAGE / "base" / name for name in ("storage.py", "locks.py", "soft_locks.py", "streams.py"))

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


def aliases(tree: ast.AST) -> dict[str, str]:
    """What each imported name means, so that `from torch import load` hides nothing."""
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
            if name == "torch.load" and _loads_weights_only(node):
                continue
            if name in FORBIDDEN_BUILTINS | FORBIDDEN_CALLS or name.removeprefix("builtins.") in FORBIDDEN_BUILTINS:
                found.append((node.lineno, name))
            for keyword in node.keywords:
                off = isinstance(keyword.value, ast.Constant) and not keyword.value.value
                if keyword.arg in FORBIDDEN_TRUE and not off:
                    found.append((node.lineno, keyword.arg))
    return [f"line {line}: {what}" for line, what in found]


def _loads_weights_only(call: ast.Call) -> bool:
    """Whether `torch.load` is told, by a literal, to refuse whatever is no tensor or plain value."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    wanted = given.get("weights_only")
    return None not in given and isinstance(wanted, ast.Constant) and wanted.value is True


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


@pytest.mark.parametrize("path", [path for path in SOURCES if path != PLUGINS], ids=module_name)
def test_nothing_executes_data(path: Path):
    """A checkpoint, corpus or configuration from a stranger must not be able to run code."""
    assert dangerous_lines(path.read_text("utf-8")) == []


def test_only_the_command_line_runs_a_plugin():
    """What runs the user's code takes its name from a flag: whoever called it with a file's content would run that."""
    callers = [path for path in SOURCES if path != PLUGINS and "plugins.load" in path.read_text("utf-8")]
    assert callers == [PACKAGE / "cli.py"]
    assert {what.split(": ")[1].split(".")[0] for what in dangerous_lines(PLUGINS.read_text("utf-8"))} == {"importlib"}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from importlib import import_module",
        "import torch\ntorch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=choice)",
        "torch.load(path, **{'weights_only': True})",
        "torch.load(path, weights_only=True, **options)",
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
    assert dangerous_lines("torch.load(p, weights_only=True); from torch import load; load(p, weights_only=True)") == []
    assert (
        writing_lines("open(p); open(p, 'rb'); p.open('rb'); p.open(); storage.write_text(p, t); s.replace(a, b)") == []
    )


@pytest.mark.parametrize("path", [path for path in SOURCES if path not in STORAGE], ids=module_name)
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
