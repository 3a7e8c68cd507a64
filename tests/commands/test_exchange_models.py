"""`export`, `import-hf` and `import-nanogpt`: a run that travels comes back the same, and mistakes cost one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import TINY_MODEL, Capture, Command, tree_hash
from nanogpt_files import write_nanogpt_file

from minigpt.base import storage
from minigpt.base.errors import StorageError
from minigpt.training import run_directory
from minigpt.training.inference import open_run

pytestmark = [pytest.mark.usefixtures("haste"), pytest.mark.filterwarnings("ignore")]

SHORT = f"--corpus text.txt {TINY_MODEL} --steps 2 --eval-every 2 --log-every 1 --lr 1e-2"
CLASSES = {
    "GPT2LMHeadModel": "--activation relu",
    "ArceeForCausalLM": "--activation relu2 --norm rmsnorm --position rope --tie-embeddings false",
    "Starcoder2ForCausalLM": "--activation gelu --position rope",
    "LlamaForCausalLM": "--activation swiglu --norm rmsnorm --position rope --bias false",
    "StableLmForCausalLM": "--activation geglu --position rope --bias false",
}


@pytest.mark.parametrize("architecture", CLASSES)
def test_a_run_comes_back_as_it_went(minigpt: Command, capsys: Capture, architecture: str) -> None:
    """Parameters bit for bit, the same text, the same loss, a run that verifies and that another starts from."""
    shape = CLASSES[architecture]
    assert minigpt(f"train {SHORT} {shape} --out run") == 0
    capsys.readouterr()
    assert minigpt("export run --to hf folder --json") == 0
    written = json.loads(capsys.readouterr().out)
    assert written["class"] == architecture
    assert 0 <= written["logit_change"] <= 1e-5
    assert minigpt("import-hf folder --out back --corpus text.txt --json") == 0
    assert 0 <= json.loads(capsys.readouterr().out)["logit_change"] <= 1e-5
    sent, back = open_run(Path("run")).model.stored_tensors(), open_run(Path("back")).model.stored_tensors()
    assert sent.keys() == back.keys()
    assert all(torch.equal(tensor, back[name]) for name, tensor in sent.items())
    texts = []
    for run in ("run", "back"):
        assert minigpt(f"sample {run} --max-new-tokens 12") == 0
        texts.append(capsys.readouterr().out)
        assert minigpt(f"evaluate {run} --json") == 0
        texts.append(json.loads(capsys.readouterr().out)["loss"])
    assert texts[:2] == texts[2:]
    assert minigpt("verify back") == 0
    assert minigpt(f"train {SHORT} {shape} --init-from back --out further") == 0


def test_whatever_reads_a_run_reads_an_imported_one(minigpt: Command, tiny_run: Path, capsys: Capture) -> None:
    """`neurons` and `surgery` on it count what they count in the run that was exported."""
    assert minigpt("export run --to hf folder") == 0
    assert minigpt("import-hf folder --out back --corpus text.txt") == 0
    counts = []
    for run in ("run", "back"):
        assert minigpt(f"neurons {run} --tokens 256 --split val") == 0
        layers = json.loads((Path(run) / "neurons.json").read_text())["layers"]
        counts.append(layers)
    assert counts[0] == counts[1]
    assert minigpt("surgery back --recycle random:2 --out operated --tokens 256") == 0
    assert minigpt("verify operated") == 0
    log = run_directory.read_metrics(Path("back"))
    assert [(record["event"], record["logit_change"]) for record in log] == [("imported", 0.0)]
    assert minigpt("train --resume back") == 0
    assert "is finished" in capsys.readouterr().out


def test_what_an_export_prints(minigpt: Command, tiny_run: Path, capsys: Capture) -> None:
    """The folder, the class, and what was measured; `--checkpoint` chooses."""
    capsys.readouterr()
    assert minigpt("export run --to hf folder --checkpoint 8") == 0
    output = capsys.readouterr().out
    assert "wrote folder/: GPT2LMHeadModel and its tokenizer (char), from step 8" in output
    assert "largest change of a logit" in output


def test_an_export_is_replaced_on_request_only(minigpt: Command, tiny_run: Path, refused, capsys: Capture) -> None:  # type: ignore[no-untyped-def]
    """And never with a file among it that is not ours."""
    assert minigpt("export run --to hf folder") == 0
    capsys.readouterr()
    refused(2, "export run --to hf folder", says=("not empty", "--overwrite"))
    assert minigpt("export run --to hf folder --overwrite --checkpoint 8") == 0
    Path("folder/notes.txt").write_text("mine")
    capsys.readouterr()
    refused(2, "export run --to hf folder --overwrite", says=("holds more than an export",))
    refused(2, "export run --to gguf folder", says=("unknown format 'gguf'; allowed: hf",))
    refused(2, "export run --to hf text.txt", says=("is a file",))
    refused(4, "export folder --to hf new", says=("not a configuration of this version",))
    Path("run/unfinished.json").write_text('{"preparation": "surgery"}')
    refused(4, "export run --to hf new", says=("an unfinished surgery",))


def test_a_checkpoint_of_nanogpt_becomes_a_run(minigpt: Command, workplace: Path, capsys: Capture) -> None:
    """A char model: its alphabet is that of the text, whose pickle is not opened."""
    alphabet = len(set((workplace / "text.txt").read_text(encoding="utf-8")))
    theirs = write_nanogpt_file(workplace / "ckpt.pt", vocab_size=alphabet)
    assert minigpt("import-nanogpt ckpt.pt --out run --tokenizer char --corpus text.txt --block-size 16") == 0
    output = capsys.readouterr().out
    assert f"tokenizer char, {alphabet} ids" in output
    assert "note: the logits were not compared" in output
    model = open_run(Path("run")).model
    ids = torch.randint(alphabet, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, rtol=1e-5, atol=2e-5)
    assert minigpt("verify run") == 0
    assert minigpt("evaluate run") == 0


def test_padded_ids_are_cut_off(minigpt: Command, workplace: Path, capsys: Capture) -> None:
    """No text has them; what is left answers as before, and the run says how many went."""
    theirs = write_nanogpt_file(workplace / "ckpt.pt", vocab_size=320)
    assert minigpt("import-nanogpt ckpt.pt --out run --tokenizer byte --corpus text.txt") == 0
    assert "tokenizer byte, 256 ids; 64 padded ids were cut off" in capsys.readouterr().out
    ids = torch.randint(256, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = open_run(Path("run")).model(ids)
        torch.testing.assert_close(ours, theirs(ids).logits[..., :256], rtol=1e-5, atol=2e-5)


def test_refused_imports_leave_nothing(minigpt: Command, workplace: Path, refused) -> None:  # type: ignore[no-untyped-def]
    """One line, and no run, whatever is wrong."""
    write_nanogpt_file(workplace / "ckpt.pt", vocab_size=99)
    (workplace / "occupied").mkdir()
    (workplace / "occupied" / "notes.txt").write_text("mine")
    words = "import-nanogpt ckpt.pt --corpus text.txt"
    refused(2, f"{words} --out occupied --tokenizer byte", says=("not empty",))
    refused(2, f"{words} --out run", says=("99 ids", "--tokenizer byte, char, gpt2 or FILE"))
    refused(2, f"{words} --out run --tokenizer char", says=("the model 99 ids", "give that by --corpus"))
    refused(2, f"{words} --out run --tokenizer byte --block-size 65", says=("choose 1 to 64",))
    refused(2, "import-nanogpt ckpt.pt", says=("--out",))
    refused(4, "import-hf occupied --out run", says=("it has no config.json",))
    refused(4, "import-hf missing --out run", says=("it has no config.json",))
    refused(3, "import-nanogpt ckpt.pt --out run --tokenizer char --corpus nowhere.txt", says=("nowhere.txt",))


def test_a_text_in_other_characters_is_refused(minigpt: Command, tiny_run: Path, refused, capsys: Capture) -> None:  # type: ignore[no-untyped-def]
    """The alphabet is the model's; the message says what to give instead."""
    assert minigpt("export run --to hf folder") == 0
    Path("other.txt").write_text("Ümlaut\n" * 400, encoding="utf-8")
    capsys.readouterr()
    data = tree_hash(Path("run"))
    assert minigpt("import-hf folder --out back --corpus other.txt") == 3
    assert "has characters that the run has never seen; 'Ü'; a run keeps its vocabulary; give another --corpus" in (
        capsys.readouterr().err
    )
    assert tree_hash(Path("run")) == data
    assert not Path("back").exists()


def test_an_import_that_is_stopped_is_no_run(
    minigpt: Command, workplace: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it appears at once: after a failure on the way nothing is left, and a mark tells of a kill."""
    alphabet = len(set((workplace / "text.txt").read_text(encoding="utf-8")))
    write_nanogpt_file(workplace / "ckpt.pt", vocab_size=alphabet)
    words = "import-nanogpt ckpt.pt --out run --tokenizer char --corpus text.txt"
    marked = []

    def full(path: Path, value: object) -> None:
        marked.append(run_directory.is_unfinished(path.parent))
        raise StorageError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_sealed", full)
        assert minigpt(words) == 5
    assert marked == [True]
    assert not Path("run").exists()
    (workplace / "run").mkdir()
    (workplace / "run/unfinished.json").write_text('{"preparation": "import"}')
    assert minigpt("evaluate run") == 4
    assert "an unfinished import" in capsys.readouterr().err
    assert minigpt(words) == 0
    assert minigpt("verify run") == 0
    assert minigpt(words) == 2
    assert minigpt(f"{words} --overwrite") == 0
    assert minigpt("verify run") == 0
