"""Bearer keys of the door: who may call it, and what for. Only their SHA-256 is kept.

python -m api.keys --ensure-local            the local operator's key, in a file that only its owner can read
python -m api.keys --create NAME --roles chat,data    a new key, printed once
python -m api.keys --revoke NAME
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
from uuid import uuid4

from msgspec import Struct
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from streams.errors import Invalid, Unavailable
from streams.settings import from_env
from streams.store import open_engine, postgres_trouble

ROLES = ("chat", "data", "operator")  # each may do what those before it may
CACHE_S = 2.0  # how long a revoked key may still be taken
STALE_S = 600.0  # how long a known key is taken while PostgreSQL does not answer


class Caller(Struct, frozen=True):
    """Who calls. `person` is who speaks when the request names nobody."""

    key_id: str
    name: str
    roles: frozenset[str]

    @property
    def person(self) -> str:
        return f"key:{self.name}"

    def may(self, role: str) -> bool:
        return any(held in self.roles for held in ROLES[ROLES.index(role) :])


def hash_of(token: str) -> str:
    """A fast hash will do: the tokens are 256 random bits, not passwords."""
    return hashlib.sha256(token.encode()).hexdigest()


class ApiKeys:
    """The keys in `access.api_keys`, remembered for a moment so that a request costs no query."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Caller]] = {}

    def caller(self, token: str) -> Caller | None:
        """Whose key that is; None when nobody's. Raises Unavailable when PostgreSQL does not answer and the key is new."""
        hashed = hash_of(token)
        with self._lock:
            cached = self._known.get(hashed)
        if cached is not None and self._clock() - cached[0] < CACHE_S:
            return cached[1]
        try:
            with postgres_trouble(), self._engine.connect() as connection:
                row = connection.execute(
                    text("SELECT key_id, name, roles FROM access.api_keys WHERE hash = :hash AND revoked_at IS NULL"),
                    {"hash": hashed},
                ).one_or_none()
        except Unavailable:
            if cached is not None and self._clock() - cached[0] < STALE_S:
                return cached[1]
            raise
        with self._lock:
            if row is None:
                self._known.pop(hashed, None)
                return None
            if len(self._known) > 10_000:
                self._known.clear()
            caller = Caller(row.key_id, row.name, frozenset(row.roles))
            self._known[hashed] = (self._clock(), caller)
        return caller


def create_key(engine: Engine, name: str, roles: Sequence[str], token: str | None = None) -> str:
    """Make (or, with `token`, make known) a key; return its token. Raises Invalid."""
    unknown = set(roles) - set(ROLES)
    if unknown or not roles:
        raise Invalid(f"roles are {', '.join(ROLES)}; got {', '.join(sorted(unknown)) or 'none'}")
    token = token or f"noria-{secrets.token_hex(32)}"
    with postgres_trouble(), engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO access.api_keys (key_id, name, hash, roles, created_at)"
                " VALUES (:key_id, :name, :hash, :roles, now()) ON CONFLICT (hash) DO NOTHING"
            ),
            {"key_id": uuid4().hex, "name": name, "hash": hash_of(token), "roles": list(roles)},
        )
    return token


def revoke_keys(engine: Engine, name: str) -> int:
    """Revoke every key of that name; return how many there were."""
    with postgres_trouble(), engine.begin() as connection:
        done = connection.execute(
            text("UPDATE access.api_keys SET revoked_at = now() WHERE name = :name AND revoked_at IS NULL"),
            {"name": name},
        )
        return int(done.rowcount)


def ensure_local(engine: Engine, path: Path) -> None:
    """The local operator's key stands in `path` (mode 0600) and is known. Doing it again changes nothing."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.new")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"noria-{secrets.token_hex(32)}\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # whoever comes first
        except FileExistsError:
            pass
        temporary.unlink()
    if path.stat().st_mode & 0o077:
        raise Invalid(f"the key file {path.name} must not be readable by others (mode 0600)")
    create_key(engine, "local", ROLES, path.read_text().strip())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m api.keys", description=(__doc__ or "").splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--ensure-local", action="store_true", help="make the local operator's key, in its file")
    what.add_argument("--create", metavar="NAME", help="make a key and print it, once")
    what.add_argument("--revoke", metavar="NAME", help="revoke every key of that name")
    parser.add_argument("--roles", default="chat", help="of a new key: chat,data,operator")
    given = parser.parse_args(arguments)
    try:
        settings = from_env(os.environ)
        engine = open_engine(settings.database_url)
        if given.ensure_local:
            ensure_local(engine, settings.local_key)
        elif given.create:
            print(create_key(engine, given.create, [role.strip() for role in given.roles.split(",")]))
        else:
            revoked = revoke_keys(engine, given.revoke)
            if not revoked:
                raise Invalid(f"there is no key {given.revoke!r} that holds")
            print(f"revoked: {revoked}")
    except (Invalid, Unavailable, IntegrityError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
