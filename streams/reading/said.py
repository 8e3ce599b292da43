"""What was said on the log already, and where it stands there."""

from collections.abc import Iterable
from datetime import datetime

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text


class Said(Struct, frozen=True):
    """An event, by its place on the log."""

    event_id: str
    topic: str
    partition: int
    offset: int


def said(connection: Connection, event_ids: Iterable[str]) -> list[Said]:
    """Those of the events that stand on the log, in no order."""
    rows = connection.execute(
        text(f"SELECT {_SAID} FROM noria.events WHERE event_id = ANY(:ids)"), {"ids": list(event_ids)}
    )
    return [msgspec.convert(dict(row), Said) for row in rows.mappings()]


def went_live(connection: Connection, domain: str, since: datetime) -> list[Said]:
    """By what event each release of the domain went live that answered at some time since then."""
    rows = connection.execute(
        text(
            f'SELECT {_SAID} FROM (SELECT {_SAID}, lead(time) OVER (ORDER BY "offset") AS until'
            " FROM noria.events WHERE domain = :domain AND type IN ('release_finished', 'release_rolled_back')"
            ") went_live WHERE until IS NULL OR until >= :since"
        ),
        {"domain": domain, "since": since},
    )
    return [msgspec.convert(dict(row), Said) for row in rows.mappings()]


_SAID = 'event_id, topic, partition, "offset"'
