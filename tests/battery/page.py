"""Draws `docs/reliability.md` from the figures that are kept."""

from __future__ import annotations

from typing import Any

from battery.found import FOUND
from battery.groups import GROUPS

TOP = """# Reliability

What minigpt promises about its files and its numbers, and how often that was tried.

## Against what

Hostile files (checkpoints, configurations, texts, run names) and an unreliable computer: killed processes, full disks,
power cuts, flipped bits. Not against a hostile user of the same machine. A SHA-256 beside a file proves that it is
whole, not who wrote it; a file from a stranger is safe because nothing that reads it can run code.

## What is promised

- **Nothing committed is lost.** A checkpoint is committed when its manifest appears, written, flushed and renamed after
  everything it names. Whatever happens, the old state or the new one is found. `minigpt verify RUN` checks all of it.
- **Resume is exact.** A training cut anywhere ends with the same bits and the same log as one that was left alone: same
  build of torch, same processor features, same number of threads, same dtype. Anything else prints "not bit-exact".
- **Watching changes nothing.** Evaluation, logging, sampling and reports draw no random number of the training.
- **Damage is noticed.** Sizes and hashes are compared before anything is parsed.
- **Mistakes cost one line.** `error: what; what was got; what to do`, an exit code, and nothing on disk changed.
- **Stopping is quick.** Ctrl-C and SIGTERM commit a checkpoint, as a rule within a batch and a save.

"""

BOTTOM = """
## How to repeat this

```bash
python -m tests.battery                # everything; writes this page
python -m tests.battery --only kills   # one group
python -m tests.battery --missing      # the groups of which no full run is kept
python -m tests.battery --quick        # a little of each; writes nothing
```

Each failure is printed with the seed that repeats it. `docs/reliability.json` holds the figures.
`tests/battery/cases.py` names the tests of each of the 58 kinds of fault. GPUs, network file systems and real power
cuts were not tried.
"""


def draw(kept: dict[str, Any]) -> str:
    """The page; `kept` has the figures of each group that was run."""
    return TOP + _table(kept) + _found() + BOTTOM


def _table(kept: dict[str, Any]) -> str:
    rows = ["| group | what was done | count | failures | seconds | |", "|---|---|--:|--:|--:|---|"]
    for name, record in kept.items():
        short = "" if record["run"] == "full" else f"{record['run']} run; "
        for figure in record["figures"]:
            cells = (
                name,
                figure["what"],
                f"{figure['count']:,}",
                f"{figure['failures']:,}",
                f"{figure['seconds']:.0f}",
                (short + figure["note"]).removesuffix("; "),
            )
            rows.append("| " + " | ".join(cells) + " |")
    machines = sorted({record["machine"] for record in kept.values()})
    seeds = sorted({figure["seed"] for record in kept.values() for figure in record["figures"]})
    minutes = sum(record["seconds"] for record in kept.values()) / 60
    on = f"{'; '.join(machines)}; seed {', '.join(map(str, seeds))}"
    where = f"Measured on {on}, in {minutes:.0f} minutes." if kept else "Nothing was run yet."
    missing = [name for name in GROUPS if kept.get(name, {}).get("run") != "full"]
    where += f" Not run in full yet: {', '.join(missing)}." if missing else ""
    return "## What was tried\n\n" + "\n".join(rows) + f"\n\n{where}\n\n"


def _found() -> str:
    rows = ["| found by | what happened | what happens now |", "|---|---|---|"]
    rows += [f"| {fault.by} | {fault.happened} | {fault.now} |" for fault in FOUND]
    return "## What was found on the way\n\n" + "\n".join(rows) + "\n"
