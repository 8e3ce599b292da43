"""Which code made the tables, kept with them: the comment of their schema names the version of each.

A version is a number that is declared (with the table; of a state: here) and a digest of how the table is made. Whoever changes
what a fold or a projection makes of old events adds one to its number; whoever changes a table changes the digest by it. Where the
comment says otherwise than this code, the tables are rebuilt from the log before it uses them (`streams.upgrade`), and no stream of
other code writes them any more.
"""

import hashlib

import msgspec
from psycopg2.extensions import cursor as Cursor
from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql

from streams.schema import projections
from streams.tables import LIVE, version_of

# Of what is kept of a state, and what it means; of a table it stands where that is declared.
STATES: dict[str, int] = {"exchange": 1, "domain": 10}
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
_COMMENT = "SELECT obj_description(to_regnamespace('{schema}'), 'pg_namespace')"

Versions = dict[str, str]


class OtherVersion(Exception):
    """The tables were made by other code: whoever would write them stops."""

    def __init__(self, differing: list[str]) -> None:
        super().__init__(
            f"the tables were made by another version of Noria ({', '.join(differing)} differ):"
            " `python -m migrations` of this one rebuilds them from the log"
        )


def ours() -> Versions:
    """What this code makes: the number of each, and of a table how it is made."""
    made = {str(table.name): f"{version_of(table)} {_digest(table)}" for table in projections.sorted_tables}
    return made | {f"state {kind}": str(number) for kind, number in STATES.items()}


def differing(found: Versions | None) -> list[str]:
    """What is not as this code makes it; None: nothing is known of it."""
    return _differing(found or {}, ours())


def found(connection: Connection, schema: str = LIVE) -> Versions | None:
    """By which versions the tables of a schema were made; None: by none that told it."""
    return _read(connection.exec_driver_sql(_COMMENT.format(schema=schema)).scalar_one())


def check(cursor: Cursor, schema: str, wanted: Versions) -> None:
    """Raise OtherVersion where code of other versions says that it made the tables."""
    cursor.execute(_COMMENT.format(schema=schema))
    row = cursor.fetchone()
    there = _read(row[0] if row else None)
    if there is not None and there != wanted:
        raise OtherVersion(_differing(there, wanted))


def write_down(connection: Connection, schema: str) -> None:
    """Say that this code made the tables of a schema."""
    comment = msgspec.json.encode(ours()).decode()
    connection.exec_driver_sql(f"COMMENT ON SCHEMA {schema} IS '{comment}'")


def _read(comment: str | None) -> Versions | None:
    if comment is None or not comment.startswith("{"):
        return None
    return msgspec.json.decode(comment, type=Versions)


def _differing(there: Versions, wanted: Versions) -> list[str]:
    return sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name))


def _digest(table: Table) -> str:
    """Of its columns in their order, its key, and its indexes."""
    told = [
        f"{c.name} {c.type.compile(dialect=_DIALECT)} {c.nullable} {c.primary_key} {c.identity is not None} {c.unique}"
        for c in table.columns
    ]
    told += sorted(
        f"{i.name} ({', '.join(str(c) for c in i.expressions)}) {i.unique} {i.dialect_options['postgresql']['where']}"
        for i in table.indexes
    )
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
