"""Erasures, where they must outlive a backup: the journal of destroyed keys, and the events that tell of them.

A backup lies outside: what was erased after it is in it still. So whoever destroys a key first writes its id (a random word that
says nothing of a person) to the journal, a file that is kept apart from the backups. Whatever keyring was put back: a restore,
every start (`streams.erased`), and the stream where it takes in an erasure destroy the keys that are named.
"""

import fcntl
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import msgspec
from msgspec import Struct
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values
from sqlalchemy import Connection, Engine, text

from streams.codec import envelope_for
from streams.envelope import Envelope
from streams.errors import Invalid, Unavailable
from streams.facts.people import PersonErased

_ERASURES = uuid5(NAMESPACE_URL, "urn:noria:erasure")
PERSON = "person:"  # before a person's id in the keyring's subjects
ERASED_CHANNEL = "noria_erased"  # what PostgreSQL says when a key was destroyed


class Line(Struct, frozen=True):
    kid: str
    at: datetime


class Journal:
    """Lines of JSON, one a destroyed key, only ever added to; mode 0600. It need not exist."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, kids: Iterable[str]) -> None:
        """Write those that it does not hold yet; they are on disk when this returns. Raises Unavailable."""
        missing = sorted(set(kids) - self.kids())
        if not missing:
            return
        try:
            self._append(missing)
        except OSError as error:
            raise Unavailable(f"the erasure journal cannot be written: {error.strerror}") from error

    def _append(self, kids: Sequence[str]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        at = datetime.now(UTC)
        lines = b"".join(msgspec.json.encode(Line(kid, at)) + b"\n" for kid in kids)
        with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            torn = not (b"\n" + file.read()).endswith(b"\n")  # whoever wrote last was killed in the middle
            file.write(b"\n" + lines if torn else lines)
            file.flush()
            os.fsync(file.fileno())

    def kids(self) -> set[str]:
        """The ids of every key that it names. Raises Invalid for a line that cannot be read, unless it was broken off."""
        found: set[str] = set()
        lines = self._path.read_bytes().split(b"\n") if self._path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                found |= {msgspec.json.decode(line, type=Line).kid} if line else set()
            except msgspec.MsgspecError:
                if line.endswith(b"}"):  # not one that was broken off, and written again below
                    raise Invalid(f"line {number} of the erasure journal {self._path.name} cannot be read") from None
        return found


def erasure(domain: str, person: str, kids: Sequence[str], by: str, source: str, at: datetime) -> Envelope:
    """What tells one domain. The same keys gone from the same domain are the same fact, however often it is said."""
    return envelope_for(
        PersonErased(domain=domain, person=person, kids=tuple(kids), by=by),
        id=uuid5(_ERASURES, "\n".join((domain, person, *kids))),
        source=source,
        time=at,
        correlation_id=domain,
    )


def destroy_told(cursor: Cursor, told: Iterable[PersonErased]) -> list[str]:
    """Destroy the keys that these events name; see `destroy_named`."""
    return destroy_named(cursor, [(kid, PERSON + event.person) for event in told for kid in event.kids])


def destroy_named(cursor: Cursor, named: Iterable[tuple[str, str | None]]) -> list[str]:
    """Destroy those keys that a keyring, which is then older than their erasure, holds still; their ids. `named`: the id of each
    and whose it must be (None: whosoever's). Every process is told, with the transaction."""
    rows = execute_values(
        cursor,
        "UPDATE keyring.person_keys k SET wrapped = ''::bytea, destroyed_at = now()"
        " FROM (VALUES %s) AS named (kid, subject) WHERE k.kid = named.kid AND k.destroyed_at IS NULL"
        " AND (named.subject IS NULL OR k.subject = named.subject) RETURNING k.kid",
        sorted(set(named), key=str),
        template="(%s, %s::text)",
        fetch=True,
    )
    destroyed = [kid for (kid,) in rows]
    if destroyed:
        cursor.execute(f"NOTIFY {ERASED_CHANNEL}")
    return destroyed


def recorded(connection: Connection) -> list[tuple[str, str | None]]:
    """The keys that the tables name as erased, as `destroy_named` takes them."""
    rows = connection.execute(text("SELECT person, kids FROM noria.erasures"))
    return [(kid, PERSON + row.person) for row in rows for kid in row.kids]


def vacuum_keyring(database: Engine) -> None:
    """Remove the dead row versions, which hold wrapped keys yet. What is left of them on the disk: deploy/backup.md."""
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        limit = connection.execute(text("SHOW statement_timeout")).scalar_one()
        connection.execute(text("SET statement_timeout = 0"))  # it takes as long as the keyring is large
        try:
            connection.execute(text("VACUUM keyring.person_keys"))
        finally:
            connection.execute(text("SELECT set_config('statement_timeout', :limit, false)"), {"limit": limit})


def domains_of(connection: Connection, person: str) -> list[str]:
    """The domains that a person spoke in."""
    return list(
        connection.execute(
            text(
                "SELECT DISTINCT e.domain FROM noria.events e JOIN noria.domains d ON d.domain = e.domain"
                " WHERE e.person = :person AND e.type != 'person_erased' ORDER BY e.domain"
            ),
            {"person": person},
        ).scalars()
    )


def untold(connection: Connection, by: str, source: str, at: datetime) -> list[Envelope]:
    """The erasures whose keys are destroyed and of which a domain has not been told."""
    destroyed = connection.execute(
        text(
            "SELECT subject, array_agg(kid ORDER BY created_at, kid) AS kids FROM keyring.person_keys"
            " WHERE destroyed_at IS NOT NULL AND starts_with(subject, :person) GROUP BY subject ORDER BY subject"
        ),
        {"person": PERSON},
    ).all()
    found = []
    for row in destroyed:
        person = row.subject.removeprefix(PERSON)
        told: dict[str, list[str]] = dict(
            connection.execute(
                text("SELECT domain, kids FROM noria.erasures WHERE person = :person"), {"person": person}
            )
            .tuples()
            .all()
        )
        for domain in domains_of(connection, person):
            if not set(row.kids) <= set(told.get(domain, ())):
                found.append(erasure(domain, person, row.kids, by, source, at))
    return found
