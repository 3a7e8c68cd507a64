"""The page of a run, `report.html`: one file without scripts or network, drawn from the run directory alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minigpt.errors import CheckpointError
from minigpt.report.figures import Record, curves

TEMPLATE = Path(__file__).with_name("run_page.html.jinja")
TRUSTED_TOKENS = 65_536
_COLUMNS = {
    "dead_fraction": ("dead", "h = 0 exactly on every token"),
    "never_positive_fraction": ("never open", "z ≤ 0 on every token; for smooth activations a closed gate, not death"),
    "density": ("h ≠ 0", "mean share of tokens on which a neuron is not zero; its complement is sparsity, not death"),
    "rare_fraction": ("rare", "fires, but on fewer than one token in 10,000"),
    "always_fraction": ("always", "not zero on every token"),
    "inert_fraction": ("inert", "contributes at most 2.5 % of the layer's mean: what compares different activations"),
}


def run_page(run: Path) -> str:
    """Return the page of a finished, stopped or running training as HTML.

    Raises:
        CheckpointError: the run has no readable configuration or no record yet.
    """
    import jinja2
    from markupsafe import Markup

    config, records = _read_json(run / "config.json"), _read_records(run / "metrics.jsonl")
    if not any(record.get("kind") in ("train", "eval") for record in records):
        raise CheckpointError(f"{run} has nothing to report yet; its log is empty; wait for the first evaluation")
    summary = _read_json(run / "summary.json") if (run / "summary.json").exists() else None
    evaluations = [record for record in records if record["kind"] == "eval"]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": _percent, "figure": _figure}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=run.name,
        config=config,
        machine=_read_json(run / "environment.json"),
        summary=summary,
        last=evaluations[-1] if evaluations else None,
        columns=_COLUMNS,
        trusted_tokens=TRUSTED_TOKENS,
        figure=Markup(curves(records)),
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _figure(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        raise CheckpointError(
            f"cannot read {path}; {reason}; give a run directory that `minigpt train` made"
        ) from reason


def _read_records(path: Path) -> list[Record]:
    """All complete lines; a last one that a crash cut short is left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        return [json.loads(line) for line in lines]
    except (OSError, ValueError) as reason:
        raise CheckpointError(f"cannot read {path}; {reason}; it was altered") from reason
