"""What `minigpt verify` finds in a folder: a run, an ablation, a ledger, an audit; of others it says what they are."""

from __future__ import annotations

from pathlib import Path

from minigpt.base import storage
from minigpt.base.errors import CheckpointError, MinigptError, StopRequestedError
from minigpt.claims.scale import LEDGER_FILE
from minigpt.experiments import record
from minigpt.interop import audit
from minigpt.training import run_directory
from minigpt.training.verification import Finding, verify

_MOST_NAMED = 3  # runs of a folder that an error names


def verify_folder(directory: Path) -> list[Finding]:
    """Check everything in a folder that minigpt has sealed or knows the hash of.

    Raises:
        CheckpointError: nothing in it could be checked.
    """
    if (directory / record.PLAN).is_file():
        return _ablation(directory)
    if (directory / LEDGER_FILE).is_file():
        return _ledger(directory)
    if (directory / audit.RECORD).is_file():
        return _audit(directory)
    _refuse_other_folders(directory)
    return verify(directory)


def _ablation(directory: Path) -> list[Finding]:
    """The plan is unaltered; of each training the first fault."""
    findings = [Finding("plan", None)]
    for cell in record.read_plan(directory)["cells"]:
        try:
            error = next((found.error for found in verify(directory / cell["directory"]) if found.error), None)
        except StopRequestedError:
            raise
        except MinigptError as reason:
            error = reason
        findings.append(Finding(f"{cell['arm']}, seed {cell['seed']} ({cell['id']})", error))
    return findings


def _ledger(directory: Path) -> list[Finding]:
    """The ledger and the measurements beside it are as they were written; its trainings are runs elsewhere."""
    from minigpt.claims import ledger, measuring

    ledger.read_ledger(directory)
    measured = sorted((directory / measuring.FOLDER).glob("*.json"))
    return [Finding("ledger", None), *(Finding(f"measurement {path.stem}", _seal_broken(path)) for path in measured)]


def _audit(directory: Path) -> list[Finding]:
    """The record is as it was written, and the table is the one that it names."""
    if broken := _seal_broken(directory / audit.RECORD):
        return [Finding("audit", broken)]
    files = storage.read_json(directory / audit.RECORD, CheckpointError)["files"]
    path = directory / audit.TABLE
    if storage.sha256_file(path, CheckpointError) == files.get(audit.TABLE):
        return [Finding("audit", None), Finding("table", None)]
    return [Finding("audit", None), Finding("table", CheckpointError(f"{path} was altered; repeat `minigpt audit`"))]


def _seal_broken(path: Path) -> CheckpointError | None:
    if storage.read_sealed(path, CheckpointError) is not None:
        return None
    return CheckpointError(f"{path} was altered; its own SHA-256 does not fit; repeat the command that wrote it")


def _refuse_other_folders(directory: Path) -> None:
    """Say of a folder that is no run what it is, if that can be told."""
    if (directory / "config.json").is_file() and not (directory / run_directory.METRICS).exists():
        described = storage.read_json(directory / "config.json", CheckpointError)
        if isinstance(described, dict) and "model_type" in described:
            what = f"{directory} is a model for Hugging Face, not a run; it states no hashes to compare with"
            raise CheckpointError(
                f"{what}; verify the run that it was made of, or measure it: `minigpt audit {directory}`"
            )
    runs = sorted(path.parent for path in directory.glob(f"*/{run_directory.CONFIG}"))
    if runs and not (directory / run_directory.CONFIG).exists():
        named = ", ".join(map(str, runs[:_MOST_NAMED])) + (", …" if len(runs) > _MOST_NAMED else "")
        raise CheckpointError(f"{directory} is no run but holds {len(runs)}; {named}; name one of them")
