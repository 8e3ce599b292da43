"""Seeds beside syllogisms: a task that people set a domain's model, and a question that it is to decline. Pure.

The fields of a task are those of Self-Instruct's own seeds (arXiv 2212.10560, `seed_tasks.jsonl`); what else stands beside them is
set aside.
"""

from msgspec import Struct

from streams.errors import InvalidField


class Instance(Struct, frozen=True):
    """`input`: what the task is done on, if it needs anything."""

    output: str
    input: str = ""

    def __repr__(self) -> str:
        return "Instance(…)"


class SeedTask(Struct, frozen=True):
    """`is_classification`: each of its answers is one of a few fixed labels."""

    instruction: str
    instances: tuple[Instance, ...]
    is_classification: bool = False

    def __repr__(self) -> str:
        return "SeedTask(…)"

    def check(self) -> None:
        """Raise InvalidField for what is empty."""
        if not self.instruction.strip():
            raise InvalidField("instruction", "must not be empty")
        if not self.instances:
            raise InvalidField("instances", "must hold at least one")
        for number, one in enumerate(self.instances):
            if not one.output.strip():
                raise InvalidField(f"instances[{number}].output", "must not be empty")


class Aside(Struct, frozen=True):
    """A question that has nothing to do with the domain, and that its model is to decline."""

    question: str

    def __repr__(self) -> str:
        return "Aside(…)"
