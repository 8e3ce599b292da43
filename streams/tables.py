"""How a table is declared: its columns by PostgreSQL's names for their types, and what each process may do with it. It connects to
nothing.

A table of projections stands in the room of its concept (`streams.facts`), under the schema name `noria`; `schema_translate_map`
sends a replay elsewhere.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from streams.connections import DOOR, STREAM, WORKERS, Role

LIVE = "noria"
SHADOW = "noria_shadow"

_NAMING = {
    "pk": "pk_%(table_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
}
projections = sa.MetaData(schema=LIVE, naming_convention=_NAMING)
machinery = sa.MetaData(naming_convention=_NAMING)

Column = sa.Column[Any]
Rights = dict[Role, frozenset[str]]
_WORDS = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE", "m": "MAINTAIN"}  # the letters are PostgreSQL's


def may(*, door: str = "", stream: str = "", workers: str = "") -> Rights:
    """What each kind of process may do with a table: letters of r(ead), a(ppend), w(rite), d(elete), m(aintain)."""
    given = {DOOR: door, STREAM: stream, WORKERS: workers}
    return {role: frozenset(_WORDS[letter] for letter in letters) for role, letters in given.items() if letters}


_READ_BY_ALL = may(door="r", stream="raw", workers="r")


def projection(name: str, *parts: Column | sa.Index, rights: Rights = _READ_BY_ALL, version: int = 1) -> sa.Table:
    """A table that the stream makes of the log. `version`: of what its rows mean; whoever changes what old events come to there
    adds one to it, and the rows are made anew (`streams.versions`)."""
    return sa.Table(name, projections, *parts, info={"rights": rights, "version": version})


def machine_table(schema: str, name: str, *parts: Column | sa.Index, rights: Rights) -> sa.Table:
    """A table of what no log tells: keys, access, what is under way."""
    return sa.Table(name, machinery, *parts, schema=schema, info={"rights": rights})


def version_of(table: sa.Table) -> int:
    return int(table.info["version"])


def rights_of(table: sa.Table) -> Rights:
    found: Rights = table.info["rights"]
    return found


def index(
    *columns: str, name: str | None = None, where: str | None = None, unique: bool = False, using: str | None = None
) -> sa.Index:
    """On columns of the table that it stands in, for the rows `where` that holds."""
    condition = None if where is None else sa.text(where)
    return sa.Index(name, *columns, unique=unique, postgresql_where=condition, postgresql_using=using)


def text(name: str, *, key: bool = False, nullable: bool = False) -> Column:
    return sa.Column(name, sa.Text, primary_key=key, nullable=nullable)


def integer(name: str, *, key: bool = False, nullable: bool = False) -> Column:
    return sa.Column(name, sa.Integer, primary_key=key, nullable=nullable)


def bigint(name: str, *, nullable: bool = False) -> Column:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


def double(name: str, *, nullable: bool = False) -> Column:
    return sa.Column(name, sa.Float, nullable=nullable)


def boolean(name: str, *, nullable: bool = False) -> Column:
    return sa.Column(name, sa.Boolean, nullable=nullable)


def timestamptz(name: str, *, nullable: bool = False, now: bool = False) -> Column:
    """`now`: the time at which the row is written, where nothing else is said."""
    return sa.Column(
        name, sa.DateTime(timezone=True), nullable=nullable, server_default=sa.text("now()") if now else None
    )


def jsonb(name: str, *, nullable: bool = False) -> Column:
    return sa.Column(name, postgresql.JSONB, nullable=nullable)


def text_array(name: str, *, nullable: bool = False) -> Column:
    return sa.Column(name, postgresql.ARRAY(sa.Text), nullable=nullable)


def bytea(name: str) -> Column:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def digest(name: str, *, key: bool = False, nullable: bool = False, unique: bool = False) -> Column:
    """64 hexadecimal digits."""
    return sa.Column(name, sa.String(64), primary_key=key, nullable=nullable, unique=unique or None)


def last_read() -> tuple[Column, Column]:
    """The last record before the next offset, by which a log is known again: see `streams.continuity`."""
    return bigint("last_offset", nullable=True), digest("last_digest", nullable=True)
