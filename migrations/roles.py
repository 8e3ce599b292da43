"""A role for each kind of process, with no more rights than it needs: each table says who may do what with it.

Roles are of a whole server and grants of one database, so neither is a revision: `python -m migrations --roles FILE` brings both to
what the tables say, again and again. FILE holds the roles' passwords, for its owner's eyes only; where it is missing it is made.
Whoever runs migrations, replays, restores and commands stays the tables' owner.
"""

import secrets
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import msgspec
from psycopg2.extensions import connection as PostgresConnection
from psycopg2.extensions import encrypt_password
from sqlalchemy import text

from streams.connections import ROLES, WORKERS, Role
from streams.errors import Invalid
from streams.private import is_private, write_private
from streams.schema import machinery, projections
from streams.store import open_database, postgres_trouble
from streams.tables import Rights, rights_of

_MAINTAIN = "MAINTAIN"
_MAINTAIN_SINCE = 170_000  # before, only a table's owner may vacuum it
# Of every table, as it is declared.
GRANTS: dict[str, Rights] = {
    table.fullname: rights_of(table) for metadata in (projections, machinery) for table in metadata.sorted_tables
}


def passwords(path: Path) -> dict[Role, str]:
    """Of every role, from the file, which is made if it is not there. Raises Invalid for one that others may read."""
    found: dict[Role, str] = {}
    if path.exists():
        if not is_private(path):
            raise Invalid(f"the file of passwords {path.name} must not be readable by others (mode 0600)")
        found = msgspec.json.decode(path.read_bytes(), type=dict[Role, str])
    if missing := [role for role in ROLES if role not in found]:
        found |= {role: secrets.token_urlsafe(24) for role in missing}
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(path, msgspec.json.encode(found))
    return found


def url_of(role: Role, database_url: str, path: Path) -> str:
    """Where the owner connects, as `role`."""
    parts = urlsplit(database_url)
    server = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}:{passwords(path)[role]}@{server}"))


def words_of_rights(rights: Iterable[str]) -> str:
    """As they stand in a GRANT."""
    return ", ".join(sorted(rights))


def grant(database_url: str, path: Path) -> None:
    """Make the roles with the passwords in the file, and give each what stands in GRANTS and nothing else, in one transaction."""
    known = passwords(path)
    database = open_database(database_url)
    try:
        with postgres_trouble(), database.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('noria.migrations.roles'))"))
            raw: PostgresConnection = connection.connection.driver_connection  # type: ignore[assignment]
            maintains = raw.server_version >= _MAINTAIN_SINCE
            there = set(connection.execute(text("SELECT rolname FROM pg_roles")).scalars())
            for role in ROLES:
                # What the server is told is not the password itself: no log of its can hold it.
                verifier = encrypt_password(known[role], role, raw, "scram-sha-256")
                verb = "ALTER" if role in there else "CREATE"
                connection.exec_driver_sql(
                    f"{verb} ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD '{verifier}'"
                )
            every = ", ".join(ROLES)
            for schema in sorted({name.partition(".")[0] for name in GRANTS}):
                connection.exec_driver_sql(f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {every}")
                connection.exec_driver_sql(f"REVOKE ALL ON SCHEMA {schema} FROM {every}")
                users = sorted({r for name, rights in GRANTS.items() if name.startswith(f"{schema}.") for r in rights})
                connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO {', '.join(users)}")
            for name, roles in GRANTS.items():
                for role, rights in roles.items():
                    held = rights if maintains else rights - {_MAINTAIN}
                    connection.exec_driver_sql(f"GRANT {words_of_rights(held)} ON {name} TO {role}")
            function = connection.execute(text("SELECT to_regprocedure('public.noria_make_work()')")).scalar_one()
            if function is not None:
                connection.exec_driver_sql(f"GRANT EXECUTE ON FUNCTION {function} TO {WORKERS}")
    finally:
        database.dispose()
