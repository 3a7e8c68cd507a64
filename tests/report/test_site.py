"""`minigpt report` of a ledger and of a site: every file is written in its place, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_cells import answer, noisy
from made_up_ledger import made_up_ledger, written

from minigpt.base.storage import write_json
from minigpt.report.claims_page import claims_pages

LEDGER = made_up_ledger()
FILES = claims_pages(LEDGER)


@pytest.fixture
def docs(workplace: Path) -> Path:
    """A folder with a ledger, an ablation's analysis, and a folder that has neither."""
    for name in ("claims", "activations", "pictures"):
        (workplace / "docs" / name).mkdir(parents=True)
    write_json(workplace / "docs/activations/analysis.json", answer({"relu": noisy(), "gelu": noisy(0.01)}))
    return written(LEDGER, workplace / "docs/claims").parent


def below(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def test_a_site_has_every_page_and_leaves_its_source_alone(minigpt, docs: Path, workplace: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    """The ledger's overview, a page for each claim, the ablation's page: HTML only, named on stdout."""
    before = below(docs)
    assert minigpt("report --site out/site") == 0
    pages = {name for name in FILES if name.endswith(".html")}
    assert below(workplace / "out/site") == {f"claims/{name}" for name in pages} | {"activations/report.html"}
    assert (workplace / "out/site/claims/C1.html").read_text() == FILES["C1.html"]
    assert below(docs) == before
    *written_pages, address = capsys.readouterr().out.splitlines()
    assert written_pages == ["wrote out/site/claims/report.html", "wrote out/site/activations/report.html"]
    assert address == f"look:  {(workplace / 'out/site/claims/report.html').as_uri()}"


def test_a_ledger_is_drawn_beside_its_file_and_not_judged_again(minigpt, docs: Path) -> None:  # type: ignore[no-untyped-def]
    """Its Markdown and figures come from `ledger.json` alone: no cell is needed, and the ledger keeps its bytes."""
    ledger = (docs / "claims/ledger.json").read_bytes()
    assert minigpt("report docs/claims") == 0
    assert below(docs / "claims") == {"ledger.json", *FILES}
    assert (docs / "claims/README.md").read_text() == FILES["README.md"]
    assert (docs / "claims/ledger.json").read_bytes() == ledger


@pytest.mark.parametrize("content", ["", "[]", '{"format": 99}', None])
def test_what_is_no_ledger_is_refused(content: str | None, refused, docs: Path) -> None:  # type: ignore[no-untyped-def]
    """Not JSON, no record, another format, one figure altered: one line names the file, and nothing is drawn."""
    file = docs / "claims/ledger.json"
    altered = file.read_text().replace('"n_embd": 96', '"n_embd": 97')
    file.write_text(altered if content is None else content)
    for command in ("report docs/claims", "report --site site"):
        refused(4, command, says=("ledger.json",))


@pytest.mark.parametrize("source", ["docs/pictures", "nowhere"])
def test_a_site_of_nothing_is_refused(source: str, refused, docs: Path) -> None:  # type: ignore[no-untyped-def]
    """No folder there has data: the message shows what works."""
    refused(2, f"report {source} --site site", says=(source, "minigpt report docs --site site"))
