"""The master key is rotated under people who chat: nothing fails, everything opens, and a rotation that was killed is finished."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine

from api.cli import main
from streams import sealing
from streams.errors import Erased, Invalid
from streams.sealed import Sealed
from streams.sealing import Keyring, MasterKey, Rotated, ensure_master_key, open_sealed, seal, wrapped_by
from tests.door_world import World
from tests.integration.by_hand import empty, rows
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
# Another process: it was there before the rotation, and makes keys after it.
CHILD = """
import sys
from pathlib import Path
from streams.sealing import Keyring, MasterKey, open_sealed, seal
from streams.store import open_database
keyring = Keyring(open_database(sys.argv[1]), MasterKey.made(Path(sys.argv[2])))
for line in sys.stdin:
    words = seal(line, keyring.key_for(line.strip()), "e#text")
    print(open_sealed(words, keyring).strip(), flush=True)
"""


class Killed(BaseException):
    """What a process does not live to catch."""


@pytest.fixture
def master(tmp_path: Path) -> Path:
    return tmp_path / "master.key"


@pytest.fixture
def emptied(database: Engine) -> Iterator[Engine]:
    empty(database)
    yield database


def ids(master: Path) -> list[str]:
    return [line.partition(":")[0] for line in master.read_text().splitlines()]


def wrappings(database: Engine) -> set[str]:
    found = rows(database, "SELECT wrapped FROM keyring.person_keys WHERE destroyed_at IS NULL")
    return {wrapped_by(bytes(row[0])) for row in found}  # type: ignore[call-overload]


def test_a_master_key_that_is_missing_is_made_only_where_nothing_was_wrapped(emptied: Engine, master: Path) -> None:
    keyring = Keyring(emptied, ensure_master_key(emptied, master))
    words = seal("mine", keyring.key_for("person:ana"), "e#text")
    away = master.rename(master.with_name("away"))
    with pytest.raises(Invalid, match=rf"no master key file master\.key.*{ids(away)[0]}: put the file back"):
        ensure_master_key(emptied, master)
    with pytest.raises(Invalid, match="there is no master key file"):
        MasterKey(master)
    assert not master.exists()
    away.rename(master)
    assert open_sealed(words, Keyring(emptied, ensure_master_key(emptied, master))) == "mine"


def test_after_a_rotation_every_key_is_under_the_new_master_key_and_the_old_one_is_gone(
    emptied: Engine, master: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "REWRAP_ROWS", 5)
    running = Keyring(emptied, MasterKey.made(master))
    words = {person: seal(person, running.key_for(person), "e#text") for person in map(str, range(12))}
    running.destroy("7")
    derived, (before,) = running.derive("engine"), ids(master)
    rotated = Keyring(emptied, MasterKey.made(master)).rotate()
    (after,) = ids(master)
    assert rotated == Rotated(after, 12) and after != before  # with the key that secrets are derived from
    assert wrappings(emptied) == {after} and master.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in master.parent.iterdir()] == ["master.key"]
    for keyring in (running, Keyring(emptied, MasterKey.made(master))):
        assert keyring.derive("engine") == derived
        with pytest.raises(Erased):
            open_sealed(words["7"], keyring)
        assert all(open_sealed(sealed, keyring) == who for who, sealed in words.items() if who != "7")


@pytest.mark.parametrize(
    "place",
    [
        (os, "replace"),
        (MasterKey, "add"),
        (Keyring, "rewrap"),
        (MasterKey, "keep_active_only"),
        (sealing, "vacuum_keyring"),
    ],
    ids=lambda place: place[1],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_rotation_that_is_killed_anywhere_leaves_every_key_readable_and_is_finished_by_the_next(
    emptied: Engine, master: Path, place: tuple[object, str], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Keyring(emptied, MasterKey.made(master))
    words = {person: seal(person, running.key_for(person), "e#text") for person in ("ann", "bob", "cem")}
    owner, name = place
    real: Callable[..., object] = getattr(owner, name)

    def killed(*given: object) -> None:
        if when == "after":
            real(*given)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, killed)
        if owner is os:
            patched.setattr(Path, "replace", lambda source, target: os.replace(source, target))
        with pytest.raises(Killed):
            Keyring(emptied, MasterKey.made(master)).rotate()
    left = ids(master)
    assert wrappings(emptied) <= set(left)
    for keyring in (running, Keyring(emptied, MasterKey.made(master))):
        keyring.key_for(f"new-{id(keyring)}")
        assert all(open_sealed(sealed, keyring) == who for who, sealed in words.items())
    Keyring(emptied, MasterKey.made(master)).rotate()
    assert wrappings(emptied) == set(ids(master)) and len(ids(master)) == 1
    # What was begun is finished, and not begun once more.
    assert ids(master) == left[1:] or len(left) == 1
    alone = Keyring(emptied, MasterKey.made(master))
    assert all(open_sealed(sealed, alone) == who for who, sealed in words.items())


def test_a_key_that_was_wrapped_by_the_old_one_while_the_rotation_ran_is_waited_for_and_wrapped_anew(
    emptied: Engine, master: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process looks at the file, and is slow to write what it wrapped."""
    slow, wrapped, go_on = Keyring(emptied, MasterKey.made(master)), threading.Event(), threading.Event()
    real = slow._master.wrap

    def wrap(secret: bytes, name: str) -> bytes:
        found = real(secret, name)
        wrapped.set()
        assert go_on.wait(PATIENCE_S)
        return found

    monkeypatch.setattr(slow._master, "wrap", wrap)
    newcomer = threading.Thread(target=slow.key_for, args=("ann",))
    newcomer.start()
    assert wrapped.wait(PATIENCE_S)
    rotation = threading.Thread(target=Keyring(emptied, MasterKey.made(master)).rotate)
    rotation.start()
    waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    while not rows(emptied, waits)[0][0]:
        assert rotation.is_alive()
    assert len(ids(master)) == 2
    go_on.set()
    newcomer.join()
    rotation.join()
    assert wrappings(emptied) == set(ids(master)) and len(ids(master)) == 1


def test_two_rotations_at_once_are_one(emptied: Engine, master: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = Keyring(emptied, MasterKey.made(master))

    def meanwhile(self: Keyring) -> int:
        with pytest.raises(Invalid, match="another rotation"):
            keyring.rotate()
        return 0

    monkeypatch.setattr(Keyring, "rewrap", meanwhile)
    Keyring(emptied, MasterKey.made(master)).rotate()


def test_while_people_chat_and_come_the_master_key_is_rotated_and_nothing_fails(
    world: World, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = world.domain()
    given = {"HOME": str(world.settings.home), "DATABASE_URL": world.settings.database_url, "DOOR": world.door_url}
    for name, value in (world.kafka.environ() | {f"NORIA_{name}": value for name, value in given.items()}).items():
        monkeypatch.setenv(name, value)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, world.settings.database_url, str(world.settings.master_key)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None and child.stdout is not None
    stopping, troubles, asked = threading.Event(), list[BaseException](), list[tuple[str, str]]()

    def chats(number: int) -> None:
        turn = 0
        while not stopping.is_set():
            turn += 1
            person = f"person-{number}" if turn % 2 else f"newcomer-{number}-{turn}"
            try:
                world.chat(domain, f"words of {person} in turn {turn}", user=person)
                asked.append((person, f"words of {person} in turn {turn}"))
            except BaseException as error:
                troubles.append(error)
                return

    threads = [threading.Thread(target=chats, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(4):
            said = len(asked)
            done = CliRunner().invoke(main, ["keys", "rotate", "--json"])
            assert done.exit_code == 0, done.output
            print(f"person-of-the-child-{number}", file=child.stdin, flush=True)
            assert child.stdout.readline() == f"person-of-the-child-{number}\n"
            while len(asked) < said + 6 and not troubles:
                stopping.wait(0.01)
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
    assert not troubles
    assert len(ids(world.settings.master_key)) == 1
    alone = Keyring(database, MasterKey.made(world.settings.master_key))
    kept = world.services.recorder.wait_for_ends("noria.conversations", PATIENCE_S)
    assert kept
    query = "SELECT person, messages FROM noria.prompts"
    opened = {(row[0], open_sealed(Sealed(**row[1]), alone)) for row in rows(database, query)}  # type: ignore[arg-type]
    assert {(person, True) for person, words in asked} == {
        (person, any(words in text for who, text in opened if who == person)) for person, words in asked
    }
