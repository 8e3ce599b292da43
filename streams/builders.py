"""The builders: what makes proposed examples out of a domain's material, and what each of them reads. Pure.

The work itself stands in `workers.builder`: a file and a row of the table there for each row here.
"""

from typing import Literal

from msgspec import Struct

Material = Literal["triples", "syllogisms", "passages"]


class Builder(Struct, frozen=True):
    """`reads`: the material without which it has nothing to do. `teacher`: whether it asks the one that the policy names."""

    reads: Material
    teacher: bool = False


BUILDERS: dict[str, Builder] = {
    "self-kg": Builder("triples"),
    "syllogism": Builder("syllogisms"),
    "self-qa": Builder("passages", teacher=True),
}
