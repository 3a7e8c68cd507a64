"""How sure a count of zero is.

A neuron that fires on a share p of all tokens stays silent on N independent ones with probability (1−p)^N. So "never
fired on N tokens" excludes, at a chosen confidence, every rate above a bound, and no more than that.

NOTE: Tokens of one text are not independent, which makes these bounds optimistic. The same formula with sequences in
the place of tokens treats each window as one observation, which errs on the other side.
"""

from __future__ import annotations

import math

from minigpt.base.errors import UsageError

ERROR_RATE = 0.05


def silent_rate_upper(tokens: int, neurons: int = 1, error_rate: float = ERROR_RATE) -> float:
    """Firing rate above which none of `neurons` neurons would have stayed silent on `tokens` tokens.

    Holds for all of them together with probability 1 − `error_rate` (Bonferroni): 1 − (error_rate/neurons)^(1/tokens),
    about 3/tokens for a single neuron at 95 % (the rule of three, Hanley & Lippman-Hand 1983).

    Raises:
        UsageError: no tokens or no neurons.
    """
    if tokens < 1 or neurons < 1:
        raise UsageError(f"a bound needs tokens and neurons; got {tokens} and {neurons}; probe some text first")
    return -math.expm1(math.log(error_rate / neurons) / tokens)


def truly_silent(never: int, once: int, twice: int) -> float:
    """Estimate how many of `never` silent neurons never fire at all, from how many fired once and twice.

    The others are merely rare: never − once·(once − 1)/(2·(twice + 1)), but not below 0. A neuron that was not seen
    firing is to the instrument what a species that was not caught is to a biologist.

    Source: Chao 1984, in the bias-corrected form of Chao 2005.
    """
    return max(0.0, never - once * (once - 1) / (2 * (twice + 1)))
