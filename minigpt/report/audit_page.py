"""The page of an audit, `audit.html`: one file without network, drawn from `audit.json` and `audit.csv` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minigpt.base import formats
from minigpt.base.errors import CheckpointError
from minigpt.base.health_columns import TRUSTED_TOKENS
from minigpt.base.reading import read_sealed
from minigpt.report import layer_tables, pages
from minigpt.report.layer_sections import layer_sections
from minigpt.report.sky_data import Sky, read_layers
from minigpt.report.sky_drawing import shown_sky

_FORMAT = 1


def audit_page(folder: Path) -> str:
    """Return the page of an audit as HTML.

    Raises:
        CheckpointError: there is no audit, or its record was altered.
    """
    path = folder / "audit.json"
    record = read_sealed(path, CheckpointError)
    if record is None or record.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not what an audit of format {_FORMAT} leaves; repeat `minigpt audit`")
    table = folder / "audit.csv"
    sky = Sky(read_layers(table)) if table.exists() else None
    searched = bool(record.get("expendable_tokens"))
    return pages.render(
        "audit_page.html.jinja",
        scripts=["sky.js"] if sky else [],
        record=record,
        settings=_settings(record),
        trusted_tokens=TRUSTED_TOKENS,
        missing=formats.MISSING,
        sky=shown_sky(sky) if sky else None,
        neuron_table=table.name if sky else None,
        without=layer_tables.health_tables(record["without_position_0"] or [], judged=False),
        expendable=layer_tables.expendable_table(record["layers"], record["model"]) if searched else None,
        **layer_sections(record["layers"], judged=False),
    )


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    """What it takes to repeat the audit, and the machine."""
    shown = (
        "kind", "parameters", "model_sha256", "stored_dtype", "dtype", "corpus", "split", "text_sha256", "context",
        "window_start", "position_0", "seconds", "tokens_per_second",
    )  # fmt: skip
    return {**{name: record[name] for name in shown}, **record["environment"]}
