"""The builders: what makes proposed examples out of a domain's material, and what each of them reads. Pure.

The work itself stands in `workers.builder`: a file and a row of the table there for each row here.
"""

from typing import Literal

from msgspec import Struct

Material = Literal["triples", "syllogisms", "passages", "tasks", "asides", "examples"]


class Builder(Struct, frozen=True):
    """`reads`: the material without which it has nothing to do. `teacher`: whether it needs the one that the policy names. `share`:
    so many of its proposals, accepted or not yet decided on, may there be for each example of the domain in force; None: any."""

    reads: Material
    teacher: bool = False
    share: float | None = None


BUILDERS: dict[str, Builder] = {
    "self-kg": Builder("triples"),
    "syllogism": Builder("syllogisms"),
    "cases": Builder("passages", teacher=True),
    "self-qa": Builder("passages", teacher=True),
    "self-instruct": Builder("tasks", teacher=True),
    "declining": Builder("asides", share=0.1),
    "style": Builder("examples", teacher=True, share=0.25),
    "rewordings": Builder("examples"),
}
