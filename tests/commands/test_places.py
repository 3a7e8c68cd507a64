"""Where runs and texts are: home directories, other working directories, names of simultaneous trainings, TOML."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import TINY_RUN, Capture, Command

from minigpt.base.errors import UsageError
from minigpt.base.flags import read_toml
from minigpt.base.storage import lock_directory
from minigpt.training import run_directory
from minigpt.training.config import RunConfig

pytestmark = pytest.mark.usefixtures("haste")


def test_a_home_directory_is_meant_wherever_a_path_is_taken(
    minigpt: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the `=` of a flag and in TOML, where no shell expands it: a folder named `~` used to appear."""
    home = workplace / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    shutil.copy("text.txt", home / "text.txt")
    (home / "flags.toml").write_text('data-dir = "~/tokens"\ncorpus = "~/text.txt"\n')
    words = TINY_RUN.replace("--corpus text.txt ", "")
    assert minigpt(f"train {words} --config=~/flags.toml --out=~/run") == 0
    assert (home / "run/summary.json").is_file()
    assert list((home / "tokens").iterdir())
    assert not (workplace / "~").exists()
    assert minigpt("evaluate ~/run") == 0
    assert minigpt("train --resume=~/run") == 0


def test_an_unknown_home_is_a_usage_error(
    minigpt: Command, capsys: Capture, monkeypatch: pytest.MonkeyPatch, workplace: Path
) -> None:
    """Whether HOME is missing or the name after the tilde is nobody's."""

    def nobody(path: Path) -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "expanduser", nobody)
    (workplace / "home.toml").write_text('corpus = "~/x"\n')
    for words in ("train --out=~/x", "sample ~nobody/x", "train --config home.toml"):
        assert minigpt(words) == 2
        assert "home directory that is not known; write the whole path" in capsys.readouterr().err


def test_a_run_is_read_from_any_directory(
    minigpt: Command, workplace: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text and tokens are found where they were; once the text is gone, it is named with its path."""
    assert minigpt(f"train {TINY_RUN} --out run") == 0
    elsewhere = workplace / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for words in ("evaluate ../run", "neurons ../run --tokens 64", "neurons ../run --corpus ../text.txt --tokens 64"):
        assert minigpt(words) == 0
    assert json.loads((workplace / "run/neurons.json").read_text())["corpus"] == str(workplace / "text.txt")
    (workplace / "run/summary.json").unlink()
    assert minigpt("train --resume ../run --corpus ../text.txt") == 0
    assert list(elsewhere.iterdir()) == []
    (workplace / "text.txt").unlink()
    (workplace / "run/summary.json").unlink()
    for words in ("evaluate ../run", "neurons ../run", "train --resume ../run"):
        capsys.readouterr()
        assert minigpt(words) == 3
        assert f"is not at {workplace / 'text.txt'}; it was moved or deleted; say where" in capsys.readouterr().err


def test_a_text_that_moved_is_found_where_it_is_said_to_be(minigpt: Command, workplace: Path, capsys: Capture) -> None:
    """Kind 9: after a move of the project nothing could be told where the text is; its hash must agree."""
    assert minigpt(f"train {TINY_RUN} --out run") == 0
    (workplace / "text.txt").rename("moved.txt")
    (workplace / "other.txt").write_text("am a tea ")
    for words in ("evaluate run", "neurons run --tokens 64", "surgery run --out cut --prune dead"):
        assert minigpt(f"{words} --corpus moved.txt") == 0
    assert json.loads((workplace / "run/neurons.json").read_text())["corpus"] == str(workplace / "moved.txt")
    (workplace / "run/summary.json").unlink()
    (workplace / "other.txt").write_text((workplace / "moved.txt").read_text() * 2)
    for words in ("evaluate run", "train --resume run"):
        assert minigpt(f"{words} --corpus other.txt") == 4
        assert "its hash differs" in capsys.readouterr().err
    assert minigpt("train --resume run --corpus moved.txt") == 0
    assert json.loads((workplace / "run/config.json").read_text())["corpus"] == str(workplace / "moved.txt")
    assert minigpt("verify run") == 0


def test_a_cell_is_evaluated_from_any_directory(
    minigpt: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kind 9: it kept the relative path of its text, and `~` in --cells-dir made a folder of that name."""
    monkeypatch.setenv("HOME", str(workplace / "home"))
    assert minigpt(f"ablate {TINY_RUN} --activations relu --seeds 1 --out ablation --cells-dir=~/cells") == 0
    (cell,) = (workplace / "home/cells").iterdir()
    assert json.loads((cell / "config.json").read_text())["corpus"] == str(workplace / "text.txt")
    elsewhere = workplace / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert minigpt(f"evaluate {cell}") == 0
    assert list(elsewhere.iterdir()) == []
    assert minigpt("verify ../ablation") == 0
    (cell / "environment.json").unlink()
    assert minigpt("verify ../ablation") == 4


def test_a_run_that_is_being_replaced_is_marked(
    minigpt: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kind 16: killed while it deletes the old run, --overwrite left half of it, which --resume took for a run."""
    assert minigpt(f"train {TINY_RUN} --out run") == 0
    marked = []
    monkeypatch.setattr(run_directory, "_remove_files", lambda run: marked.append(run_directory.is_unfinished(run)))
    assert minigpt(f"train {TINY_RUN} --out run --overwrite") == 0
    assert marked == [True]
    assert not run_directory.is_unfinished(workplace / "run")


def test_names_that_are_no_utf8_are_names(minigpt: Command, workplace: Path) -> None:
    """Of texts and of runs, from the training to the page."""
    text, run = (os.fsdecode(name) for name in (b"caf\xe9.txt", b"out\xe9"))
    shutil.copy("text.txt", text)
    words = TINY_RUN.replace("--corpus text.txt ", "")
    assert minigpt(f"train {words} --corpus", text, "--out", run) == 0
    for command in ("verify", "evaluate", "report", "train --resume"):
        assert minigpt(command, run) == 0


def test_a_failed_training_leaves_no_directory(minigpt: Command, workplace: Path) -> None:
    """Whatever was created on the way: parents, locks and the claim of a name."""
    before = sorted(workplace.rglob("*"))
    assert minigpt(f"train {TINY_RUN} --corpus absent.txt --out new/deep/run") == 3
    assert minigpt(f"train {TINY_RUN} --block-size 900000") == 3
    assert sorted(workplace.rglob("*")) == before


def test_trainings_without_a_name_get_different_ones(minigpt: Command, workplace: Path) -> None:
    """Also if another one has made its directory and nothing in it yet."""
    (workplace / "runs/tiny-relu-s1337").mkdir(parents=True)
    assert minigpt(f"train {TINY_RUN}") == 0
    assert minigpt(f"train {TINY_RUN}") == 0
    assert sorted(path.parent.name for path in workplace.glob("runs/*/summary.json")) == [
        "tiny-relu-s1337-2",
        "tiny-relu-s1337-3",
    ]


def test_a_finished_run_says_how_to_go_on(minigpt: Command, workplace: Path, capsys: Capture) -> None:
    """The command that it prints runs as it is, and takes over weights and moments."""
    assert minigpt(f"train {TINY_RUN} --out run") == 0
    capsys.readouterr()
    assert minigpt("train --resume run") == 0
    command = capsys.readouterr().out.splitlines()[-1].partition("python train.py ")[2]
    assert minigpt(f"train {command} --out longer --device cpu --dtype float32") == 0
    assert '"moments": true' in (workplace / "longer/metrics.jsonl").read_text()
    capsys.readouterr()
    assert minigpt("train --resume run --steps 30") == 4
    assert "--init-from=run --init-moments --steps 18" in capsys.readouterr().err


def test_a_second_opening_of_the_test_part_is_loud(minigpt: Command, workplace: Path, capsys: Capture) -> None:
    """The first is silent on stderr."""
    assert minigpt(f"train {TINY_RUN} --out run") == 0
    capsys.readouterr()
    assert minigpt("evaluate run --split test") == 0
    assert capsys.readouterr().err == ""
    assert minigpt("evaluate run --split test") == 0
    assert "WARNING: the test part of run was opened once before (at step 12)" in capsys.readouterr().err


def test_sample_takes_the_newest_finished_run(minigpt: Command, workplace: Path, capsys: Capture) -> None:
    """Not one that has begun after it and is still going."""
    assert minigpt(f"train {TINY_RUN} --out runs/done") == 0
    assert minigpt(f"train {TINY_RUN} --out runs/going") == 0
    (workplace / "runs/going/summary.json").unlink()
    capsys.readouterr()
    assert minigpt("sample --max-new-tokens 1") == 0
    assert "note: sampling runs/done, step 12 of 12, finished" in capsys.readouterr().err
    shutil.rmtree(workplace / "runs/done")
    assert minigpt("sample --max-new-tokens 1") == 0
    assert "note: sampling runs/going, step 12 of 12, not finished" in capsys.readouterr().err
    with lock_directory(workplace / "runs/going"):
        assert minigpt("sample runs/going --max-new-tokens 1 --checkpoint 8") == 0
    assert "note: sampling runs/going, step 8 of 12, still training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lr = 1" + "0" * 400, "lr in .* has 401 digits"),
        ("lr = -1" + "0" * 400, "lr in .* has 401 digits"),
        ("lr = " + "[" * 100_000, "nested too deeply"),
        ("lr = " + "{a=" * 500, "nested too deeply"),
        ("a." * 500 + "b = 1", "nested too deeply"),
        ("[" + "a." * 500 + "b]", "nested too deeply"),
        ("#" * (1 << 21), "too large"),
    ],
)
def test_an_absurd_configuration_is_refused_at_once(tmp_path: Path, text: str, says: str) -> None:
    """It used to take gigabytes, or end as a bug."""
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        read_toml(path, RunConfig)


def test_a_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbfsteps = 10\n")
    assert read_toml(path, RunConfig) == {"steps": 10}
