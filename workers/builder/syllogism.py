"""The builder `syllogism`: examples that show all three steps, from the syllogisms that a data team wrote."""

from collections.abc import Iterator

from streams.facts.material import Source
from streams.syllogisms import asked_and_answered
from workers.builder.material import Made, Material, Proposed, Step
from workers.builder.teacher import Desk


def build(material: Material, desk: Desk) -> Iterator[Made]:
    found = material.syllogisms()
    for done, (id_, syllogism) in enumerate(found, 1):
        instruction, input_, output = asked_and_answered(syllogism)
        yield Proposed("syllogism", (Source("seed", id_),), instruction, output, input_)
        yield Step(done, len(found))
