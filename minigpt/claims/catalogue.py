"""All rows of the ledger, in their order. Words and rules are fixed before a row is run.

`docs/ledger.md` names the rows that were redefined once first results were known.

The article: "ReLU Function: AI (Brace For These Hidden GPT Dangers)".

Sections of the article: I opening table, W "What is the ReLU Function", D "Hidden Dangers", A "Exploring Activation
Functions", N "Non-Linear Functions", G "Gradient Descent", B "Backpropagation", M "Misconceptions"; a number is a row.
C44 to C47 are derived: from the article's words, and from how Adam works. They join the exploratory family.
"""

from __future__ import annotations

from minigpt.claims.claim import Claim
from minigpt.claims.rows import (
    activations,
    cost_function,
    dead_width,
    death,
    gradients,
    language,
    minima,
    moments_and_decay,
    overfitting,
    planted_bias,
    practice,
    readability,
    selection,
    unmeasured,
)

CLAIMS: dict[str, Claim] = {
    claim.id: claim
    for claim in sorted(
        (
            *death.CLAIMS,
            *activations.CLAIMS,
            *gradients.CLAIMS,
            *practice.CLAIMS,
            *overfitting.CLAIMS,
            *selection.CLAIMS,
            *language.CLAIMS,
            *minima.CLAIMS,
            *cost_function.CLAIMS,
            *planted_bias.CLAIMS,
            *readability.CLAIMS,
            *unmeasured.CLAIMS,
            *dead_width.CLAIMS,
            *moments_and_decay.CLAIMS,
        ),
        key=lambda claim: claim.number,
    )
}
