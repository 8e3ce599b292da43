"""The keyring on PostgreSQL: one key a person however many ask, destroyed everywhere within a second, wrapped by the master key."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Engine

from streams import sealing
from streams.errors import Erased, Invalid
from streams.sealing import KEY_CACHE_S, VOUCHED_S, Keyring, MasterKey, open_sealed, seal
from tests.integration.by_hand import change, empty, rows

ROOT = Path(__file__).parents[2]
CHILD = """
import sys
from pathlib import Path
from streams.sealing import Keyring, MasterKey
from streams.store import open_database
keyring = Keyring(open_database(sys.argv[1]), MasterKey.made(Path(sys.argv[2])))
print("ready", flush=True)
for line in sys.stdin:
    key = keyring.key_for(line.strip())
    print(key.kid, key.secret.hex(), flush=True)
"""


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def master(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "master.key"


@pytest.fixture
def database(database: Engine) -> Iterator[Engine]:
    empty(database)
    yield database


def rotate(master: Path) -> None:
    other = master.with_name("other.key")
    MasterKey.made(other)
    master.write_text(master.read_text() + other.read_text())
    other.unlink()


def wrapped(database: Engine) -> list[bytes]:
    return [bytes(row[0]) for row in rows(database, "SELECT wrapped FROM keyring.person_keys ORDER BY kid")]  # type: ignore[call-overload]


def test_the_same_person_has_the_same_key_and_another_person_another(database: Engine, master: Path) -> None:
    one, other = (Keyring(database, MasterKey.made(master)) for _ in range(2))
    ann = one.key_for("roads/ann")
    assert ann == one.key_for("roads/ann") == other.key_for("roads/ann") == other.find(ann.kid)
    assert len(ann.secret) == 32
    assert one.key_for("roads/bob").secret != ann.secret
    assert len(wrapped(database)) == 2


def test_what_one_process_sealed_another_opens(database: Engine, master: Path) -> None:
    words = seal("which bus goes there", Keyring(database, MasterKey.made(master)).key_for("ann"), "e#text")
    assert open_sealed(words, Keyring(database, MasterKey.made(master))) == "which bus goes there"


def test_processes_that_race_for_a_master_key_and_for_peoples_keys_all_get_the_same(
    database: Engine, master: Path, database_url: str
) -> None:
    command = [sys.executable, "-c", CHILD, database_url, str(master)]
    racers = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    subjects = [f"person-{number}" for number in range(25)]
    try:
        for racer in racers:
            assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("".join(f"{subject}\n" for subject in subjects))
            racer.stdin.flush()
        found = [racer.communicate()[0].splitlines() for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    assert len(found[0]) == len(set(found[0])) == 25
    assert found[0] == found[1] == found[2]
    assert rows(database, "SELECT count(*), count(DISTINCT subject) FROM keyring.person_keys") == [(25, 25)]
    assert len(master.read_text().splitlines()) == 1
    assert [file.name for file in master.parent.iterdir()] == ["master.key"]


def test_after_an_erasure_nothing_opens_here_and_now(database: Engine, master: Path) -> None:
    keyring = Keyring(database, MasterKey.made(master))
    words = seal("my name is Ann", keyring.key_for("ann"), "e#text")
    assert keyring.destroy("ann") == (words.kid,)
    with pytest.raises(Erased):
        open_sealed(words, keyring)
    assert wrapped(database) == [b""]


def test_after_an_erasure_another_process_opens_nothing_once_its_cache_has_run_out(
    database: Engine, master: Path, clock: Clock
) -> None:
    here, there = Keyring(database, MasterKey.made(master)), Keyring(database, MasterKey.made(master), clock)
    words = seal("my name is Ann", here.key_for("ann"), "e#text")
    assert open_sealed(words, there) == "my name is Ann"
    assert there.key_for("ann").kid == words.kid
    clock.now += KEY_CACHE_S / 2
    assert open_sealed(words, there) == "my name is Ann"  # using a key does not keep it longer
    here.destroy("ann")
    clock.now += KEY_CACHE_S / 2
    with pytest.raises(Erased):
        open_sealed(words, there)
    assert there.key_for("ann").kid != words.kid
    assert KEY_CACHE_S <= 1


def test_whoever_is_told_of_erasures_asks_no_more_and_forgets_at_once(
    database: Engine, master: Path, clock: Clock
) -> None:
    here, there = Keyring(database, MasterKey.made(master)), Keyring(database, MasterKey.made(master), clock)
    words = seal("my name is Ann", here.key_for("ann"), "e#text")
    assert there.key_for("ann").kid == words.kid
    change(database, "UPDATE keyring.person_keys SET subject = 'somebody else'")
    for _ in range(5):
        there.vouch(clock.now)
        clock.now += KEY_CACHE_S
        assert there.key_for("ann").kid == words.kid, "nobody was erased, so nothing is asked"
    there.vouch(clock.now)
    there.forget()
    assert there.key_for("ann").kid != words.kid


def test_a_key_whose_erasure_nobody_told_opens_nothing_once_nobody_vouches_for_it(
    database: Engine, master: Path, clock: Clock
) -> None:
    here, there = Keyring(database, MasterKey.made(master)), Keyring(database, MasterKey.made(master), clock)
    words = seal("my name is Ann", here.key_for("ann"), "e#text")
    there.vouch(clock.now)
    assert open_sealed(words, there) == "my name is Ann"
    here.destroy("ann")
    clock.now += VOUCHED_S
    with pytest.raises(Erased):
        open_sealed(words, there)
    assert VOUCHED_S <= 2


def test_a_key_that_is_being_read_while_its_person_is_erased_is_not_remembered(database: Engine, master: Path) -> None:
    class Slow(MasterKey):
        """Somebody is erased between the reading of a key and its being remembered."""

        def unwrap(self, wrapped: bytes, name: str) -> bytes:
            secret = super().unwrap(wrapped, name)
            if not here.destroy("ann"):
                raise AssertionError
            there.forget()
            return secret

    here = Keyring(database, MasterKey.made(master))
    there = Keyring(database, Slow(master))
    kid = here.key_for("ann").kid
    there.vouch(time.monotonic())
    assert there.find(kid).kid == kid, "what was read in time is used"
    with pytest.raises(Erased):
        there.find(kid)


def test_somebody_who_was_erased_gets_a_new_key_and_every_old_one_is_named(database: Engine, master: Path) -> None:
    keyring = Keyring(database, MasterKey.made(master))
    first = keyring.key_for("ann")
    keyring.destroy("ann")
    second = keyring.key_for("ann")
    assert second.kid != first.kid and second.secret != first.secret
    assert set(keyring.destroy("ann")) == {first.kid, second.kid}
    assert set(keyring.destroy("ann")) == {first.kid, second.kid}  # an erasure that is asked for again says the same
    assert keyring.destroy("nobody") == ()


def test_the_key_of_nobody_is_erased(database: Engine, master: Path) -> None:
    with pytest.raises(Erased):
        Keyring(database, MasterKey.made(master)).find("no-such-kid")


def test_erasing_one_person_leaves_the_others(database: Engine, master: Path) -> None:
    keyring = Keyring(database, MasterKey.made(master))
    words = seal("still here", keyring.key_for("bob"), "e#text")
    keyring.key_for("ann")
    keyring.destroy("ann")
    assert open_sealed(words, Keyring(database, MasterKey.made(master))) == "still here"


def test_after_the_master_key_rotated_old_keys_open_and_are_wrapped_anew_once(database: Engine, master: Path) -> None:
    old = Keyring(database, MasterKey.made(master))
    words = [seal(f"words {number}", old.key_for(f"person-{number}"), "e#text") for number in range(4)]
    old.destroy("person-3")
    before = wrapped(database)
    rotate(master)
    new = Keyring(database, MasterKey.made(master))
    assert [open_sealed(sealed, new) for sealed in words[:3]] == ["words 0", "words 1", "words 2"]
    assert new.rewrap() == 3
    assert new.rewrap() == 0
    assert len(set(wrapped(database)) & set(before)) == 1  # the destroyed one, which holds nothing
    # The old master key may go now.
    master.write_text(master.read_text().splitlines()[-1] + "\n")
    alone = Keyring(database, MasterKey.made(master))
    assert [open_sealed(sealed, alone) for sealed in words[:3]] == ["words 0", "words 1", "words 2"]
    with pytest.raises(Erased):
        open_sealed(words[3], alone)


def test_without_the_master_key_that_wrapped_it_a_key_is_named_and_does_not_open(
    database: Engine, master: Path
) -> None:
    kid = Keyring(database, MasterKey.made(master)).key_for("ann").kid
    master.unlink()
    with pytest.raises(Invalid, match=f"key {kid} was wrapped by master key"):
        Keyring(database, MasterKey.made(master)).find(kid)


def test_a_wrapped_key_that_was_moved_to_another_person_does_not_open(database: Engine, master: Path) -> None:
    keyring = Keyring(database, MasterKey.made(master))
    ann, bob = keyring.key_for("ann"), keyring.key_for("bob")
    change(
        database,
        "UPDATE keyring.person_keys SET wrapped = (SELECT wrapped FROM keyring.person_keys WHERE kid = :ann)"
        " WHERE kid = :bob",
        ann=ann.kid,
        bob=bob.kid,
    )
    with pytest.raises(Invalid, match="does not unwrap"):
        Keyring(database, MasterKey.made(master)).find(bob.kid)


def test_what_is_stored_never_holds_the_secret(database: Engine, master: Path) -> None:
    keyring = Keyring(database, MasterKey.made(master))
    secrets = [keyring.key_for(f"person-{number}").secret for number in range(20)]
    stored = b"".join(wrapped(database))
    assert len(stored) > 20 * 32
    assert not any(secret in stored or secret.hex().encode() in stored for secret in secrets)
    assert not any(secret[at : at + 8] in stored for secret in secrets for at in range(24))


def test_the_master_key_is_not_taken_from_a_file_that_others_may_read(master: Path) -> None:
    MasterKey.made(master)
    assert master.stat().st_mode & 0o777 == 0o600
    master.chmod(0o640)
    with pytest.raises(Invalid, match="0600"):
        MasterKey.made(master)


def test_a_digest_is_keyed_and_the_same_in_every_process(database: Engine, master: Path, tmp_path: Path) -> None:
    def digests(master: Path, person: str) -> tuple[str, str]:
        keyring = Keyring(database, MasterKey.made(master))
        return sealing.digest(b"yes", keyring.key_for(person)), sealing.common_digest(b"yes", keyring)

    here = digests(master, "ann")
    assert here == digests(master, "ann") and len(set(here)) == 2
    assert here[0] != digests(master, "bob")[0] and here[1] == digests(master, "bob")[1]
    empty(database)
    assert not set(here) & set(digests(tmp_path / "another.key", "ann"))


def test_a_derived_secret_is_the_same_in_every_process_for_its_purpose_and_wraps_nothing(
    database: Engine, master: Path
) -> None:
    found = Keyring(database, MasterKey.made(master)).derive("engine")
    other = Keyring(database, MasterKey.made(master))
    assert found == other.derive("engine") != other.derive("door")
    with pytest.raises(InvalidTag):
        AESGCM(bytes.fromhex(found)).decrypt(b"n" * 12, wrapped(database)[0][-48:], b"k")
