"""A keyring from before an erasure is put back: whatever names the erasure, nothing of that person opens once Noria has started."""

import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import Engine

from streams.erased import keep_erased
from streams.erasures import ERASED_CHANNEL, Journal
from streams.errors import Erased
from streams.facts.people import PersonErased
from streams.log import MemoryLog
from streams.schemas import create_schema
from streams.sealed import Sealed
from streams.sealing import Keyring, MasterKey, open_sealed, seal
from streams.store import Store
from streams.tables import SHADOW
from tests.door_world import World
from tests.integration.by_hand import ByHand, change, created, empty, rows

ROOT = Path(__file__).parents[2]
CANARY = "the canary of ann sang at noon"


@pytest.fixture
def hand(database: Engine) -> ByHand:
    empty(database)
    return ByHand(database, MemoryLog())


@pytest.fixture
def master(tmp_path: Path) -> MasterKey:
    return MasterKey.made(tmp_path / "master.key")


def keys_of(database: Engine, person: str) -> list[tuple[object, ...]]:
    return rows(
        database,
        "SELECT kid, wrapped, destroyed_at FROM keyring.person_keys WHERE subject = :subject",
        subject=f"person:{person}",
    )


def put_back(database: Engine, before: list[tuple[object, ...]]) -> None:
    """The keyring's rows as they stood in an older one."""
    for kid, wrapped, destroyed_at in before:
        change(
            database,
            "UPDATE keyring.person_keys SET wrapped = :wrapped, destroyed_at = :destroyed_at WHERE kid = :kid",
            kid=kid,
            wrapped=wrapped,
            destroyed_at=destroyed_at,
        )


def opens(words: Sealed, database: Engine, master: MasterKey) -> bool:
    """For whoever starts now."""
    try:
        return bool(open_sealed(words, Keyring(database, master)))
    except Erased:
        return False


def test_an_older_keyring_after_an_erasure_opens_nothing_once_noria_has_started(world: World) -> None:
    domain, database = world.domain(), world.database
    asked = world.chat(domain, CANARY, user="ann")
    world.caught_up(asked["metadata"]["position"])
    before = keys_of(database, "ann")
    ((words, _),) = rows(database, "SELECT messages, person FROM noria.prompts WHERE person = 'ann'")
    sealed, master = Sealed(**words), MasterKey(world.settings.master_key)  # type: ignore[arg-type]
    erased = world.as_operator.post("/v1/people/ann/erase").json()
    world.caught_up(erased["position"])
    put_back(database, before)
    world.settings.erasures.unlink()  # it went with the machine
    assert opens(sealed, database, master), "else this shows nothing"

    settings = world.settings
    given = {"HOME": settings.home, "DATABASE_URL": settings.database_url, "DOOR": world.door_url}
    started = subprocess.run(
        [sys.executable, "-m", "streams.erased"],
        cwd=ROOT,
        env=os.environ | settings.kafka.environ() | {f"NORIA_{name}": str(value) for name, value in given.items()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 0 and "1 keys that were erased" in started.stdout, started.stderr
    assert not opens(sealed, database, master)
    assert Journal(settings.erasures).kids() == set(erased["kids"])
    correction = {"reply_id": asked["metadata"]["reply_ids"][0], "user": "ann", "correction": "no"}
    assert world.as_chat.post("/v1/feedback", json=correction).status_code == 410, "what runs was told, too"


def _in_the_journal(hand: ByHand, journal: Journal, told: PersonErased) -> None:
    journal.add(told.kids)


def _in_the_tables(hand: ByHand, journal: Journal, told: PersonErased) -> None:
    hand.say(told)
    hand.follow()


def _on_the_log(hand: ByHand, journal: Journal, told: PersonErased) -> None:
    hand.say(told)


@pytest.mark.parametrize("say", [_in_the_journal, _in_the_tables, _on_the_log])
def test_each_of_the_places_that_name_an_erasure_is_enough(
    hand: ByHand, master: MasterKey, tmp_path: Path, say: Callable[[ByHand, Journal, PersonErased], None]
) -> None:
    keyring, journal = Keyring(hand.database, master), Journal(tmp_path / "erasures.jsonl")
    anns, bobs = (seal(CANARY, keyring.key_for(f"person:{who}"), f"{who}#text") for who in ("ann", "bob"))
    hand.say(created("roads"))
    hand.follow()
    before = keys_of(hand.database, "ann")
    say(hand, journal, PersonErased(domain="roads", person="ann", kids=(anns.kid,), by="operator"))
    put_back(hand.database, before)
    assert opens(anns, hand.database, master)
    assert keep_erased(hand.database, hand.log, journal) == [anns.kid]
    assert not opens(anns, hand.database, master) and opens(bobs, hand.database, master)
    assert journal.kids() == {anns.kid}
    assert keep_erased(hand.database, hand.log, journal) == []


def test_nobodys_key_goes_because_another_was_erased(hand: ByHand, master: MasterKey, tmp_path: Path) -> None:
    keyring = Keyring(hand.database, master)
    bobs, own = keyring.key_for("person:bob").kid, keyring.key_for("noria:derive").kid
    foreign = PersonErased(domain="roads", person="ann", kids=(bobs, own, "unknown"), by="a stranger")
    hand.say(created("roads"), foreign)
    assert keep_erased(hand.database, hand.log, Journal(tmp_path / "erasures.jsonl")) == []
    hand.follow()
    assert {keyring.find(kid).kid for kid in (bobs, own)} == {bobs, own}


def test_a_keyring_that_is_as_old_as_the_tables_follows_the_log_with_them(
    hand: ByHand, master: MasterKey, database_url: str
) -> None:
    words = seal(CANARY, Keyring(hand.database, master).key_for("person:ann"), "e#text")
    hand.say(created("roads"), PersonErased(domain="roads", person="ann", kids=(words.kid,), by="operator"))
    listening = psycopg2.connect(database_url)
    listening.autocommit = True
    listening.cursor().execute(f"LISTEN {ERASED_CHANNEL}")
    hand.follow()
    assert not opens(words, hand.database, master)
    assert select.select([listening], [], [], 10)[0], "nobody was told"
    listening.close()


def test_a_replay_beside_the_tables_leaves_the_keyring_alone(hand: ByHand, master: MasterKey) -> None:
    words = seal(CANARY, Keyring(hand.database, master).key_for("person:ann"), "e#text")
    hand.say(created("roads"), PersonErased(domain="roads", person="ann", kids=(words.kid,), by="operator"))
    create_schema(hand.database, SHADOW)
    assert Store(hand.database, SHADOW).apply(hand.records()).events == 2
    assert opens(words, hand.database, master)
