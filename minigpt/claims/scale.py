"""How the ledger is run: its scale, how many seeds, where results are kept. Plain data without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt.base.flags import flag
from minigpt.claims.claim import Claim, Plan
from minigpt.training.config import with_preset

LEDGER = Path("runs/claims")
LEDGER_FILE = "ledger.json"

# Small enough for hundreds of trainings on two cores. C is a multiple of 24, so that gated widths (8C/3) are whole.
# The rate is about the best of all activations compared (docs/measurements.md); biases are on, as in GPT-2. After 2000
# steps a ReLU model is well below a trigram's loss (1.58 against 1.95), which is what the training gates ask for. Rows
# that are decided by the loss of an activation train twice the steps, where it is below a 4-gram's.
BASE: dict[str, Any] = {
    "n_embd": 96,
    "batch_size": 12,
    "steps": 2000,
    "lr": 4e-3,
    "eval_every": 50,
    "eval_tokens": 8192,
    "checkpoint_every": 0,
    "compile": "off",
}


@dataclass(frozen=True)
class LedgerOptions:
    """What is asked of the ledger besides training flags."""

    seeds: int = flag(
        0, "ledger", "judged seeds of each arm; 0: as many as each claim declares", at_least=0, below=1 << 16
    )
    look: int = flag(
        1, "ledger", "how many of a claim's declared looks to take, more seeds in each", at_least=1, below=100
    )
    workers: int = flag(0, "ledger", "trainings at a time; 0: one for each core, or GPU", at_least=0, below=1 << 12)
    cohort: int = flag(1, "ledger", "models of one shape to train as one; more than 1 is for GPUs", at_least=1)
    cells_dir: str = flag("runs/cells", "ledger", "where trainings are kept, shared with ablations", path=True)


@dataclass(frozen=True)
class Scale:
    """What all claims are trained on and how: training flags over `BASE`, and the options."""

    asked: dict[str, Any]
    options: LedgerOptions

    @property
    def base(self) -> dict[str, Any]:
        """The flags that all arms share, before their own settings."""
        return with_preset({**BASE, **self.asked})

    @property
    def first_seed(self) -> int:
        """The seed that all claims begin with."""
        return int(self.base.get("seed", 1337))

    def plan(self, claim: Claim) -> Plan:
        """With how many seeds a claim is judged, and chosen; fixed before it is run."""
        return Plan((self.options.seeds,) if self.options.seeds else claim.looks, claim.choosing)

    def seeds(self, claim: Claim) -> list[int]:
        """The seeds to train of a claim's arms: those that choose, then those judged up to the look asked for."""
        plan = self.plan(claim)
        due = plan.choosing + plan.looks[min(self.options.look, len(plan.looks)) - 1]
        return [self.first_seed + number for number in range(due)]
