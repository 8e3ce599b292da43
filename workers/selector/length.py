"""The step `length`: what is longer than the training reads is not learned."""

from collections.abc import Sequence

from streams.selection import Length
from workers.selector.candidates import Decision, Instruments, OpenExample

TOO_LONG = "longer than the recipe's row_tokens"


def judge(step: Length, candidates: Sequence[OpenExample], instruments: Instruments) -> list[Decision]:
    """By the very function that will encode them."""
    fitting = [instruments.tokens(candidate) is not None for candidate in candidates]
    return [
        Decision(candidate.example_id, fits, "" if fits else TOO_LONG)
        for candidate, fits in zip(candidates, fitting, strict=True)
    ]
