"""Why a round begins, or not yet: a code, and the values that belong to it. Words are made of it where somebody reads it. Pure."""

from datetime import datetime
from typing import Literal

from msgspec import Struct

Code = Literal[
    # why one begins
    "corrections_enough",
    "preferences_enough",
    "release_old",
    "schedule_due",
    "asked_for",
    "opening",
    "opening_asked_for",
    "from_base",  # beside another: what it starts from
    "from_base_asked_for",
    "base_asked_for",
    "in_words",  # of an older log, which holds sentences
    # what is missing
    "corrections",
    "preferences",
    "people",
    "named_people",
    "release_old_at",
    "release_old_nothing_new",
    "schedule_at",
    "schedule_never",
    "budget_used",
    "quiet_hours",
    "settling",
    "round_under_way",
    "no_release",
    "not_created",
    "retired",
]
Value = int | float | str


class Reason(Struct, frozen=True):
    """`values` by name; a time is in ISO 8601. A code that a reader does not know is shown as it is."""

    code: str
    values: dict[str, Value] = {}


def reason(code: Code, **values: Value | datetime) -> Reason:
    return Reason(code, {name: v.isoformat() if isinstance(v, datetime) else v for name, v in values.items()})
