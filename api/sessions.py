"""What a visitor of the page holds in the place of a key: a session, begun by a key or by a token that works once.

A session acts as its key does, and ends with it.
"""

from msgspec import Struct
from sqlalchemy import Engine, text

from api.keys import ONCE, SESSION, hash_of, new_token, tell_doors
from streams.store import postgres_trouble

SESSION_S = 12 * 3600
LINK_S = 3600


class Begun(Struct, frozen=True):
    """`token` is shown here and never again."""

    token: str
    expires_in_s: int


def begin_session(database: Engine, key_id: str) -> Begun:
    return _begin(database, key_id, "session", SESSION, SESSION_S)


def make_link(database: Engine, key_id: str) -> Begun:
    """A token that begins one session of that key, within LINK_S."""
    return _begin(database, key_id, "once", ONCE, LINK_S)


def end_session(database: Engine, token: str) -> None:
    """Every door hears of it. Doing it again changes nothing."""
    with postgres_trouble(), database.begin() as connection:
        for key_id in connection.execute(
            text("DELETE FROM access.sessions WHERE hash = :hash RETURNING key_id"), {"hash": hash_of(token)}
        ).scalars():
            tell_doors(connection, key_id)


def _begin(database: Engine, key_id: str, kind: str, prefix: str, for_s: int) -> Begun:
    token = new_token(prefix)
    with postgres_trouble(), database.begin() as connection:
        connection.execute(text("DELETE FROM access.sessions WHERE expires_at < now()"))
        connection.execute(
            text(
                "INSERT INTO access.sessions (hash, key_id, kind, created_at, expires_at)"
                " VALUES (:hash, :key_id, :kind, now(), now() + make_interval(secs => :for_s))"
            ),
            {"hash": hash_of(token), "key_id": key_id, "kind": kind, "for_s": for_s},
        )
    return Begun(token, for_s)
