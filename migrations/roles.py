"""A role for each kind of process, with no more rights than it needs: one table, from which the grants are made.

Roles are of a whole server and grants of one database, so neither is a revision: `python -m migrations --roles FILE` brings both to
what stands here, again and again. FILE holds the roles' passwords, for its owner's eyes only; where it is missing it is made.
Whoever runs migrations, replays, restores and commands stays the tables' owner.
"""

import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import msgspec
from psycopg2.extensions import connection as PostgresConnection
from psycopg2.extensions import encrypt_password
from sqlalchemy import text

from streams.connections import DOOR, ROLES, STREAM, WORKERS, Role
from streams.errors import Invalid
from streams.store import open_engine, postgres_trouble

Rights = frozenset[str]
_WORDS = {
    "r": "SELECT",
    "a": "INSERT",
    "w": "UPDATE",
    "d": "DELETE",
    "m": "MAINTAIN",
}  # the letters are PostgreSQL's own
_MAINTAIN_SINCE = 170_000  # before, only a table's owner may vacuum it


def _may(**letters: str) -> dict[Role, Rights]:
    roles: dict[str, Role] = {"door": DOOR, "stream": STREAM, "workers": WORKERS}
    return {roles[name]: frozenset(_WORDS[letter] for letter in rights) for name, rights in letters.items()}


_PROJECTION = _may(door="r", stream="raw", workers="r")
GRANTS: dict[str, dict[Role, Rights]] = {
    "noria.positions": _PROJECTION,
    "noria.states": _may(stream="raw"),
    "noria.fresh": _may(stream="rawd"),
    "noria.events": _may(door="r", stream="ra", workers="r"),
    "noria.prompts": _PROJECTION,
    "noria.replies": _PROJECTION,
    "noria.feedback": _PROJECTION,
    "noria.feedback_counts": _PROJECTION,
    "noria.domains": _PROJECTION,
    "noria.examples": _PROJECTION,
    "noria.preferences": _PROJECTION,
    "noria.exam_items": _PROJECTION,
    "noria.rounds": _PROJECTION,
    "noria.learned": _PROJECTION,
    "noria.releases": _PROJECTION,
    "noria.erasures": _PROJECTION,
    "noria.outbox": _may(stream="rawd", workers="r"),
    # Who first names a person makes their key; the door destroys it, and the stream where a keyring is older than the log.
    "keyring.person_keys": _may(door="rawm", stream="rw", workers="ra"),
    "access.api_keys": _may(door="raw"),
    "access.sessions": _may(door="rad"),
    "work.claims": _may(workers="rawd"),
    "work.intake": _may(door="r", stream="r", workers="raw"),
    "work.engines": _may(door="rw", workers="raw"),
    "work.routes": _may(door="r", workers="rawd"),
    "work.doors": _may(door="rawd", workers="r"),
    "work.examined": _may(door="r", workers="ra"),
    "work.places": _may(door="r", workers="rawd"),
}


def passwords(path: Path) -> dict[Role, str]:
    """Of every role, from the file, which is made if it is not there. Raises Invalid for one that others may read."""
    found: dict[Role, str] = {}
    if path.exists():
        if path.stat().st_mode & 0o077:
            raise Invalid(f"the file of passwords {path.name} must not be readable by others (mode 0600)")
        found = msgspec.json.decode(path.read_bytes(), type=dict[Role, str])
    if missing := [role for role in ROLES if role not in found]:
        found |= {role: secrets.token_urlsafe(24) for role in missing}
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_suffix(".new")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(found))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    return found


def url_of(role: Role, database_url: str, path: Path) -> str:
    """Where the owner connects, as `role`."""
    parts = urlsplit(database_url)
    server = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}:{passwords(path)[role]}@{server}"))


def grant(database_url: str, path: Path) -> None:
    """Make the roles with the passwords in the file, and give each what stands in GRANTS and nothing else, in one transaction."""
    known = passwords(path)
    engine = open_engine(database_url)
    try:
        with postgres_trouble(), engine.begin() as connection:
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
            for name, rights_of in GRANTS.items():
                for role, rights in rights_of.items():
                    held = rights if maintains else rights - {_WORDS["m"]}
                    connection.exec_driver_sql(f"GRANT {', '.join(sorted(held))} ON {name} TO {role}")
    finally:
        engine.dispose()
