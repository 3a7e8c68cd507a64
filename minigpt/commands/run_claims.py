"""`minigpt claims`: the ledger listed, one claim shown, claims run, and the pages drawn."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt.base import streams
from minigpt.base.errors import CheckpointError, UsageError, did_you_mean
from minigpt.base.flags import Parser, add_fields, given, read_toml, taken_out, user_path
from minigpt.base.help_text import Introduction
from minigpt.base.storage import make_directory, to_json, write_text
from minigpt.claims.scale import LEDGER, LEDGER_FILE, LedgerOptions, Scale
from minigpt.commands.draw_runs import PAGE, write_cell_pages
from minigpt.commands.showing import add_json_or_open, check_open, show
from minigpt.experiments.executor_options import ExecutorOptions, take_out
from minigpt.training.config import RunConfig, with_preset

if TYPE_CHECKING:
    from minigpt.claims.claim import Claim
    from minigpt.claims.running import Workshop

_KINDS = (RunConfig, LedgerOptions, ExecutorOptions)
_COMMON = ("--out", "--json")
_SCALE = ("--seeds", "--preset", "--corpus", "--steps", "--workers", "--config")
INTRODUCTION = Introduction(
    usage="list | show ID | run ID… | run --all | report | judge  [--flag VALUE …]",
    examples=(
        ("list", "all claims with their verdicts"),
        ("run C5 --dry-run", "how long would judging one take?"),
    ),
    common=_COMMON,
)
TOPICS = {
    "list": Introduction(
        usage="[--flag VALUE …]",
        examples=(("", "all claims with their verdicts"), ("--json", "the same for programs")),
        common=_COMMON,
    ),
    "show": Introduction(
        usage="ID [--flag VALUE …]",
        examples=(("C3", "one claim: what was asked, measured and concluded"), ("C3 --json", "the same for programs")),
        common=_COMMON,
    ),
    "run": Introduction(
        usage="ID… | --all  [--flag VALUE …]",
        examples=(
            ("C5 C9 --dry-run", "how long would two claims take?"),
            ("--all --budget 60", "what fits into an hour"),
        ),
        common=("--all", "--budget", "--dry-run", *_COMMON, *_SCALE),
    ),
    "report": Introduction(
        usage="[--flag VALUE …]",
        examples=(("", "judges and draws again what was run"), ("--out docs/claims", "those of another folder")),
        common=(*_COMMON, *_SCALE),
    ),
    "judge": Introduction(
        usage="[--flag VALUE …]",
        examples=(
            ("", "judges again from the ledger's stored values, without its trainings"),
            ("--out docs/claims", "those of another folder"),
        ),
        common=_COMMON,
    ),
}
ACTIONS = tuple(TOPICS)
_READING = frozenset({"list", "show"})  # they draw no page


def add_flags(parser: Parser) -> None:
    """What to do, with which claims, and every training flag as the base of all arms."""
    parser.introduction = INTRODUCTION
    parser.topics = TOPICS
    parser.with_preset = with_preset
    parser.add_argument(
        "action", metavar="ACTION", help="list, show, run, report, or judge: again, from the ledger alone"
    )
    parser.add_argument("claims", nargs="*", metavar="ID", help="claims: C1, C2, …")
    group = parser.add_argument_group("what is done")
    group.add_argument("--all", action="store_true", help="run every claim that can be run")
    group.add_argument("--budget", type=float, metavar="MINUTES", help="run only what fits into this time")
    group.add_argument("--dry-run", action="store_true", help="say how long each claim would take, run none")
    group.add_argument("--config", type=user_path, metavar="FILE.toml", help="read flags from a file")
    group.add_argument(
        "--out", type=user_path, default=LEDGER, metavar="DIR", help=f"the ledger's directory [{LEDGER}]"
    )
    add_json_or_open(group, "print one JSON object")
    add_fields(parser, LedgerOptions)
    add_fields(parser, ExecutorOptions)
    add_fields(parser, RunConfig)


def run(values: argparse.Namespace) -> int:
    """Do what was asked; returns 0."""
    if values.action not in ACTIONS:
        hint = did_you_mean(values.action, ACTIONS) or ";"
        raise UsageError(f"unknown action {values.action!r}{hint} allowed: {', '.join(ACTIONS)}")
    if values.action != "run" and (values.all or values.budget is not None or values.dry_run):
        raise UsageError(f"claims {values.action} runs nothing; --all, --budget and --dry-run belong to `claims run`")
    check_open(values.open, "--dry-run" if values.dry_run else f"claims {values.action}" * (values.action in _READING))
    actions = {"list": _list, "show": _show, "run": _run, "report": _report, "judge": _judge}
    return actions[values.action](values)


def _list(values: argparse.Namespace) -> int:
    from minigpt.report.claims_texts import terminal_list

    _none_named(values)
    ledger = _ledger_or_plan(values)
    print(to_json({"claims": ledger["claims"]}) if values.json else terminal_list(ledger))
    return 0


def _show(values: argparse.Namespace) -> int:
    from minigpt.claims.ledger import find_claim
    from minigpt.report.claims_texts import terminal_claim

    if len(values.claims) != 1:
        raise UsageError(f"claims show takes one id; got {len(values.claims)}; write `minigpt claims show C5`")
    wanted = find_claim(values.claims[0]).id
    entry = next(entry for entry in _ledger_or_plan(values)["claims"] if entry["id"] == wanted)
    print(to_json(entry) if values.json else terminal_claim(entry))
    return 0


def _run(values: argparse.Namespace) -> int:
    from minigpt.claims.ledger import write_ledger
    from minigpt.claims.running import affordable, estimate, run_claims

    claims = _chosen(values)
    if values.budget is not None and not values.budget > 0:
        raise UsageError(f"budget must be a positive number of minutes; got {values.budget:g}; for example 30")
    with streams.lasting(), _workshop(values) as workshop:
        if values.dry_run:
            return _show_estimate(estimate(claims, workshop), values.json)
        if values.budget is not None:
            claims = affordable(claims, workshop, 60 * values.budget)
        write_ledger(values.out, workshop.scale, workshop.planner, claims)  # the plan, before anything is trained
        try:
            run_claims(claims, workshop)
        finally:
            ledger = write_ledger(values.out, workshop.scale, workshop.planner, claims)
    page = write_pages(values.out)
    return _show_verdicts(ledger, {claim.id for claim in claims}, page, values)


def _report(values: argparse.Namespace) -> int:
    from minigpt.claims.ledger import write_ledger
    from minigpt.experiments.arms_to_cells import Planner

    _none_named(values)
    scale, _ = _asked(values)
    ledger = write_ledger(values.out, scale, Planner(scale.base, scale.options.cells_dir, threads=1))
    page = write_pages(values.out)
    if values.json:
        print(to_json(ledger))
    else:
        print(f"wrote {page}")
        show(page, values.open)
    return 0


def _judge(values: argparse.Namespace) -> int:
    """Judge the stored values again, at the scale that they have, and draw the pages."""
    from minigpt.claims.catalogue import CLAIMS
    from minigpt.claims.ledger import family_sizes, read_ledger, seal
    from minigpt.claims.rejudging import rejudged
    from minigpt.experiments.arms_to_cells import Planner

    _none_named(values)
    earlier = read_ledger(values.out)
    planner = Planner(earlier["scale"]["base"], LedgerOptions.cells_dir, threads=1)
    claims = rejudged(earlier, CLAIMS.values(), planner, family_sizes())
    ledger = seal(values.out, {name: earlier[name] for name in ("scale", "code")}, claims)
    page = write_pages(values.out)
    return _show_verdicts(ledger, set(CLAIMS), page, values)


def _chosen(values: argparse.Namespace) -> list[Claim]:
    from minigpt.claims.catalogue import CLAIMS
    from minigpt.claims.ledger import find_claim

    if values.all == bool(values.claims):
        raise UsageError("claims run needs either ids or --all; write `minigpt claims run C5 C9`, or --all")
    if values.all:
        return [claim for claim in CLAIMS.values() if claim.can_run]
    claims = list({claim.id: claim for claim in map(find_claim, values.claims)}.values())
    for claim in claims:
        if not claim.can_run:
            raise UsageError(f"{claim.id} cannot be run; {claim.obstacle}; `minigpt claims list` shows what can")
    return claims


def _none_named(values: argparse.Namespace) -> None:
    if values.claims:
        raise UsageError(f"claims {values.action} is about all claims; got {' '.join(values.claims)}; leave ids out")


def _ledger_or_plan(values: argparse.Namespace) -> dict[str, Any]:
    """The ledger on disk, or, if nothing was run yet, what is known of the claims before."""
    from minigpt.claims.catalogue import CLAIMS
    from minigpt.claims.entries import describe
    from minigpt.claims.ledger import read_ledger

    if (values.out / LEDGER_FILE).is_file():
        return read_ledger(values.out)
    return {"claims": [describe(claim) for claim in CLAIMS.values()]}


def _asked(values: argparse.Namespace) -> tuple[Scale, ExecutorOptions]:
    """The scale that the flags describe, or without any that of the ledger on disk, and what executes the work."""
    from minigpt.claims.ledger import read_ledger, scale_of

    chosen = read_toml(values.config, *_KINDS) if values.config else {}
    for kind in _KINDS:
        chosen |= given(values, kind)
    where = take_out(chosen)
    if not chosen:
        with suppress(CheckpointError):
            return scale_of(read_ledger(values.out)), where
    options = taken_out(chosen, LedgerOptions)
    return Scale(chosen, options), where


@contextmanager
def _workshop(values: argparse.Namespace) -> Iterator[Workshop]:
    from minigpt.claims.running import Workshop
    from minigpt.experiments.arms_to_cells import Planner
    from minigpt.experiments.executors import executor_of
    from minigpt.experiments.record import logs
    from minigpt.training.interrupts import stop_on_signals

    scale, where = _asked(values)
    where.check_may_time("--dry-run", values.dry_run)
    where.check_may_time("--budget", values.budget is not None)
    device = scale.base.get("device", RunConfig.device)
    with (
        executor_of(where, scale.options.workers, device, logs(values.out)) as (executor, threads),
        stop_on_signals() as stop,
    ):
        planner = Planner(scale.base, scale.options.cells_dir, threads)
        yield Workshop(scale, planner, executor, values.out, stop)


def write_pages(directory: Path, site: Path | None = None) -> Path:
    """Draw all files of a ledger beside it, or only its HTML into a site; returns the first page."""
    from minigpt.claims.ledger import read_ledger
    from minigpt.report.breadcrumbs import addresses, cells_of_ledger
    from minigpt.report.claims_page import claims_pages

    ledger = read_ledger(directory)
    if site is not None:
        return _written(site, {name: page for name, page in claims_pages(ledger).items() if name.endswith(".html")})
    cells = cells_of_ledger(ledger, directory)
    if cells and not (directory / PAGE).is_file():
        _written(directory, claims_pages(ledger))  # each training leads to it, if it is there
    write_cell_pages(cells.values())
    return _written(directory, claims_pages(ledger, addresses(cells, directory)))


def _written(directory: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        make_directory((directory / name).parent)
        write_text(directory / name, content)
    return directory / PAGE


def _show_estimate(seconds: dict[str, float], as_json: bool) -> int:
    if as_json:
        print(to_json({"seconds": seconds}))
        return 0
    for claim, expected in seconds.items():
        print(f"{claim.ljust(4)}  {'done' if not expected else f'about {expected / 60:.1f} min'}")
    print("each as if run alone; trainings that claims share run once")
    return 0


def _show_verdicts(ledger: dict[str, Any], ran: set[str], page: Path, values: argparse.Namespace) -> int:
    from minigpt.report.claims_texts import terminal_list

    shown = {**ledger, "claims": [entry for entry in ledger["claims"] if entry["id"] in ran]}
    if values.json:
        print(to_json(shown))
    else:
        print(terminal_list(shown))
        show(page, values.open)
    return 0
