"""How people judge proposed examples: which wait first, which are judged by two, and when enough has been said. Pure.

A share of them, by lot over their ids, is judged by two annotators who do not see each other's verdict. Where these differ, or one
of them wrote it otherwise, a third settles it; until then nothing is learned of it.
"""

import hashlib
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from streams.errors import InvalidField

VerdictKind = Literal["accept", "edit", "reject"]
Concern = Literal["disputed", "uncertain", "hard"]
# What waits for a person, in this order.
PLACES: dict[str, int] = {"disputed": 0, "uncertain": 1, "hard": 2, "proposed": 3}


class Annotation(Struct, frozen=True):
    """`double_share`: of what waits for a person, so much is judged by two."""

    double_share: float = 0.1

    def check(self) -> None:
        """Raise Invalid naming the field."""
        if not 0 <= self.double_share <= 1:
            raise InvalidField("annotation.double_share", f"must be from 0 to 1; got {self.double_share}")


class Verdict(Struct, frozen=True):
    person: str
    kind: VerdictKind


class Judging(Struct, frozen=True):
    """What was said of a proposal since it was decided on last, in order. `doubled`: two must agree."""

    doubled: bool
    verdicts: tuple[Verdict, ...] = ()

    @property
    def outcome(self) -> VerdictKind | None:
        """What it comes to; None: somebody else has to look at it."""
        kinds = [verdict.kind for verdict in self.verdicts]
        if not self.doubled:
            return kinds[0] if kinds else None
        if len(kinds) > 2:
            return kinds[2]
        return kinds[0] if len(kinds) == 2 and kinds[0] == kinds[1] != "edit" else None

    @property
    def disputed(self) -> bool:
        return len(self.verdicts) > 1 and self.outcome is None

    def takes(self, person: str) -> bool:
        """Whether a verdict of that person counts: each has one, and nobody has one on what is settled."""
        return self.outcome is None and all(verdict.person != person for verdict in self.verdicts)

    def with_verdict(self, verdict: Verdict) -> "Judging":
        return replace(self, verdicts=(*self.verdicts, verdict)) if self.takes(verdict.person) else self

    def without(self, person: str) -> "Judging":
        return replace(self, verdicts=tuple(one for one in self.verdicts if one.person != person))


def lot(proposal_id: str) -> float:
    """From 0 to below 1, the same whenever it is drawn."""
    return int.from_bytes(hashlib.sha256(proposal_id.encode()).digest()[:6], "big") / 2**48


def is_doubled(proposal_id: str, share: float) -> bool:
    return lot(proposal_id) < share
