"""Bearer keys of the door: who may call it, as whom, and for which domains. Only their SHA-256 is kept.

python -m api.keys --ensure-local            the local operator's key, in a file that only its owner can read; and the master key

All other keys are made, listed and revoked through the door (`api.grants`).
"""

import argparse
import hashlib
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from msgspec import Struct
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from streams.errors import Invalid, Unavailable
from streams.private import is_private, make_private
from streams.sealing import ensure_master_key
from streams.settings import from_env
from streams.store import open_database, postgres_trouble

# By role, the lowest first: what else its keys may do.
MAY: dict[str, frozenset[str]] = {
    "chat": frozenset(),
    "annotator": frozenset(),
    "data": frozenset({"chat", "annotator"}),
    "operator": frozenset({"chat", "annotator", "data"}),
}
ROLES = tuple(MAY)
LOCAL = "local"  # the name of the key that `noria up` makes
CHANNEL = "noria_keys"  # what every door listens to: the id of a key that is not what it was
RECHECK_S = 3.0  # how long a key is taken without a look at its row, where nobody has said that it changed
STALE_S = 600.0  # how long a known key is taken while PostgreSQL does not answer
REMEMBERED = 10_000
SESSION = "noria-session-"  # begins the token that a page's visitor holds in the place of a key
ONCE = "noria-once-"  # begins the token that begins one session

Refusal = Literal["unknown", "revoked", "expired"]


class Caller(Struct, frozen=True):
    """Who calls. `speaks_as` None: whoever the request names; `domains` None: all of them. `session`: the token stands for the key
    and is no key itself."""

    key_id: str
    name: str
    roles: frozenset[str]
    speaks_as: str | None = None
    domains: frozenset[str] | None = None
    session: bool = False

    @property
    def person(self) -> str:
        """Who speaks when the request names nobody."""
        return self.speaks_as or person_of(self.name)

    @property
    def role(self) -> str:
        """The highest."""
        return next((role for role in reversed(ROLES) if role in self.roles), "")

    def may(self, role: str) -> bool:
        return any(role == held or role in MAY[held] for held in self.roles & MAY.keys())

    def sees(self, domain: str) -> bool:
        return self.domains is None or domain in self.domains


class _Held(Struct, frozen=True):
    """`ends_at` on the same monotonic clock as `checked_at`."""

    checked_at: float
    generation: int
    ends_at: float
    caller: Caller


def person_of(name: str) -> str:
    """The person of a key that was made for nobody else."""
    return f"key:{name}"


def hash_of(token: str) -> str:
    """A fast hash will do: the tokens are 256 random bits, not passwords."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_token(prefix: str = "noria-") -> str:
    return f"{prefix}{secrets.token_hex(32)}"


_KEY_ROW = "SELECT key_id, name, roles, person, domains, revoked_at, expires_at FROM access.api_keys WHERE hash = :hash"
_SESSION_ROW = (
    "SELECT k.key_id, k.name, k.roles, k.person, k.domains, k.revoked_at,"
    " least(k.expires_at, s.expires_at) AS expires_at"
    " FROM access.sessions s JOIN access.api_keys k ON k.key_id = s.key_id WHERE s.hash = :hash AND s.kind = 'session'"
)
_ONCE_ROW = (
    "SELECT k.key_id, k.name, k.roles, k.person, k.domains, k.revoked_at, k.expires_at"
    " FROM shown JOIN access.api_keys k ON k.key_id = shown.key_id"
)
_ONCE_HOLDS = "access.sessions WHERE hash = :hash AND kind = 'once' AND expires_at > now()"
_ONCE_GONE = f"shown AS (DELETE FROM {_ONCE_HOLDS} RETURNING key_id), "
_ONCE_SEEN = f"shown AS (SELECT key_id FROM {_ONCE_HOLDS}), "
# One statement, one round trip: the row, and once a minute that the key was used.
_LOOK_UP = (
    "WITH {first}found AS ({row}), used AS ("
    "UPDATE access.api_keys k SET used_at = date_trunc('minute', now()) FROM found"
    " WHERE k.key_id = found.key_id AND found.revoked_at IS NULL"
    " AND (found.expires_at IS NULL OR found.expires_at > now())"
    " AND (k.used_at IS NULL OR k.used_at < date_trunc('minute', now())))"
    " SELECT found.*, CAST(extract(epoch FROM found.expires_at - now()) AS float) AS left_s FROM found"
)


class ApiKeys:
    """The keys in `access.api_keys`, remembered for a moment so that a request costs no query.

    A key that changes is said on CHANNEL: `forget` is to be called with what is said there.
    """

    def __init__(self, database: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database.execution_options(isolation_level="AUTOCOMMIT")
        self._clock = clock
        self._lock = threading.Lock()
        self._generation = 0
        self._known: dict[str, _Held] = {}

    def caller(self, token: str) -> Caller | Refusal:
        """Whose key (or session) that is, or why nobody's. Raises Unavailable when PostgreSQL is away and the key is new."""
        hashed = hash_of(token)
        with self._lock:
            held, generation = self._known.get(hashed), self._generation
        now = self._clock()
        if held is not None and now >= held.ends_at:
            held = None
        if held is not None and held.generation == generation and now - held.checked_at < RECHECK_S:
            return held.caller
        try:
            session = token.startswith(SESSION)
            found = self._look_up(hashed, _SESSION_ROW if session else _KEY_ROW, session=session)
        except Unavailable:
            if held is not None and now - held.checked_at < STALE_S:
                return held.caller
            raise
        with self._lock:
            if isinstance(found, str):
                self._known.pop(hashed, None)
                return found
            caller, ends_at = found
            if generation == self._generation:  # else the row may have changed after it was read
                if len(self._known) >= REMEMBERED and hashed not in self._known:
                    self._known.pop(next(iter(self._known)))
                self._known[hashed] = _Held(now, generation, ends_at, caller)
        return caller

    def redeem(self, token: str, only_looks: bool = False) -> Caller | Refusal:
        """Whose one-time token that is; from now on it is nobody's, unless this `only_looks`. Raises Unavailable."""
        found = self._look_up(hash_of(token), _ONCE_ROW, first=_ONCE_SEEN if only_looks else _ONCE_GONE)
        return found if isinstance(found, str) else found[0]

    def remembers(self, token: str) -> bool:
        """Whether that was a right key a moment ago."""
        with self._lock:
            return hash_of(token) in self._known

    def forget(self, key_id: str = "") -> None:
        """That key is not what it was, and its next request is a look at its row; without an id, every key's is."""
        with self._lock:
            self._generation += 1
            if key_id:
                for hashed in [hashed for hashed, held in self._known.items() if held.caller.key_id == key_id]:
                    del self._known[hashed]

    def _look_up(
        self, hashed: str, row_of: str, first: str = "", session: bool = False
    ) -> tuple[Caller, float] | Refusal:
        asked_at = self._clock()
        query = text(_LOOK_UP.format(first=first, row=row_of))
        with postgres_trouble(), self._database.connect() as connection:
            row = connection.execute(query, {"hash": hashed}).one_or_none()
        if row is None:
            return "unknown"
        if row.revoked_at is not None:
            return "revoked"
        if row.left_s is not None and row.left_s <= 0:
            return "expired"
        ends_at = float("inf") if row.left_s is None else asked_at + row.left_s
        domains = frozenset(row.domains) if row.domains is not None else None
        return Caller(row.key_id, row.name, frozenset(row.roles), row.person, domains, session), ends_at


class KeyRow(Struct, frozen=True):
    """A key as an operator sees it; the key itself is shown once, when it is made. Times are RFC 3339 in JSON."""

    key_id: str
    name: str
    role: str
    person: str | None  # None: whom each request names
    domains: list[str] | None  # None: every one
    created_at: Any
    expires_at: Any
    used_at: Any
    revoked_at: Any


def create_key(
    database: Engine,
    name: str,
    role: str,
    *,
    person: str | None,
    domains: Sequence[str] | None = None,
    expires_in_s: int | None = None,
    token: str | None = None,
) -> str:
    """Make (or, with `token`, make known) a key; return its token. `person` None: it speaks as whoever a request names."""
    token = token or new_token()
    with postgres_trouble(), database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO access.api_keys (key_id, name, hash, roles, created_at, person, domains, expires_at)"
                " VALUES (:key_id, :name, :hash, :roles, now(), :person, :domains,"
                " now() + make_interval(secs => :expires_in_s)) ON CONFLICT (hash) DO NOTHING"
            ),
            {
                "key_id": uuid4().hex,
                "name": name,
                "hash": hash_of(token),
                "roles": [role],
                "person": person,
                "domains": sorted(set(domains)) if domains is not None else None,
                "expires_in_s": expires_in_s,
            },
        )
    return token


def key_rows(database: Engine, token: str | None = None) -> list[KeyRow]:
    """Every key there has been, the newest first; with `token`, that one."""
    one = "WHERE hash = :hash " if token is not None else ""
    with postgres_trouble(), database.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT key_id, name, roles, person, domains, created_at, expires_at, used_at, revoked_at"
                f" FROM access.api_keys {one}ORDER BY created_at DESC, key_id"
            ),
            {"hash": hash_of(token)} if token is not None else {},
        ).all()
    return [
        KeyRow(
            key_id=row.key_id,
            name=row.name,
            role=Caller(row.key_id, row.name, frozenset(row.roles)).role,
            person=row.person,
            domains=row.domains,
            created_at=row.created_at,
            expires_at=row.expires_at,
            used_at=row.used_at,
            revoked_at=row.revoked_at,
        )
        for row in rows
    ]


def speaks_already(database: Engine, person: str) -> bool:
    """Whether a key that holds speaks as that person."""
    query = (
        "SELECT EXISTS (SELECT FROM access.api_keys WHERE person = :person AND revoked_at IS NULL"
        " AND coalesce(expires_at > now(), true))"
    )
    with postgres_trouble(), database.connect() as connection:
        return bool(connection.execute(text(query), {"person": person}).scalar_one())


def revoke_keys(database: Engine, named: str) -> list[str]:
    """Revoke every key of that name, or the one of that id; their ids. Every door hears of it."""
    with postgres_trouble(), database.begin() as connection:
        revoked = list(
            connection.execute(
                text(
                    "UPDATE access.api_keys SET revoked_at = now()"
                    " WHERE (name = :named OR key_id = :named) AND revoked_at IS NULL RETURNING key_id"
                ),
                {"named": named},
            ).scalars()
        )
        for key_id in revoked:
            tell_doors(connection, key_id)
        return revoked


def tell_doors(connection: Connection, key_id: str) -> None:
    """With the transaction, every door forgets what it knows of the key."""
    connection.execute(text("SELECT pg_notify(:channel, :key_id)"), {"channel": CHANNEL, "key_id": key_id})


def ensure_local(database: Engine, path: Path) -> None:
    """The local operator's key stands in `path` (mode 0600) and holds; none that stood there before does. Doing it again changes
    nothing; one that was revoked is followed by another."""
    if path.exists() and _is_revoked(database, path):
        path.unlink()
    make_private(path, f"{new_token()}\n".encode())
    if not is_private(path):
        raise Invalid(f"the key file {path.name} must not be readable by others (mode 0600)")
    token = path.read_text().strip()
    create_key(database, LOCAL, "operator", person=None, token=token)
    (held,) = key_rows(database, token)
    for row in key_rows(database):
        if (row.name, row.role, row.revoked_at) == (LOCAL, "operator", None) and row.key_id != held.key_id:
            revoke_keys(database, row.key_id)


def _is_revoked(database: Engine, path: Path) -> bool:
    return any(row.revoked_at is not None for row in key_rows(database, path.read_text().strip()))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m api.keys", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--ensure-local", action="store_true", required=True, help="make the local operator's key, in its file"
    )
    parser.parse_args(arguments)
    try:
        settings = from_env(os.environ)
        database = open_database(settings.database_url)
        ensure_local(database, settings.local_key)
        with postgres_trouble():
            ensure_master_key(database, settings.master_key)
    except (Invalid, Unavailable, IntegrityError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
