"""People: what became of their corrections, and their erasure."""

from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

from flask import Blueprint, Response
from sqlalchemy import Connection, Text, and_, any_, cast, delete, func, or_, select
from sqlalchemy.dialects.postgresql import ARRAY

from api.access import caller, needs, source_of
from api.errors import ApiError
from api.known import check_spoke
from api.services import Services, person_subject
from api.wire import check_person, reply, whole_argument
from streams import schema
from streams.erasures import domains_of, erasure
from streams.errors import Behind
from streams.events import CONVERSATIONS, DOMAINS
from streams.facts.conversations import REPLACED
from streams.plan import UNDER_WAY
from streams.reading.learning import lines, live_lines
from streams.store import postgres_trouble

CATCH_UP_S = 5.0
LISTED = 1000
MOST_LISTED = 5000


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("people", __name__)

    @views.get("/v1/people/<person>/corrections")
    @needs("chat")
    def list_corrections(person: str) -> Response:
        check_person(person, "person")
        who = caller()
        if person != who.person:
            if who.speaks_as is not None and not who.may("data"):
                raise ApiError(403, "a chat key sees its own person's corrections only", code="role_missing")
            check_spoke(services, person, who.domains)
        limit = whole_argument("limit", LISTED, 1, MOST_LISTED)
        found, total = corrections(services, person, limit, who.domains)
        return reply({"person": person, "data": found, "total": total})

    @views.post("/v1/people/<person>/erase")
    @needs("operator", every_domain=True)
    def erase_person(person: str) -> Response:
        return reply(erase(services, check_person(person, "person"), caller().person))

    @views.get("/v1/people/<person>/erase")
    @needs("operator", every_domain=True)
    def show_erasure(person: str) -> Response:
        check_person(person, "person")
        table = schema.erasures
        with postgres_trouble(), services.database.connect() as connection:
            rows = connection.execute(select(table).where(table.c.person == person)).mappings().all()
        if not rows:
            raise ApiError(404, "no erasure of that person is on the log", param="person", code="person_not_found")
        kids = sorted({kid for row in rows for kid in row["kids"]})
        domains = [{"domain": row["domain"], "erased_at": row["erased_at"]} for row in rows]
        learned_by = _learned_by(services, person, kids)[1]
        found = {"person": person, "kids": kids, "domains": domains, "learned_by": learned_by}
        return reply(found | {"places": _places(services, kids)})

    return views


def corrections(
    services: Services, person: str, limit: int, domains: Set[str] | None = None
) -> tuple[list[dict[str, Any]], int]:
    """The newest corrections of a person (in those domains, or in all), with where each stands in the loop; and how many there
    are in all."""
    feedback, examples = schema.feedback, schema.examples
    theirs = (feedback.c.person == person) & (feedback.c.kind == "correction")
    if domains is not None:
        theirs &= feedback.c.domain.in_(domains)
    with postgres_trouble(), services.database.connect() as connection:
        total = connection.execute(select(func.count()).select_from(feedback).where(theirs)).scalar_one()
        asked = select(feedback).where(theirs).order_by(feedback.c.given_at.desc()).limit(limit)
        given = connection.execute(asked).all()
        by_id = {str(uuid5(UUID(row.event_id), "example")): row for row in given}
        held = {
            row.example_id: row
            for row in connection.execute(
                select(examples.c.example_id, examples.c.retired_reason).where(examples.c.example_id.in_(list(by_id)))
            )
        }
        learned = _learned(connection, list(by_id))
        live = live_lines(connection, sorted({row.domain for row in given}))
    found = []
    for example_id, row in by_id.items():
        shown: dict[str, Any] = {
            "event_id": row.event_id,
            "example_id": example_id,
            "domain": row.domain,
            "reply_id": row.reply_id,
            "given_at": row.given_at,
            "state": "waiting",
            "round_id": None,
            "round": None,
            "release": None,
            "live_at": None,
            "live_after_s": None,
        }
        example = held.get(example_id)
        if example is not None and example.retired_reason is not None:
            shown["state"] = {"erased": "erased", REPLACED: "replaced"}.get(example.retired_reason, "retired")
        for step in learned.get(example_id, []):
            live_at = step["finished_at"]
            if live_at is not None and step["round_id"] in live.get(row.domain, ()):
                shown |= {
                    "state": "live",
                    "round_id": step["round_id"],
                    "round": step["number"],
                    "release": step["release"],
                    "live_at": live_at,
                    "live_after_s": round((live_at - row.given_at).total_seconds(), 3),
                }
                break
            if step["step"] in UNDER_WAY and shown["state"] == "waiting":
                shown |= {"state": "in_round", "round_id": step["round_id"], "round": step["number"]}
        found.append(shown)
    return found, total


def _learned(connection: Connection, example_ids: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The rounds that each example was new in, in order, with the release that came of each."""
    learned, rounds, releases = schema.learned, schema.rounds, schema.releases
    joined = learned.join(rounds, learned.c.round_id == rounds.c.round_id).outerjoin(
        releases, (releases.c.domain == rounds.c.domain) & (releases.c.release == rounds.c.release)
    )
    rows = connection.execute(
        select(
            learned.c.example_id,
            rounds.c.round_id,
            rounds.c.number,
            rounds.c.step,
            releases.c.release,
            releases.c.finished_at,
        )
        .select_from(joined)
        .where(learned.c.example_id.in_(example_ids))
        .order_by(rounds.c.number)
    ).mappings()
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["example_id"], []).append(dict(row))
    return found


def erase(services: Services, person: str, by: str) -> dict[str, Any]:
    """Destroy a person's keys, say so in every domain they spoke in, and tell what learned from them.

    The keys go first: from then on no process can open what they said, whatever happens to the rest of this. Doing it
    again finishes what an earlier call did not. Raises ApiError 404 for somebody who never spoke.
    """
    with postgres_trouble():
        kids = services.keyring.destroy(person_subject(person))
    if not kids:
        raise ApiError(404, "nobody of that name has spoken here", param="person", code="person_not_found")
    for topic in (CONVERSATIONS, DOMAINS):
        if not services.recorder.wait_for_ends(topic, CATCH_UP_S):
            raise Behind("the keys are destroyed; the log is not followed at present, ask again to have it recorded")
    with postgres_trouble(), services.database.connect() as connection:
        domains = domains_of(connection, person)
    mine, learned_by = _learned_by(services, person, list(kids))
    at = datetime.now(UTC)
    envelopes = [erasure(domain, person, kids, by, source_of(caller()), at) for domain in domains]
    with postgres_trouble(), services.database.begin() as connection:
        connection.execute(
            delete(schema.leases).where(schema.leases.c.person == person)
        )  # others are handed what they held
    positions = services.recorder.append_patiently(envelopes, 10.0) if envelopes else []
    return {
        "person": person,
        "kids": list(kids),
        "domains": domains,
        "examples": mine,
        "learned_by": learned_by,
        "places": _places(services, list(kids)),
        "position": str(positions[-1]) if positions else None,
        "positions": [str(position) for position in positions],
    }


def _learned_by(services: Services, person: str, kids: Sequence[str]) -> tuple[int, list[dict[str, Any]]]:
    """How many examples hold words of a person's (their own, or a wording or an answer under their keys that another accepted), and
    the rounds whose candidates, reward models, and releases if any came of them, have learned from them, or from what the person
    said of answers: in that round, with the release that it started from, or by a reward model that did; with how many of both."""
    examples, rounds = schema.examples.c, schema.rounds.c
    with postgres_trouble(), services.database.connect() as connection:
        mine = connection.execute(
            select(examples.example_id, examples.domain).where(
                or_(
                    and_(examples.person == person, examples.own_words),
                    examples.kids.overlap(cast(kids, ARRAY(Text))),
                )
            )
        ).all()
        said = connection.execute(
            select(rounds.round_id, rounds.domain, rounds.said_by[person].as_integer().label("preferences")).where(
                rounds.said_by.has_key(person)
            )
        ).all()
        domains = sorted({row.domain for row in (*mine, *said)})
        preferences = {row.round_id: row.preferences for row in said}
        found = _taught(connection, domains, [row.example_id for row in mine], preferences)
    return len(mine), found


def _taught(
    connection: Connection, domains: list[str], example_ids: list[str], preferences: Mapping[str, int]
) -> list[dict[str, Any]]:
    """`preferences`: of each round whose snapshot has some of the person, how many."""
    learned, rounds = schema.learned, schema.rounds
    new_in: dict[str, set[str]] = {}
    for row in connection.execute(
        select(learned.c.round_id, learned.c.example_id).where(
            learned.c.example_id == any_(cast(example_ids, ARRAY(Text)))
        )
    ):
        new_in.setdefault(row.round_id, set()).add(row.example_id)
    line = lines(connection, domains)
    found, judged = [], dict[str, str | None]()
    for row in connection.execute(
        select(rounds).where(rounds.c.domain.in_(domains)).order_by(rounds.c.domain, rounds.c.number)
    ):
        judged[row.round_id] = row.reward_round
        # One that is under way is going to.
        trained = row.model is not None or row.ended_at is None
        before = line.of(row.domain, row.base_release) if trained else ()
        line_of = (row.round_id, *before)
        taught = set().union(*(new_in.get(round_id, ()) for round_id in line_of))
        # The snapshot of each round names anew all that is preferred: of those on a line, and of those that made the reward models
        # by which these were judged, one may have had most.
        heard = {*line_of, *(judged.get(round_id) for round_id in line_of)}
        preferred = max(preferences.get(round_id, 0) for round_id in heard if round_id is not None)
        if taught or preferred:
            named = {name: getattr(row, name) for name in ("domain", "release", "round_id", "number", "step")}
            found.append(named | {"examples": len(taught), "preferences": preferred})
    return found


def _places(services: Services, kids: list[str]) -> list[dict[str, Any]]:
    """What still holds something under these keys, by the register; the workers purge it when they read the event."""
    table = schema.places
    with postgres_trouble(), services.database.connect() as connection:
        rows = connection.execute(
            select(table.c.place, table.c.kind, table.c.owner)
            .where(table.c.kids.overlap(cast(kids, ARRAY(Text))))
            .order_by(table.c.place)
        ).mappings()
        return [dict(row) for row in rows]
