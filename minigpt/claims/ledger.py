"""The ledger on disk: `ledger.json`, derived from cells and measurements each time it is asked for.

A claim may be run on another machine than the rest: within a claim all is compared on one. An entry of which nothing is
here is kept as it is, if the same version of the code ran it at the same scale; else it is marked as stale, which is
shown, but belongs to no family and is mixed with nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from minigpt.base import storage
from minigpt.base.errors import CheckpointError, UsageError
from minigpt.claims import entries
from minigpt.claims.catalogue import CLAIMS
from minigpt.claims.claim import EXPLORATORY, PRIMARY, Claim, Plan
from minigpt.claims.evidence import Evidence
from minigpt.claims.measuring import MEASUREMENTS, read, subject
from minigpt.claims.scale import LEDGER_FILE, LedgerOptions, Scale
from minigpt.experiments.arms import Arm, train_command, written
from minigpt.experiments.arms_to_cells import Planner
from minigpt.experiments.cells import Cell, read_result
from minigpt.text.preparation import is_path
from minigpt.training.code_version import code_hash
from minigpt.training.config import RunConfig

FORMAT = 2
Record = dict[str, Any]
_WITH_EFFECTS = ("judged", "incomplete", "stale")
# How a training is computed, and not what is trained.
_OF_THE_MACHINE = frozenset({"device", "dtype", "threads", "compile", "attention"})
Cells = Mapping[tuple[str, int], Cell | None]


def read_ledger(directory: Path) -> Record:
    """Read `ledger.json`.

    Raises:
        CheckpointError: there is none, it was altered, or another version wrote it.
    """
    path = directory / LEDGER_FILE
    if not path.is_file():
        raise CheckpointError(f"no ledger at {directory}; it has no {LEDGER_FILE}; run a claim: minigpt claims run C5")
    ledger = storage.read_sealed(path, CheckpointError)
    if ledger is None or ledger.get("format") != FORMAT:
        advice = "restore it, or make it anew of the trainings that are here: minigpt claims report"
        raise CheckpointError(f"{path} was altered or is of another version; {advice}")
    return ledger


def scale_of(ledger: Record) -> Scale:
    """The scale at which a ledger was run."""
    return Scale(dict(ledger["scale"]["asked"]), LedgerOptions(**ledger["scale"]["options"]))


def write_ledger(directory: Path, scale: Scale, planner: Planner, asked: Sequence[Claim] = ()) -> Record:
    """Judge claims by what is on disk now, write `ledger.json` and return its content.

    Judged are those asked for and those that were judged before; all, if there is no ledger yet and none is asked for.
    For the others no text is prepared. Written before anything is trained, too: then it holds the plans.

    Raises:
        UsageError: a claim is judged already with another plan.
    """
    earlier = _earlier_entries(directory)
    known = {name for name, entry in earlier.items() if entry["status"] in _WITH_EFFECTS}
    wanted = known | {claim.id for claim in asked} if earlier or asked else set(CLAIMS)
    found = [
        _entry(claim, scale, planner, directory, earlier.get(claim.id))
        if claim.id in wanted
        else entries.describe(claim, scale.plan(claim))
        for claim in CLAIMS.values()
    ]
    sizes = family_sizes()
    scale_record = {"asked": scale.asked, "options": dataclasses.asdict(scale.options), "base": scale.base}
    return seal(directory, {"scale": scale_record, "code": code_hash()}, entries.with_verdicts(found, sizes))


def seal(directory: Path, made: Record, claims: Sequence[Record]) -> Record:
    """Write `ledger.json` and return its content; `made` are the scale and the code of its trainings."""
    ledger = {"format": FORMAT, **made, "family_sizes": family_sizes(), "claims": claims}
    storage.make_directory(directory)
    storage.write_sealed(directory / LEDGER_FILE, ledger)
    return ledger


def family_sizes() -> dict[str, int]:
    """How many claims of each family can be run."""
    return {family: sum(c.family == family and c.can_run for c in CLAIMS.values()) for family in (PRIMARY, EXPLORATORY)}


def find_claim(claim: str) -> Claim:
    """The claim of this id; raises `UsageError` for an unknown one."""
    known = claim.upper()
    if known not in CLAIMS:
        raise UsageError(f"unknown claim {claim!r}; known: C1 to C{len(CLAIMS)}; `minigpt claims list` shows them")
    return CLAIMS[known]


def _entry(claim: Claim, scale: Scale, planner: Planner, directory: Path, earlier: Record | None) -> Record:
    """A claim judged on the seeds that are complete, or what an earlier ledger says of it, or that it was not run."""
    assert all(name in MEASUREMENTS for names in claim.measurements.values() for name in names), claim.id
    if not claim.can_run:
        return entries.describe(claim)
    plan = scale.plan(claim)
    described = entries.describe(claim, plan)
    due = scale.seeds(claim)
    try:
        cells = planner.cells(claim.arms, due)
    except UsageError as error:
        return {**described, "obstacle": f"its arms do not exist at this scale; {error}"}
    measured = {
        (arm, seed, name): read(directory, of, name)
        for arm, seed in cells
        for name in claim.measurements.get(arm, ())
        if (of := subject(claim, name, arm, seed, cells))
    }
    results = {key: read_result(cell.directory) for key, cell in cells.items() if cell is not None}
    choosing, seeds = _usable_seeds(plan, due, _complete_seeds(claim, due, results, measured))
    if not seeds:
        if earlier is None or earlier["status"] not in _WITH_EFFECTS:
            return described
        return earlier if _holds(claim, earlier, scale, planner) else {**earlier, "status": "stale"}
    _check_plan(claim, described["plan"], earlier)
    used = {*choosing, *seeds}
    done = {key: result for key, result in results.items() if result is not None and key[1] in used}
    figures = {key: found["figures"] for key, found in measured.items() if found is not None and key[1] in used}
    entry = entries.judged(claim, Evidence(done, figures, choosing), seeds, plan, family_sizes()[claim.family])
    return {
        **entry,
        "seeds_declared": len(due) - plan.choosing,
        "arms": [_arm(claim, arm, seeds, cells, done) for arm in claim.arms],
        "cost": _cost(cells, used, done, [found for found in measured.values() if found is not None]),
        "command": _command(claim, scale),
        "base": scale.base,
        "code": code_hash(),
        "text": _base_text(scale, planner),
        "provenance": _provenance(done),
    }


def is_same_question(claim: Claim, earlier: Record, planner: Planner) -> bool:
    """Whether conditions, and settings of all arms that were run, are as now."""
    conditions = [(c.name, c.unit, c.margin) for c in claim.conditions]
    stored = [(c["name"], c["unit"], c["margin"]) for c in earlier["conditions"]]
    seed = earlier["seeds"][0]
    arms = {name: settings_of(arm, planner.configuration(arm, seed)) for name, arm in claim.arms.items()}
    same_arms = all(arms.get(arm["name"]) == arm["settings"] for arm in earlier["arms"])
    return conditions == stored and claim.choosing == earlier["plan"]["choosing"] and same_arms


def _holds(claim: Claim, earlier: Record, scale: Scale, planner: Planner) -> bool:
    """Whether an entry that was made elsewhere is what would be found here, up to rounding and this Python's texts."""
    if earlier["status"] == "stale" or earlier["code"] != code_hash():
        return False
    before, now = (
        {k: v for k, v in base.items() if k not in _OF_THE_MACHINE} for base in (earlier["base"], scale.base)
    )
    alike = before == now and is_same_question(claim, earlier, planner)
    return alike and (
        not is_path(now.get("corpus", RunConfig.corpus)) or earlier.get("text") == _base_text(scale, planner)
    )


def _base_text(scale: Scale, planner: Planner) -> str:
    """The hash of the text that arms train on unless they say otherwise."""
    return planner.text(planner.configuration(Arm(), scale.first_seed)).sha256


def _complete_seeds(
    claim: Claim,
    seeds: Sequence[int],
    results: Mapping[tuple[str, int], Record | None],
    measured: Mapping[tuple[str, int, str], Record | None],
) -> list[int]:
    """The seeds for which all arms are trained and measured."""
    return [
        seed
        for seed in seeds
        if all(results.get((arm, seed)) is not None for arm in claim.arms)
        and all(measured.get((arm, seed, name)) for arm, names in claim.measurements.items() for name in names)
    ]


def _usable_seeds(plan: Plan, due: Sequence[int], complete: Sequence[int]) -> tuple[tuple[int, ...], list[int]]:
    """(seeds that choose, seeds to judge on): those of the last look whose seeds are all there.

    Before the first look all that are there, but none while a seed that chooses is missing.
    """
    choosing, judged = tuple(due[: plan.choosing]), due[plan.choosing :]
    if not set(choosing) <= set(complete):
        return choosing, []
    looks = [look for look in plan.looks if look <= len(judged) and set(judged[:look]) <= set(complete)]
    return choosing, list(judged[: max(looks)]) if looks else [seed for seed in judged if seed in complete]


def _check_plan(claim: Claim, plan: Record, earlier: Record | None) -> None:
    if earlier is not None and earlier["status"] in ("judged", "incomplete") and earlier["plan"] != plan:
        before, now = (" then ".join(map(str, found["looks"])) for found in (earlier["plan"], plan))
        raise UsageError(
            f"the number of seeds is fixed before a claim is run; {claim.id} has {before} here, got {now}; "
            "fresh seeds in another ledger decide anew: --seed 2000 --out DIR"
        )


def _arm(claim: Claim, arm: str, seeds: Sequence[int], cells: Cells, done: Mapping[tuple[str, int], Record]) -> Record:
    results = [done[arm, seed] for seed in seeds]
    losses = [r["val"]["loss"] if r["status"] == "finished" else None for r in results]
    first = cells[arm, seeds[0]]
    assert first is not None
    return {
        "name": arm,
        "settings": settings_of(claim.arms[arm], first.config),
        "start": claim.arms[arm].start or None,
        "losses": losses,
        "dead": [r["val"]["dead_fraction"] if r["status"] == "finished" else None for r in results],
        "diverged": losses.count(None),
        "cells": [cell.id for seed in seeds if (cell := cells[arm, seed]) is not None],
        "command": train_command(first.config),
    }


def settings_of(arm: Arm, config: RunConfig) -> str:
    """What an arm sets over the base, as flags with the values that these have in its configuration."""
    settings = {name: getattr(config, name) for name in arm.settings}
    return ", ".join(f"--{name.replace('_', '-')} {written(value)}" for name, value in settings.items())


def _cost(
    cells: Cells, seeds: Collection[int], done: Mapping[tuple[str, int], Record], measured: Sequence[Record]
) -> Record:
    """Core-seconds of trainings and measurements; `each`, by name, tells what claims share.

    The members of a cohort share its time equally.
    """
    trained = {
        cell.id: done[key]["seconds"] * cell.config.threads / done[key]["environment"]["cohort"]
        for key, cell in cells.items()
        if cell is not None and key[1] in seeds
    }
    taken = {f"{record['cell']}-{record['measurement']}": record["seconds"] for record in measured}
    return {
        "cells": len(trained),
        "training": sum(trained.values()),
        "measuring": sum(taken.values()),
        "each": trained | taken,
    }


def _provenance(done: Mapping[tuple[str, int], Record]) -> Record:
    """On what the cells were trained, and by which commit; several if several."""
    environments = [result["environment"] for result in done.values()]
    return {
        name: sorted({str(environment[name])[:length] for environment in environments})
        for name, length in (("commit", 10), ("python", 20), ("torch", 40), ("processor", 80), ("accelerator", 80))
    }


def _command(claim: Claim, scale: Scale) -> str:
    words = ["python -m minigpt claims run", claim.id]
    words += [f"--{name.replace('_', '-')} {written(value)}" for name, value in scale.asked.items()]
    options = {"--seeds": scale.options.seeds, "--look": scale.options.look if len(claim.looks) > 1 else 1}
    return " ".join([*words, *(f"{name} {value}" for name, value in options.items() if value > (name == "--look"))])


def _earlier_entries(directory: Path) -> dict[str, Record]:
    """The entries on disk, by claim."""
    try:
        return {entry["id"]: entry for entry in read_ledger(directory)["claims"]}
    except CheckpointError:
        return {}
