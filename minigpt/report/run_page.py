"""The page of a run, `report.html`: one file without network, drawn from the run directory alone.

Of the directory it reads `config.json environment.json metrics.jsonl`, and where they exist `summary.json` and, from
`minigpt neurons`, `neurons.json neurons.csv explorer.json`. A part whose file is missing says which command makes it.
The only scripts are the sky's and the neuron explorer's, which the page's own policy admits by their hashes.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from minigpt.base import formats
from minigpt.base.errors import CheckpointError
from minigpt.base.health_columns import TRUSTED_TOKENS
from minigpt.base.log_schema import log_problems
from minigpt.base.reading import read_bytes, read_json
from minigpt.base.strict_json import parse_json
from minigpt.report import death_tables, layer_tables, neuron_figures, pages
from minigpt.report.anatomy_words import lives
from minigpt.report.breadcrumbs import crumbs_of_run
from minigpt.report.explorer_page import explorer_data
from minigpt.report.figures import Record, loss_curves
from minigpt.report.layer_sections import layer_sections
from minigpt.report.run_answer import answer
from minigpt.report.sky_data import Sky, frames_of_log, read_layers, sky_of_log
from minigpt.report.sky_drawing import shown_sky

_FORMAT = 1


def run_page(run: Path) -> str:
    """Return the page of a finished, stopped or running training as HTML.

    Raises:
        CheckpointError: the run has no readable configuration or no record yet, or one of its files was altered.
    """
    records, skipped = _read_records(run / "metrics.jsonl")
    if skipped:
        print(
            f"note: lines of the log that are no records were skipped ({len(skipped)}); {skipped[0]}", file=sys.stderr
        )
    if not any(record["kind"] in ("train", "eval") for record in records):
        raise CheckpointError(f"{run} has nothing to report yet; its log has no figures; wait for the first evaluation")
    neurons, explorer = _read_instrument(run / "neurons.json"), _read_instrument(run / "explorer.json")
    evaluations = [record for record in records if record["kind"] == "eval"]
    sky = _sky(run, records)
    scripts = ["sky.js"] * bool(sky) + ["explorer.js"] * bool(explorer)
    return pages.render(
        "run_page.html.jinja",
        scripts=scripts,
        name=run.absolute().name,
        crumbs=crumbs_of_run(run),
        config=read_json(run / "config.json", CheckpointError),
        machine=read_json(run / "environment.json", CheckpointError),
        summary=read_json(run / "summary.json", CheckpointError) if (run / "summary.json").exists() else None,
        last=evaluations[-1] if evaluations else None,
        answer=answer(neurons, evaluations),
        sky=shown_sky(sky) if sky else None,
        skipped=skipped,
        missing=formats.MISSING,
        neurons_command=f"python -m minigpt neurons {shlex.quote(str(run))}",
        loss_curves=loss_curves(records),
        evaluations_csv=pages.csv_link(death_tables.evaluations_csv(evaluations)),
        **_deaths(records, evaluations),
        **_health(evaluations, neurons),
        neuron_table="neurons.csv" if (run / "neurons.csv").exists() else None,
        explorer=explorer_data(explorer, (neurons or {}).get("tokens", 0), lives(records)) if explorer else None,
    )


def read_sky(directory: Path) -> Sky | None:
    """The sky of a run or an audit; None of a run that does not say which neurons are dead.

    Raises:
        CheckpointError: there is neither, or a file was altered.
    """
    if (directory / "audit.csv").exists():
        return Sky(read_layers(directory / "audit.csv"))
    records, _ = _read_records(directory / "metrics.jsonl")
    return _sky(directory, records)


def _sky(run: Path, records: list[Record]) -> Sky | None:
    """As the table of neurons has it, or else as far as the log tells."""
    table = run / "neurons.csv"
    if not table.exists():
        return sky_of_log(records)
    layers = read_layers(table)
    return Sky(layers, frames_of_log(records, [len(layer.codes) for layer in layers]))


def _deaths(records: list[Record], evaluations: list[Record]) -> dict[str, Any]:
    """What `deaths.html.jinja` shows."""
    heatmap = death_tables.dead_heatmap(evaluations)
    life = death_tables.life_table(records)
    return {
        "heatmap": heatmap,
        "life": death_tables.shown_life(life) if life else None,
        "recycled": life.recycled if life else 0,
        "life_csv": pages.csv_link(death_tables.life_csv(life)) if life else None,
        "watched": death_tables.watched(records),
    }


def _health(evaluations: list[Record], neurons: Record | None) -> dict[str, Any]:
    """What `health.html.jinja` and `cost.html.jinja` show, of `neurons.json` or else of the last evaluation."""
    measured = neurons or (evaluations[-1] if evaluations else None)
    layers = measured["layers"] if measured else []
    model = (neurons or {}).get("model") or {}
    least_active = model.get("least_active_zeroed")
    return {
        "neurons": neurons,
        "measured": {"sequences": None, **measured} if measured else None,
        "layers": layers,
        "trusted_tokens": TRUSTED_TOKENS,
        **layer_sections(layers, judged=neurons is not None),
        "dead_zeroed": model.get("dead_zeroed"),
        "expendable": layer_tables.expendable_table(layers, model),
        "least_active": neuron_figures.least_active(least_active) if least_active else None,
        "least_active_table": layer_tables.least_active_table(least_active or []),
    }


def _read_instrument(path: Path) -> Record | None:
    """A file of `minigpt neurons`, or None if there is none."""
    if not path.exists():
        return None
    content = read_json(path, CheckpointError)
    if not isinstance(content, dict) or content.get("format") != _FORMAT or not isinstance(content.get("layers"), list):
        raise CheckpointError(f"{path} is of no known format; expected format {_FORMAT}; repeat `minigpt neurons`")
    return content


def _read_records(path: Path) -> tuple[list[Record], list[str]]:
    """All complete lines that are records, and what is wrong with the others; a last one cut short is left out.

    Raises:
        CheckpointError: there are lines, and none is a record.
    """
    lines = read_bytes(path, CheckpointError).decode("utf-8", "replace").split("\n")[:-1]
    parsed = [_parsed_or_none(line) for line in lines]
    problems = log_problems(parsed)
    records = [record for record, problem in zip(parsed, problems, strict=True) if not problem]
    skipped = [f"line {number}: {problem}" for number, problem in enumerate(problems, start=1) if problem]
    if skipped and not records:
        raise CheckpointError(f"{path} holds no record; {skipped[0]}; it was altered")
    return records, skipped


def _parsed_or_none(line: str) -> Any:
    try:
        return parse_json(line, "a line", CheckpointError)
    except CheckpointError:
        return None
