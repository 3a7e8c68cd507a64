"""`minigpt audit`: what it prints and leaves, its page, and what it refuses in one line."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from neuron_files import HOSTILE
from tiny_architectures import tiny

from minigpt.base import storage
from minigpt.base.errors import CheckpointError
from minigpt.interop import open_model
from minigpt.model import GPT, GPTConfig
from minigpt.report.audit_page import audit_page
from minigpt.text import hub

pytestmark = pytest.mark.filterwarnings("ignore")

Capture = pytest.CaptureFixture[str]
Refused = Callable[..., str]
SMALL = "--context 16 --tokens 400 --device cpu --threads 1"
RAW = f"--text ids.bin {SMALL}"


@pytest.fixture
def opt(workplace: Path) -> str:
    """A tiny OPT in a folder, and a file of raw ids."""
    (workplace / "ids.bin").write_bytes(np.random.default_rng(0).integers(3, 99, size=500).astype("<u2").tobytes())
    model: Any = tiny("opt")
    model.save_pretrained("opt")
    return "opt"


def altered_config(folder: str, **changes: Any) -> None:
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_it_prints_tables_and_leaves_three_files(minigpt: Command, opt: str, capsys: Capture) -> None:
    """The answer comes first, then tables; the files are those that are named, and the same command is then refused."""
    assert minigpt(f"audit {opt} {RAW}") == 0
    output = capsys.readouterr().out
    record = json.loads(Path("audits/opt/audit.json").read_text())
    flat = " ".join(output.split())
    assert record["answer"] in flat
    assert record["published"] in flat
    assert "Dead, and how sure is that?" in output
    assert sorted(path.name for path in Path("audits/opt").iterdir() if not path.name.startswith(".")) == [
        "audit.csv", "audit.html", "audit.json",
    ]  # fmt: skip
    assert minigpt(f"audit {opt} {RAW}") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert minigpt(f"audit {opt} {RAW} --overwrite --json") == 0
    assert json.loads(capsys.readouterr().out)["layers"] == record["layers"]


class Elements(HTMLParser):
    """Collects the tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_inert(minigpt: Command, opt: str) -> None:
    """A stranger's names of modules and corpora are characters, our script is named by its hash, nothing is fetched."""
    assert minigpt(f"audit {opt} {RAW} --out out --position-0 both") == 0
    before = audit_page(Path("out"))
    clean = Elements(before)
    record = json.loads(Path("out/audit.json").read_text())
    record.pop("sha256")
    for key in ("name", "family", "corpus", "answer", "published", "stored_dtype"):
        record[key] = HOSTILE
    for layer in record["layers"]:
        layer |= {"name": HOSTILE, "activation": HOSTILE, "undefined": {HOSTILE: HOSTILE}}
    record["environment"] = {HOSTILE: "a\u202eb\x00"}
    storage.write_sealed(Path("out/audit.json"), record)
    text = audit_page(Path("out"))
    page = Elements(text)
    assert HOSTILE in page.text
    assert r"a\u202eb\x00" in page.text
    assert page.tags <= clean.tags | {"li", "ul"}
    assert re.findall(r"<script.*?</script>", text, re.DOTALL) == re.findall(r"<script.*?</script>", before, re.DOTALL)
    assert not page.tags & {"link", "img", "iframe", "object", "embed", "base", "form"}
    assert "default-src 'none'" in text
    assert re.search(r"script-src 'sha256-[\w+/=]+' \"", text)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "src"]
    addresses = {value or "" for name, value in page.attributes if name in ("href", "xlink:href")}
    assert all(address.startswith(("#", "data:text/csv")) or address == "audit.csv" for address in addresses)


def test_an_altered_record_has_no_page(minigpt: Command, opt: str) -> None:
    """Figures that somebody changed are not drawn."""
    assert minigpt(f"audit {opt} {RAW} --out out") == 0
    path = Path("out/audit.json")
    path.write_text(path.read_text().replace('"dead": ', '"dead": 1'))
    with pytest.raises(CheckpointError, match="is not what an audit"):
        audit_page(Path("out"))


def test_nanogpt(minigpt: Command, workplace: Path, refused: Refused) -> None:
    """A compiled checkpoint of nanoGPT counts as the same weights of ours; a pickle of anything else is not run."""
    model = GPT(GPTConfig(vocab_size=99, block_size=16, n_layer=2, n_head=2, n_embd=16, activation="gelu"), seed=0)
    names = {"wte": "wte", "wpe": "wpe", "ln_f": "ln_f"}
    parts = {"blocks": "h", "w_qkv": "c_attn", "attn.w_out": "attn.c_proj", "w_in": "c_fc", "mlp.w_out": "mlp.c_proj"}
    theirs = {}
    for name, tensor in model.stored_tensors().items():
        for ours, other in parts.items():
            name = name.replace(ours, other)
        prefix = "transformer." if name.split(".")[0] in {*names, "h"} else ""
        theirs[f"_orig_mod.{prefix}{name}"] = tensor
    theirs["_orig_mod.lm_head.weight"] = model.lm_head.weight
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16, "bias": True, "vocab_size": 99}
    torch.save({"model": theirs, "model_args": sizes, "iter_num": 3}, "ckpt.pt")
    (workplace / "ids.bin").write_bytes(np.random.default_rng(0).integers(99, size=500).astype("<u2").tobytes())
    assert minigpt(f"audit ckpt.pt {RAW} --out out") == 0
    record = json.loads(Path("out/audit.json").read_text())
    assert [layer["name"] for layer in record["layers"]] == ["blocks.0.mlp.w_out", "blocks.1.mlp.w_out"]
    torch.save({"model": theirs, "model_args": sizes, "other": Path("x")}, "hostile.pt")
    refused(4, f"audit hostile.pt {RAW}", says=("cannot be read as tensors and plain values",))
    theirs.pop("_orig_mod.transformer.ln_f.weight")
    torch.save({"model": theirs, "model_args": sizes}, "part.pt")
    refused(4, f"audit part.pt {RAW}", says=("ln_f.weight",))
    torch.save({"weights": theirs}, "other.pt")
    refused(4, f"audit other.pt {RAW}", says=("no checkpoint of nanoGPT",))


# What it refuses


def test_what_is_no_model(workplace: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without a configuration, a file of no known kind, a name that nobody can fetch."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (workplace / "empty").mkdir()
    (workplace / "bad.gguf").write_bytes(b"GGUF")
    refused(4, f"audit empty {SMALL}", says=("config.json",))
    refused(4, f"audit text.txt {SMALL}", says=("text.txt", "neither"))
    for name in ("/nowhere/at/all", "a--b", "a..b", "name.git", "owner/", "x" * 97):
        refused(4, f"audit {name} {SMALL}", says=("does not exist, and no Hub name",))
    refused(4, f"audit someone/something {SMALL}", says=("Hub cannot be reached",))
    refused(4, f"audit bad.gguf {SMALL}", says=("bad.gguf",))
    refused(4, f"audit none.gguf {SMALL}", says=("does not exist",))
    refused(4, f"audit none.pt {SMALL}", says=("no checkpoint at none.pt",))


def test_a_network_that_never_answers_is_not_waited_for(
    workplace: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name on the Hub without a network: an error within 3 s, of which the work is a part and the wait is fixed."""
    network = threading.Event()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for proxy in ("HF_ENDPOINT", *(name for name in os.environ if name.lower().endswith("_proxy"))):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(hub, "_is_offline", lambda: True)
    refused(4, "audit nobody/nothing --device cpu", says=("Hub cannot be reached",))  # imports are not ours to count
    monkeypatch.setattr(hub, "_is_offline", lambda: False)
    monkeypatch.setattr(hub, "_can_connect", lambda: network.wait(60))
    begun, waited = time.process_time(), time.monotonic()
    refused(4, f"audit someone/something {SMALL}", says=("someone/something", "Hub cannot be reached"))
    worked, waited = time.process_time() - begun, time.monotonic() - waited
    network.set()
    assert worked + open_model._HUB_PATIENCE < 3
    assert waited < 60


def test_the_search_for_expendable_neurons_is_shown(minigpt: Command, opt: str, capsys: Capture) -> None:
    """In the answer, in a table with a row for the model, on the page and in the table of neurons."""
    assert minigpt(f"audit {opt} {RAW} --expendable --expendable-tokens 64 --out out") == 0
    said = capsys.readouterr().out
    assert "could be replaced by their means" in " ".join(said.split())
    assert "How many could go?" in said
    assert [line for line in said.splitlines() if line.startswith("all ")]
    assert Path("out/audit.csv").read_text().splitlines()[0].endswith("expendable_in_layer,expendable_in_model")
    assert "How many could go?" in Path("out/audit.html").read_text()
    assert json.loads(Path("out/audit.json").read_text())["expendable_tokens"] == 64


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--tokens 0", "tokens is too small"),
        ("--context 1", "context is too small"),
        ("--expendable-tokens 0", "expendable-tokens is too small"),
        ("--text ids.bin --context 16 --tokens 200 --expendable --position-0 exclude", "use both"),
        ("--batch-tokens -1", "batch-tokens is too small"),
        ("--context 100", "was made for 64"),
        ("--text ids.bin --split val", "leave the other options out"),
        ("--tokenizer nonsense", "unknown tokenizer 'nonsense'"),
    ],
)
def test_flags_that_do_not_fit(opt: str, refused: Refused, flags: str, says: str) -> None:
    """Each is named with what is allowed."""
    refused(2, f"audit {opt} {flags} --device cpu", says=(says,))


def test_texts_that_do_not_fit(opt: str, refused: Refused, workplace: Path) -> None:
    """No tokenizer, ids outside the vocabulary, too little text, half an id."""
    refused(3, f"audit {opt} {SMALL}", says=("no tokenizer", "--tokenizer", "raw"))
    refused(3, f"audit {opt} {SMALL} --tokenizer byte --text text.txt", says=("id ", "knows 99"))
    (workplace / "short.bin").write_bytes(bytes(20))
    (workplace / "odd.bin").write_bytes(bytes(21))
    refused(3, f"audit {opt} {SMALL} --text short.bin", says=("10 tokens", "fewer than one context of 16"))
    refused(3, f"audit {opt} {SMALL} --text odd.bin", says=("no whole number",))
    refused(3, f"audit {opt} {SMALL} --text none.bin", says=("does not exist",))


def test_models_that_cannot_be_audited(opt: str, refused: Refused, capsys: Capture) -> None:
    """An encoder, an image model, code of its own, an architecture without MLPs, weights that are missing."""
    from transformers import AutoModelForMaskedLM, BertConfig, ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    AutoModelForMaskedLM.from_config(BertConfig(vocab_size=99, **sizes)).save_pretrained("bert")
    ViTModel(ViTConfig(image_size=8, patch_size=4, **sizes)).save_pretrained("vit")
    mamba: Any = tiny("mamba")
    mamba.save_pretrained("mamba")
    capsys.readouterr()  # saving shows a bar
    refused(2, f"audit bert {RAW}", says=("reads later tokens too",))
    refused(2, f"audit vit {RAW}", says=("vit", "no causal language model"))
    refused(2, f"audit mamba {RAW}", says=("MambaForCausalLM", "for_modules"))
    altered_config(opt, ffn_dim=40)
    refused(4, f"audit {opt} {RAW}", says=("opt has weights of other shapes for", "fc1.weight"))
    altered_config(opt, ffn_dim=48, num_hidden_layers=3)
    refused(4, f"audit {opt} {RAW}", says=("has no weights for", "layers.2"))
    altered_config(opt, model_type="nonsense")
    refused(4, f"audit {opt} {RAW}", says=("cannot load opt",))


@pytest.mark.parametrize(("package", "place"), [("transformers", "opt"), ("gguf", "some.gguf")])
def test_a_package_that_is_missing(
    opt: str, refused: Refused, monkeypatch: pytest.MonkeyPatch, package: str, place: str
) -> None:
    """The line says what to install."""
    Path("some.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, package, None)
    refused(2, f"audit {place} {RAW}", says=("pip install", ".[hf]" if package == "transformers" else "gguf"))
