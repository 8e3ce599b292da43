"""The data room over HTTP: every example of a domain, and every proposal that became none, as one table; the story of one; and what
a person says of many at once, which is one decision and can be taken back by its id.

What stands in plain columns is filtered and counted by the database. Words are sealed: a search opens them one after the other, and
says where it stopped.
"""

import time
from collections.abc import Collection, Sequence
from typing import Any, Literal, cast

import msgspec
from flask import Blueprint, Response, request
from msgspec import Struct, field
from sqlalchemy import Connection, Row, Select, Subquery, case, func, literal, null, or_, select, union_all

from api.access import needs
from api.datasets import MOST_ITEMS
from api.decisions import CORRECTION, Verb, decide_on, take_back
from api.errors import ApiError
from api.formats.turns import messages_of
from api.items import Example
from api.known import CATCH_UP_S, domain_row, living_domain
from api.material import opened_proposal
from api.services import Services
from api.stories import story_of
from api.wire import no_control_characters, read_object, reply, typed, whole_argument
from streams import history, schema, sealing
from streams.errors import Behind, Erased, Invalid
from streams.events import DOMAINS
from streams.personal import kinds_in
from streams.sealed import Sealed
from streams.store import postgres_trouble

State = Literal["accepted", "proposed", "rejected", "retired", "erased", "masked"]
IMPORT = "import"  # a source, as CORRECTION is; the others are the names of builders
SEARCHED_AT_ONCE = 500
SEARCHED_MOST = 20_000
SEARCH_S = 3.0
SHOWN_ITEMS = 50


class Filter(Struct, frozen=True, forbid_unknown_fields=True):
    """Which rows; None: whatever it is. `state`: `masked` are those accepted of whose words a training masks something. `person`:
    who said it, or decided on it. `brought`: the import, build or decision that it came by. `text` stands in its question or its
    answer, whatever the case."""

    state: State | None = None
    source: str | None = None
    person: str | None = None
    brought: str | None = None
    text: str | None = None

    @property
    def of_words(self) -> bool:
        """Whether only opening them tells which these are."""
        return self.text is not None or self.state == "masked"

    def holds(self, row: dict[str, Any]) -> bool:
        """Of its words."""
        if self.state == "masked" and not row["masked"]:
            return False
        sought = (self.text or "").casefold()
        return any(sought in row[name].casefold() for name in ("question", "answer"))


class _Decided(Struct, forbid_unknown_fields=True):
    """Of rows by their `ids`, or of all that a `filter` finds, of which there must be `count`: what has come or gone since it was
    counted is not decided on unseen."""

    verb: Verb
    ids: list[str] = field(default_factory=list)
    filter: Filter | None = None
    count: int | None = None
    reason: str = ""


class _Undone(Struct, forbid_unknown_fields=True):
    decision: str


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("examples", __name__)

    @views.get("/v1/domains/<domain>/examples/table")
    @needs("data")
    def list_examples(domain: str) -> Response:
        row, wanted = domain_row(services, domain), _wanted()
        limit = whole_argument("limit", SHOWN_ITEMS, 1, 1000)
        before = whole_argument("before", 2**63 - 1, 0, 2**63 - 1)
        found = _page(services, row, wanted, before, limit)
        counts = None if "before" in request.args else _counts(services, domain, wanted)
        return reply(found | {"counts": counts, "domain": domain})

    @views.get("/v1/domains/<domain>/examples/<example_id>")
    @needs("data")
    def show_example(domain: str, example_id: str) -> Response:
        domain_row(services, domain)
        return reply(story_of(services, domain, example_id))

    @views.post("/v1/domains/<domain>/examples/decide")
    @needs("data")
    def decide(domain: str) -> Response:
        said = typed(read_object(), _Decided)
        if bool(said.ids) == (said.filter is not None):
            raise ApiError(400, "give either ids or a filter", param="ids")
        if len(said.ids) > MOST_ITEMS:
            raise ApiError(413, f"at most {MOST_ITEMS} at once", param="ids", code="too_many_items")
        if len(no_control_characters(said.reason, "reason")) > 200:
            raise ApiError(400, "reason must be at most 200 characters", param="reason")
        row = living_domain(services, domain)
        _caught_up(services)
        ids = said.ids or _all_of(services, row, cast(Filter, said.filter), said.count)
        return reply(decide_on(services, domain, said.verb, ids, said.reason))

    @views.post("/v1/domains/<domain>/examples/undo")
    @needs("data")
    def undo(domain: str) -> Response:
        said = typed(read_object(), _Undone)
        living_domain(services, domain)
        _caught_up(services)
        return reply(take_back(services, domain, said.decision))

    return views


def _wanted() -> Filter:
    """Of the query string. Raises ApiError."""
    said = {name: request.args[name] for name in Filter.__struct_fields__ if request.args.get(name)}
    if said.get("state") == "all":
        del said["state"]
    if "text" in said and not said["text"].strip():
        del said["text"]
    return typed(said, Filter)


def _table(domain: str, wanted: Filter) -> Subquery[Any]:
    """Every row, without words. `place`: where it was accepted or proposed on the domain's partition, which tells rows apart."""
    return union_all(_examples(domain, wanted), _proposals(domain, wanted)).subquery()


def _examples(domain: str, wanted: Filter) -> Select[Any]:
    e, p = schema.examples.c, schema.proposals.c
    state = case((e.retired_reason == "erased", "erased"), (e.retired_offset.is_not(None), "retired"), else_="accepted")
    source = case((e.kind == CORRECTION, CORRECTION), else_=func.coalesce(p.builder, IMPORT))
    found = select(
        e.example_id.label("id"),
        e.accepted_offset.label("place"),
        state.label("state"),
        source.label("source"),
        e.person.label("person"),
        e.proposal_id,
        e.example_id,
    ).select_from(schema.examples.outerjoin(schema.proposals, p.proposal_id == e.proposal_id))
    found = found.where(e.domain == domain)
    match wanted.state:
        case "accepted" | "masked":
            found = found.where(e.retired_offset.is_(None))
        case "retired":
            found = found.where(e.retired_offset.is_not(None), e.retired_reason != "erased")
        case "erased":
            found = found.where(e.retired_offset.is_not(None), e.retired_reason == "erased")
        case "proposed" | "rejected":
            found = found.where(literal(False))
    match wanted.source:
        case None:
            pass
        case "correction":
            found = found.where(e.kind == CORRECTION)
        case "import":
            found = found.where(e.kind != CORRECTION, e.proposal_id.is_(None))
        case builder:
            found = found.where(p.builder == builder)
    if wanted.person is not None:
        found = found.where(or_(e.person == wanted.person, e.retired_by == wanted.person))
    if wanted.brought is not None:
        found = found.where(or_(e.accepted_in == wanted.brought, e.retired_in == wanted.brought))
    return found


def _proposals(domain: str, wanted: Filter) -> Select[Any]:
    """Those of which there is no example."""
    p = schema.proposals.c
    found = select(
        p.proposal_id.label("id"),
        p.proposed_offset.label("place"),
        p.state.label("state"),
        p.builder.label("source"),
        p.decided_by.label("person"),
        p.proposal_id,
        null().label("example_id"),
    ).where(p.domain == domain, p.example_id.is_(None))
    if wanted.state is not None:
        found = found.where(p.state == wanted.state)  # none is masked before somebody has accepted it
    if wanted.source is not None:
        found = found.where(p.builder == wanted.source)
    if wanted.person is not None:
        found = found.where(p.decided_by == wanted.person)
    if wanted.brought is not None:
        found = found.where(or_(p.decided_in == wanted.brought, p.build_id == wanted.brought))
    return found


def _counts(services: Services, domain: str, wanted: Filter) -> list[dict[str, Any]]:
    """How many there are of each source and state, but for what the filter says of words."""
    table = _table(domain, wanted)
    asked = select(table.c.source, table.c.state, func.count().label("n")).group_by(table.c.source, table.c.state)
    with postgres_trouble(), services.database.connect() as connection:
        return [dict(row) for row in connection.execute(asked.order_by("source", "state")).mappings()]


def _some(connection: Connection, domain: str, wanted: Filter, before: int, most: int) -> list[Row[Any]]:
    """The newest before that place. Each half is cut by itself, so that neither is sorted as a whole."""
    halves = []
    for half, place in (
        (_examples(domain, wanted), schema.examples.c.accepted_offset),
        (_proposals(domain, wanted), schema.proposals.c.proposed_offset),
    ):
        halves.append(half.where(place < before).order_by(place.desc()).limit(most).subquery().select())
    table = union_all(*halves).subquery()
    return list(connection.execute(select(table).order_by(table.c.place.desc()).limit(most)))


def _page(services: Services, of: dict[str, Any], wanted: Filter, before: int, limit: int) -> dict[str, Any]:
    """The newest rows before that place, opened. `next`: where to go on; `stopped`: that is not the end of a page, but of what one
    request opens."""
    mask = of["policy"].get("mask", ())
    found, searched = list[dict[str, Any]](), 0
    until, at_once = time.monotonic() + SEARCH_S, SEARCHED_AT_ONCE if wanted.of_words else limit
    while True:
        with postgres_trouble(), services.database.connect() as connection:
            rows = _some(connection, of["domain"], wanted, before, at_once + 1)
            more, rows = len(rows) > at_once, rows[:at_once]
            words = _opened(services, connection, rows, mask)
        for row in rows:
            shown = words[row.id]
            searched, before = searched + 1, row.place
            if wanted.of_words and not wanted.holds(shown):
                continue
            found.append(shown)
            if len(found) == limit:
                break
        ended = not more and (not rows or rows[-1].place == before)
        stopped = not ended and len(found) < limit and (searched >= SEARCHED_MOST or time.monotonic() > until)
        if ended or stopped or len(found) == limit:
            return {"data": found, "next": None if ended else before, "searched": searched, "stopped": stopped}


def _opened(
    services: Services, connection: Connection, rows: Sequence[Row[Any]], mask: Collection[str]
) -> dict[str, dict[str, Any]]:
    """The rows with their words, by id: of an example the prompt alone, without what stands before it. `masked`: the kinds of
    personal data that a training masks in these words."""
    e, p = schema.examples.c, schema.proposals.c
    examples = {
        row.example_id: row
        for row in connection.execute(
            select(e.example_id, e.prompt, e.answer, e.said_at, e.edited, e.retired_reason).where(
                e.example_id.in_([row.id for row in rows if row.example_id is not None])
            )
        )
    }
    proposals = {
        row.proposal_id: row
        for row in connection.execute(
            select(p.proposal_id, p.proposal, p.answer, p.reason).where(
                p.proposal_id.in_([row.id for row in rows if row.example_id is None])
            )
        )
    }
    found = {}
    for row in rows:
        shown = {name: row._mapping[name] for name in ("id", "state", "source", "person", "proposal_id", "example_id")}
        if row.example_id is not None:
            example = examples[row.example_id]
            shown |= {"edited": example.edited, "reason": example.retired_reason, "said_at": example.said_at}
            shown |= _words(services, example.prompt, example.answer)
        else:
            proposal = proposals[row.id]
            shown |= {"edited": False, "reason": proposal.reason, "said_at": None}
            shown |= _proposed(services, proposal)
        found[row.id] = shown | {"masked": sorted(kinds_in([shown["question"], shown["answer"]], mask))}
    return found


def _words(services: Services, prompt: Any, answer: Any) -> dict[str, str]:
    """Nothing where they were erased, or are no conversation."""
    try:
        with postgres_trouble():
            question = history.open_question(msgspec.convert(prompt, Sealed), services.keyring)
            return {
                "question": question,
                "answer": sealing.open_sealed(msgspec.convert(answer, Sealed), services.keyring),
            }
    except (Erased, Invalid):
        return {"question": "", "answer": ""}


def _proposed(services: Services, proposal: Any) -> dict[str, str]:
    said = opened_proposal(services, proposal)
    if said is None:
        return {"question": "", "answer": ""}
    item = msgspec.convert(said, Example)
    return {"question": messages_of(item)[-1]["content"], "answer": item.output}


def _all_of(services: Services, of: dict[str, Any], wanted: Filter, count: int | None) -> list[str]:
    """The ids of all that the filter finds. Raises ApiError where these are too many, or not as many as were counted."""
    if wanted.of_words:
        found = _page(services, of, wanted, 2**63 - 1, MOST_ITEMS + 1)
        if found["stopped"]:
            message = f"the search ended after {found['searched']} of them; narrow the filter, or give ids"
            raise ApiError(413, message, param="filter.text", code="too_many_items")
        ids = [row["id"] for row in found["data"]]
    else:
        table = _table(of["domain"], wanted)
        with postgres_trouble(), services.database.connect() as connection:
            ids = list(connection.execute(select(table.c.id).limit(MOST_ITEMS + 1)).scalars())
    if len(ids) > MOST_ITEMS:
        message = f"the filter finds more than the {MOST_ITEMS} that are decided on at once"
        raise ApiError(413, message, param="filter", code="too_many_items")
    if count is None or len(ids) != count:
        raise ApiError(
            409, f"the filter finds {len(ids)} now: say so with count to go on", param="count", code="other_count"
        )
    return ids


def _caught_up(services: Services) -> None:
    if not services.recorder.wait_for_ends(DOMAINS, CATCH_UP_S):
        raise Behind("what there is to decide on is not known yet: the log is not followed at present")
