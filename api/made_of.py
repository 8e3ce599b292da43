"""What a proposal was made of, as the data room and the queue show it."""

from typing import Any

import msgspec
from sqlalchemy import Connection, select

from api.datasets import opened
from api.services import Services
from streams import schema


def made_of(services: Services, connection: Connection, kind: str, id_: str) -> dict[str, Any]:
    """One source of a proposal, in its words: of a passage, a triple, a seed or an example. `gone` where they were erased or it
    is not there; a prompt is somebody's own words, in their conversation, and is named only."""
    found: dict[str, Any] = {"kind": kind, "id": id_}
    if kind == "passage":
        s, d = schema.passages.c, schema.documents.c
        joined = schema.passages.join(schema.documents, d.document_id == s.document_id)
        asked = select(s.passage, d.title, d.document_id, d.retired_reason).select_from(joined)
        cut = connection.execute(asked.where(s.passage_id == id_)).one_or_none()
        words = None if cut is None else opened(services, cut.passage)
        title = None if cut is None else opened(services, cut.title)
        if cut is None or words is None or title is None:
            return found | {"gone": True}
        passage, document = msgspec.json.decode(words), msgspec.json.decode(title)
        said = {"place": passage["place"], "text": passage["text"], "document_id": cut.document_id}
        return found | said | {"title": document["title"] or document["name"], "retired": cut.retired_reason}
    if kind == "prompt":
        return found
    if kind == "example":
        one = schema.examples.c
        example = connection.execute(
            select(one.prompt, one.answer, one.retired_reason).where(one.example_id == id_)
        ).one_or_none()
        answer = None if example is None else opened(services, example.answer)
        if example is None or answer is None:
            return found | {"gone": True}
        return found | {"text": answer, "retired": example.retired_reason}
    table, key, words_in = {
        "triple": (schema.triples, schema.triples.c.triple_id, schema.triples.c.triple),
        "seed": (schema.seeds, schema.seeds.c.seed_id, schema.seeds.c.seed),
    }[kind]
    row = connection.execute(select(words_in.label("words"), table.c.retired_reason).where(key == id_)).one_or_none()
    words = None if row is None else opened(services, row.words)
    if row is None or words is None:
        return found | {"gone": True}
    return found | {"retired": row.retired_reason, kind: msgspec.json.decode(words)}
