"""What a domain's examples and proposals answer already: whatever answers the same question otherwise is in dispute."""

import msgspec
from sqlalchemy import text

from streams import history
from streams.alike import Words, words_of
from streams.errors import Erased
from streams.reading.learning import examples_as_of
from streams.sealed import Sealed
from streams.sealing import open_sealed
from streams.store import postgres_trouble
from workers.context import Context
from workers.selector.opened import open_examples

Answered = dict[Words, set[Words]]  # by question, of which nothing stood before it


def answered(context: Context, domain: str, pin: int) -> Answered:
    """Of what was not rejected; what does not open any more is passed over."""
    with postgres_trouble(), context.database.connect() as connection:
        examples = examples_as_of(connection, domain, pin, ())
        earlier = history.before(connection, {example.follows for example in examples})
        asked = text("SELECT proposal FROM noria.proposals WHERE domain = :domain AND state != 'rejected'")
        proposals = connection.execute(asked, {"domain": domain}).scalars().all()
    found: Answered = {}
    for example in open_examples(examples, earlier, frozenset(), context.keyring).candidates:
        if not example.context:
            found.setdefault(words_of(example.question), set()).add(words_of(example.answer))
    for sealed in proposals:
        try:
            said = msgspec.json.decode(open_sealed(msgspec.convert(sealed, Sealed), context.keyring))
        except Erased:
            continue
        question = words_of(f"{said['instruction']} {said['input']}")
        found.setdefault(question, set()).add(words_of(said["output"]))
    return found
