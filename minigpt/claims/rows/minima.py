"""A claim about the minima in which trainings end, by a proxy (C36)."""

from __future__ import annotations

from minigpt.claims.claim import ArmFigures, Claim, Condition
from minigpt.claims.effects import figure, loss, measured
from minigpt.claims.gates import trained
from minigpt.experiments.arms import Arm

ONE, ANOTHER = "one", "another"
OTHER_SEEDS = 10_000
LEAST_BARRIER = 0.1  # nats
CLEARLY_WORSE = 0.02  # nats

C36 = Claim(
    id="C36",
    where="A4",
    quote="getting stuck in local minima",
    statement="Trainings that differ only in their seed end in different minima, some clearly worse than others.",
    meaning=(
        "Two trainings from different seeds; the loss on the straight line between them. True if it rises at least "
        "0.1 nats above both ends' average, and if the ends lie at least 0.02 nats apart on average. Neurons are "
        "not matched first: a barrier may mean no more than another order of the same neurons."
    ),
    tag="proxy",
    forecast="barriers between the minima, equal losses in them",
    expected="REFUTED",
    arms={ONE: Arm(), ANOTHER: Arm(seed_offset=OTHER_SEEDS)},
    measurements={ONE: ("loss_barrier", "ngrams")},
    partners={ONE: ANOTHER},
    conditions=(
        Condition("barrier between the two", "nats", LEAST_BARRIER, figure(ONE, "loss_barrier", "barrier")),
        Condition("distance of their losses", "nats", CLEARLY_WORSE, figure(ONE, "loss_barrier", "apart")),
    ),
    gates=(trained(ONE), trained(ANOTHER, text=ONE)),
    finding="Between two trainings the loss rises by {barrier} nats; at their ends it differs by {apart}.",
    numbers={name: ("nats", figure(ONE, "loss_barrier", name)) for name in ("barrier", "apart")},
    tables=(
        ArmFigures("Ends", {"loss": loss}),
        ArmFigures("Between them", {"barrier, nats": measured("loss_barrier", "barrier")}, (ONE,)),
    ),
)

CLAIMS = (C36,)
