"""Text sealed and opened, and the keyring: the record of its own that erasure acts upon.

Every text is a JWE in compact form (RFC 7516), `dir` + `A256GCM`, under the key of the person who said it; any JOSE
library opens it. Person keys live in the Postgres schema `keyring`, wrapped (AES-256-GCM, the key id as associated data)
by a master key that lives in a file. To erase a person is to destroy their keys: see `Keyring.destroy`.
"""

import base64
import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from joserfc.registry import HeaderParameter
from msgspec import Struct
from sqlalchemy import Engine, text

from streams.erasures import ERASED_CHANNEL, Journal, vacuum_keyring
from streams.errors import Erased, Invalid, Unavailable
from streams.private import make_private, written_beside
from streams.sealed import Sealed
from streams.store import postgres_trouble

_REGISTRY = jwe.JWERegistry(
    header_registry={"ref": HeaderParameter("Where the text was first said", "str")},
    algorithms=["dir", "A256GCM"],
)
# The library would seal any length and then open no more than 64 KB; a long conversation has more, an event never this.
_REGISTRY.max_ciphertext_length = 1_000_000
_WRAPPING = "hashtext('noria.keys.wrap')"
REWRAP_ROWS = 500  # in one transaction
KEY_CACHE_S = 1.0  # how long another process may still open what has just been erased
# The same for one that is told of erasures at once, should the telling fail. Whoever tells vouches again and again within it.
VOUCHED_S = 2.0
REMEMBERED_KEYS = 20_000


class PersonKey(Struct, frozen=True):
    kid: str
    secret: bytes


def domain_subject(domain: str) -> str:
    """The keyring's name for a domain, whose key seals what is nobody's own: its exam, its documents."""
    return f"domain:{domain}"


class Keys(Protocol):
    """What sealing needs of a keyring."""

    def key_for(self, subject: str) -> PersonKey:
        """The subject's key in force, made if there is none."""

    def find(self, kid: str) -> PersonKey:
        """The key of that id. Raises Erased when it was destroyed or never was."""


def seal(words: str, key: PersonKey, ref: str) -> Sealed:
    header = {"alg": "dir", "enc": "A256GCM", "kid": key.kid, "ref": ref}
    token = jwe.encrypt_compact(header, words.encode(), OctKey.import_key(key.secret), registry=_REGISTRY)
    return Sealed(kid=key.kid, ref=ref, jwe=token)


def open_sealed(sealed: Sealed, keys: Keys) -> str:
    """The words. Raises Erased when their key is gone, Invalid when the token is not what it says it is."""
    key = keys.find(sealed.kid)
    try:
        opened = jwe.decrypt_compact(sealed.jwe, OctKey.import_key(key.secret), registry=_REGISTRY)
    except (JoseError, InvalidTag, ValueError) as error:
        raise Invalid(f"sealed text {sealed.ref} does not open: {type(error).__name__}") from None
    if opened.protected.get("ref") != sealed.ref or opened.protected.get("kid") != sealed.kid:
        raise Invalid(f"sealed text {sealed.ref} was moved from where it was said")
    if opened.plaintext is None:
        raise Invalid(f"sealed text {sealed.ref} is empty")
    return opened.plaintext.decode()


def digest(words: bytes, key: PersonKey) -> str:
    """A digest keyed (HMAC-SHA256) by whose words they are: with that key gone, no guess at a short text can be confirmed."""
    secret = hmac.digest(key.secret, b"noria: a digest of words", "sha256")
    return hmac.digest(secret, words, "sha256").hex()


def common_digest(words: bytes, keys: Keys) -> str:
    """The same under a key of Noria's own, which no erasure destroys: for words that are no person's."""
    return hmac.new(keys.key_for("noria:digest").secret, words, hashlib.sha256).hexdigest()


class MasterKey:
    """The key that wraps all others: a file of lines `id:base64`, mode 0600; the last line is in force.

    It may change under a running process (`Keyring.rotate`): what wraps looks first whether it has, and a wrapping by a key that
    is not known here is looked up in the file as it is now. A key that was read once is remembered."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()  # a link stays one when the file is replaced
        self._keys: dict[str, bytes] = {}
        self._active = ""
        self._read_at: tuple[int, int, int] | None = None
        self._lock = threading.Lock()
        self._refresh()

    @classmethod
    def made(cls, path: Path) -> "MasterKey":
        """The master key; a new one, if there is no file yet."""
        make_private(path, _new_line().encode())
        return cls(path)

    def wrap(self, secret: bytes, name: str) -> bytes:
        self._refresh()
        nonce = os.urandom(12)
        sealed = AESGCM(self._keys[self._active]).encrypt(nonce, secret, name.encode())
        return self._active.encode() + b":" + nonce + sealed

    def unwrap(self, wrapped: bytes, name: str) -> bytes:
        master, body = wrapped_by(wrapped), wrapped.partition(b":")[2]
        if master not in self._keys:
            self._refresh()
        if master not in self._keys:
            raise Invalid(f"key {name} was wrapped by master key {master}, which the file does not hold")
        try:
            return AESGCM(self._keys[master]).decrypt(body[:12], body[12:], name.encode())
        except InvalidTag:
            raise Invalid(f"key {name} does not unwrap with master key {master}") from None

    @property
    def active(self) -> str:
        """The id of the key in force."""
        self._refresh()
        return self._active

    def is_current(self, wrapped: bytes) -> bool:
        return wrapped_by(wrapped) == self.active

    def add(self) -> None:
        """Put a new key in force; those before it stay in the file. With more than one there already, a rotation was broken
        off, and its new key is the one in force. The file is whole at any moment."""
        if len(lines := self._lines()) == 1:
            self._replace([*lines, _new_line()])

    def keep_active_only(self) -> None:
        """Remove from the file every key but the one in force: nothing is wrapped by any other."""
        self._replace(self._lines()[-1:])

    def _lines(self) -> list[str]:
        return self._path.read_text().splitlines(keepends=True)

    def _replace(self, lines: list[str]) -> None:
        owner = self._path.stat()
        content = "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
        temporary = written_beside(self._path, content.encode())
        if (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(temporary, owner.st_uid, owner.st_gid)
        temporary.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _refresh(self) -> None:
        """Read the file, if it is not the one that was read last."""
        with self._lock:
            try:
                stat = self._path.stat()
            except OSError:
                if not self._keys:
                    raise Invalid(f"there is no master key file {self._path.name}, or it cannot be read") from None
                raise Unavailable(f"the master key file {self._path.name} cannot be read") from None
            if self._read_at == (stamp := (stat.st_ino, stat.st_mtime_ns, stat.st_size)):
                return
            if stat.st_mode & 0o077:
                raise Invalid(f"the master key file {self._path.name} must not be readable by others (mode 0600)")
            found: dict[str, bytes] = {}
            for number, line in enumerate(self._path.read_text().splitlines(), 1):
                name, _, value = line.partition(":")
                try:
                    found[name] = base64.b64decode(value, validate=True)
                except ValueError as error:
                    raise Invalid(
                        f"line {number} of the master key file {self._path.name} is not `id:base64`"
                    ) from error
            if not found or any(len(key) != 32 for key in found.values()):
                raise Invalid(f"the master key file {self._path.name} must hold keys of 32 bytes")
            self._keys |= found
            self._active, self._read_at = list(found)[-1], stamp


def wrapped_by(wrapped: bytes) -> str:
    """The id of the master key that did it."""
    return wrapped.partition(b":")[0].decode()


def _new_line() -> str:
    return f"{uuid4().hex[:8]}:{base64.b64encode(os.urandom(32)).decode()}\n"


def ensure_master_key(database: Engine, path: Path) -> MasterKey:
    """The master key, made where nothing was ever wrapped. Raises Invalid where the file is missing and keys stand that only it
    opens: a new one would seal what is said from now on, and what was said before would be lost without a word."""
    if not path.exists():
        with database.connect() as connection:
            wrapped = connection.execute(text("SELECT wrapped FROM keyring.person_keys WHERE destroyed_at IS NULL"))
            names = sorted({wrapped_by(bytes(row.wrapped)) for row in wrapped})
        if names:
            raise Invalid(
                f"there is no master key file {path.name}, and the keyring holds keys that were wrapped by master key"
                f" {', '.join(names)}: put the file back"
            )
    return MasterKey.made(path)


class Rotated(Struct, frozen=True):
    """`master_key`: the id of the one in force; `keys`: how many were wrapped anew."""

    master_key: str
    keys: int


class Keyring:
    """Person keys in Postgres, schema `keyring`, wrapped by the master key."""

    def __init__(
        self,
        database: Engine,
        master: MasterKey,
        clock: Callable[[], float] = time.monotonic,
        journal: Journal | None = None,
    ) -> None:
        """`journal`: where the ids of the keys that are destroyed here are written first."""
        self._database = database
        self._journal = journal
        self._master = master
        self._clock = clock
        self._lock = threading.Lock()
        self._by_subject: dict[str, tuple[float, PersonKey]] = {}
        self._by_kid: dict[str, tuple[float, PersonKey]] = {}
        self._root: bytes | None = None  # of the secrets that are derived
        self._vouched_until = 0.0
        self._forgotten = 0  # how often: what was read before is not remembered after

    def key_for(self, subject: str) -> PersonKey:
        cached, forgotten = self._remembered(self._by_subject, subject)
        if cached is not None:
            return cached
        find = text("SELECT kid, wrapped FROM keyring.person_keys WHERE subject = :subject AND destroyed_at IS NULL")
        with self._database.begin() as connection:
            row = connection.execute(find, {"subject": subject}).one_or_none()
            if row is None:
                # Shared by all who wrap: a rotation waits for them before it looks for the last time.
                connection.execute(text(f"SELECT pg_advisory_xact_lock_shared({_WRAPPING})"))
                kid = uuid4().hex
                connection.execute(
                    text(
                        "INSERT INTO keyring.person_keys (kid, subject, wrapped, created_at)"
                        " VALUES (:kid, :subject, :wrapped, now()) ON CONFLICT DO NOTHING"
                    ),
                    {"kid": kid, "subject": subject, "wrapped": self._master.wrap(secrets.token_bytes(32), kid)},
                )
                row = connection.execute(find, {"subject": subject}).one()
        return self._remember(subject, PersonKey(row.kid, self._master.unwrap(bytes(row.wrapped), row.kid)), forgotten)

    def find(self, kid: str) -> PersonKey:
        cached, forgotten = self._remembered(self._by_kid, kid)
        if cached is not None:
            return cached
        with self._database.connect() as connection:
            row = connection.execute(
                text("SELECT wrapped FROM keyring.person_keys WHERE kid = :kid AND destroyed_at IS NULL"), {"kid": kid}
            ).one_or_none()
        if row is None:
            raise Erased(f"key {kid} was destroyed")
        return self._remember(None, PersonKey(kid, self._master.unwrap(bytes(row.wrapped), kid)), forgotten)

    def knows(self, subject: str) -> bool:
        """Whether `subject` ever had a key."""
        with self._database.connect() as connection:
            found = text("SELECT EXISTS (SELECT FROM keyring.person_keys WHERE subject = :subject)")
            return bool(connection.execute(found, {"subject": subject}).scalar_one())

    def destroy(self, subject: str) -> tuple[str, ...]:
        """Destroy every key of `subject`; return the ids of all that were ever destroyed for them."""
        with self._database.begin() as connection:
            if self._journal is not None:
                going = text(
                    "SELECT kid FROM keyring.person_keys WHERE subject = :subject AND destroyed_at IS NULL FOR UPDATE"
                )
                self._journal.add(connection.execute(going, {"subject": subject}).scalars())
            connection.execute(
                text(
                    "UPDATE keyring.person_keys SET wrapped = ''::bytea, destroyed_at = now()"
                    " WHERE subject = :subject AND destroyed_at IS NULL"
                ),
                {"subject": subject},
            )
            kids = connection.execute(
                text(
                    "SELECT kid FROM keyring.person_keys WHERE subject = :subject AND destroyed_at IS NOT NULL"
                    " ORDER BY created_at, kid"
                ),
                {"subject": subject},
            ).scalars()
            destroyed = tuple(kids)
            connection.execute(text(f"NOTIFY {ERASED_CHANNEL}"))
        self.forget()
        vacuum_keyring(self._database)
        return destroyed

    def destroyed(self, kids: Sequence[str]) -> set[str]:
        """Which of these keys were destroyed, by whomever; none of them is remembered here any more."""
        with self._database.connect() as connection:
            gone = set(
                connection.execute(
                    text("SELECT kid FROM keyring.person_keys WHERE kid = ANY(:kids) AND destroyed_at IS NOT NULL"),
                    {"kids": list(kids)},
                ).scalars()
            )
        if gone:
            self.forget()
        return gone

    def derive(self, purpose: str) -> str:
        """A secret for one purpose that need not be stored anywhere (an engine's key, say); a rotation does not change it.

        Raises Unavailable."""
        if self._root is None:
            with postgres_trouble():
                self._root = self.key_for("noria:derive").secret
        return hmac.new(self._root, purpose.encode(), hashlib.sha256).hexdigest()

    def rotate(self) -> Rotated:
        """Put a new master key in force, wrap every key anew and remove the old one; or finish that, if it was broken off.

        At any moment each row is wrapped by a key that the file holds, and whoever reads or makes keys meanwhile goes on. Raises
        Invalid when another rotation is under way."""
        with self._database.connect() as connection:
            locked = connection.execute(text("SELECT pg_try_advisory_lock(hashtext('noria.keys.rotate'))")).scalar_one()
            connection.commit()
            if not locked:
                raise Invalid("another rotation of the master key is under way")
            try:
                self._master.add()
                done = self.rewrap()
                with self._database.begin() as last:
                    # Whoever began to wrap before the new key stood in the file has ended; whoever comes now finds it there.
                    last.execute(text(f"SELECT pg_advisory_xact_lock({_WRAPPING})"))
                    done += self.rewrap()
                self._master.keep_active_only()
                vacuum_keyring(self._database)
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(hashtext('noria.keys.rotate'))"))
        return Rotated(self._master.active, done)

    def forget(self) -> None:
        """Remember no key any more, not even one that is being read just now: somebody was erased."""
        with self._lock:
            self._by_kid.clear()
            self._by_subject.clear()
            self._forgotten += 1

    def vouch(self, at: float) -> None:
        """Of every erasure before `at` (by this keyring's clock) `forget` has been told: what is remembered holds for VOUCHED_S
        from then."""
        with self._lock:
            self._vouched_until = at + VOUCHED_S

    def rewrap(self) -> int:
        """Wrap every key anew that is not under the master key in force; return how many were."""
        done, after = 0, ""
        while True:
            with self._database.begin() as connection:
                rows = connection.execute(
                    text(
                        "SELECT kid, wrapped FROM keyring.person_keys WHERE destroyed_at IS NULL AND kid > :after"
                        " ORDER BY kid LIMIT :rows FOR UPDATE"
                    ),
                    {"after": after, "rows": REWRAP_ROWS},
                ).all()
                for row in rows:
                    if not self._master.is_current(wrapped := bytes(row.wrapped)):
                        connection.execute(
                            text("UPDATE keyring.person_keys SET wrapped = :wrapped WHERE kid = :kid"),
                            {
                                "kid": row.kid,
                                "wrapped": self._master.wrap(self._master.unwrap(wrapped, row.kid), row.kid),
                            },
                        )
                        done += 1
            if not rows:
                return done
            after = rows[-1].kid

    def _remembered(self, keys: dict[str, tuple[float, PersonKey]], name: str) -> tuple[PersonKey | None, int]:
        """The key, if it may still be used without asking, and the mark that `_remember` wants."""
        with self._lock:
            until, key = keys.get(name, (0.0, None))
            return key if max(until, self._vouched_until) > self._clock() else None, self._forgotten

    def _remember(self, subject: str | None, key: PersonKey, forgotten: int) -> PersonKey:
        until = self._clock() + KEY_CACHE_S
        with self._lock:
            if forgotten != self._forgotten:
                return key
            if len(self._by_kid) > REMEMBERED_KEYS:
                self._by_kid.clear()
                self._by_subject.clear()
            self._by_kid[key.kid] = (until, key)
            if subject is not None:
                self._by_subject[subject] = (until, key)
        return key
