"""What a request names must be there: whoever asks for something else is told so, and not that it is empty."""

from collections.abc import Set
from typing import Any

from sqlalchemy import Connection, select

from api.errors import ApiError
from api.services import Services, person_subject
from streams import schema
from streams.events import DOMAINS
from streams.store import postgres_trouble

CATCH_UP_S = 5.0


def domain_row(services: Services, domain: str) -> dict[str, Any]:
    """Raises ApiError 404. A domain that has just been created is waited for: its creator may go on at once."""
    with postgres_trouble(), services.database.connect() as connection:
        row = find_domain(connection, domain)
    if row is None and services.recorder.wait_for_ends(DOMAINS, CATCH_UP_S):
        with postgres_trouble(), services.database.connect() as connection:
            row = find_domain(connection, domain)
    if row is None:
        raise ApiError(404, "there is no such domain", param="domain", code="domain_not_found")
    return row


def living_domain(services: Services, domain: str) -> dict[str, Any]:
    """As `domain_row`, for what adds to a domain. Raises ApiError 409 too, for one that has been retired or stands parked."""
    row = domain_row(services, domain)
    if row["retired_at"] is not None:
        raise retired_domain()
    check_not_parked(services, domain)
    return row


def check_not_parked(services: Services, domain: str) -> None:
    """Raises ApiError 409 for a domain that stands parked: what is said to it has no effect until a version mends the bug."""
    for one in parked_rows(services, domain):
        if one["kind"] == "domain":
            message = f"the domain stands still at {one['place']}: Noria met a bug there ({one['reason']})"
            raise ApiError(409, message, param="domain", code="domain_parked")


def parked_rows(services: Services, domain: str | None = None) -> list[dict[str, Any]]:
    """What stands parked, of that domain or of all: of which kind, since when, from where on and why. Raises Unavailable."""
    table = schema.parked.c
    found = select(table.kind, table.domain, table.topic, table.partition, table.offset, table.reason, table.since)
    if domain is not None:
        found = found.where(table.domain == domain)
    with postgres_trouble(), services.database.connect() as connection:
        rows = connection.execute(found.order_by(table.since, table.topic, table.partition, table.offset)).all()
    return [
        {
            "kind": row.kind,
            "domain": row.domain,
            "place": f"{row.topic}-{row.partition}@{row.offset}",
            "reason": row.reason,
            "since": row.since,
        }
        for row in rows
    ]


def retired_domain() -> ApiError:
    return ApiError(409, "the domain has been retired", param="domain", code="domain_retired")


def find_domain(connection: Connection, domain: str) -> dict[str, Any] | None:
    row = connection.execute(select(schema.domains).where(schema.domains.c.domain == domain)).mappings().one_or_none()
    return dict(row) if row is not None else None


def check_spoke(services: Services, person: str, domains: Set[str] | None) -> None:
    """Raises ApiError 404 for somebody who never said a word here; in none of `domains`, if they are given."""
    with postgres_trouble():
        known = services.keyring.knows(person_subject(person))
    if known and domains is not None:
        events = schema.events.c
        there = select(events.event_id).where(events.person == person, events.domain.in_(domains)).limit(1)
        with postgres_trouble(), services.database.connect() as connection:
            known = connection.execute(there).first() is not None
    if not known:
        raise ApiError(404, "nobody of that name has spoken here", param="person", code="person_not_found")
