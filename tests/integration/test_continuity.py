"""A log that lost something is told from the one that was read, and the tables are rebuilt from what it holds."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine

import api.cli.log
from api.cli import main
from streams import continuity
from streams.continuity import Continuity
from streams.errors import Unavailable
from streams.events import CONVERSATIONS, DOMAINS, ORDERS
from streams.facts.people import PersonErased
from streams.facts.releases import RollbackAsked
from streams.facts.rounds import RoundAsked
from streams.log import LostHistory, MemoryLog
from streams.orders import SelectSnapshot, SwapRelease
from streams.relay import Relay
from streams.replay import rebuild_live, tell_erasures, verify
from tests.integration.by_hand import AT, ByHand, change, empty, live_domain, message, rows, talk
from workers.orders import Intake


class Losing(MemoryLog):
    """A log that can lose what it held."""

    def cut(self, topic: str, partition: int, end: int) -> None:
        del self._records[topic, partition][end:]

    def put(self, topic: str, partition: int, offset: int, value: bytes) -> None:
        place = self._records[topic, partition]
        place[offset] = msgspec.structs.replace(place[offset], value=value)


@dataclass
class House:
    world: ByHand
    log: Losing
    partition: int  # of the domain

    @property
    def end(self) -> int:
        return self.log.ends(DOMAINS)[self.partition]

    def states(self) -> list[tuple[object, ...]]:
        return rows(self.world.database, "SELECT kind, state FROM work.claims ORDER BY received_at, order_id")


@pytest.fixture
def house(database: Engine) -> House:
    """A domain on its first release, spoken to; the orders are taken in."""
    empty(database)
    log = Losing()
    world = ByHand(database, log)
    live_domain(world, "roads", corrections=2)
    world.say(*talk("roads", "ann"))
    world.settle()
    Intake(database, log).take_in()
    (partition,) = [partition for partition, end in log.ends(DOMAINS).items() if end]
    return House(world, log, partition)


def cut_short(house: House) -> str:
    end = house.end
    house.log.cut(DOMAINS, house.partition, end - 1)
    return f"noria.domains-{house.partition}: it ends at offset {end - 1}, and was read up to {end}"


def made_anew_and_grown(house: House) -> str:
    """As long as it was, and longer, but of other records."""
    end = house.end
    house.log.cut(DOMAINS, house.partition, 0)
    for _ in range(end + 2):
        house.world.say(RoundAsked(domain="roads", by="ops"))
    return f"noria.domains-{house.partition}: at offset {end - 1} stands another record than was read"


def orders_lost(house: House) -> str:
    house.log.cut(ORDERS, 0, 0)
    return "noria.orders-0: it ends at offset 0, and was read up to 1"


@pytest.mark.parametrize("lose", [cut_short, made_anew_and_grown, orders_lost])
def test_what_is_lost_is_named_and_nobody_goes_on(house: House, lose: Callable[[House], str]) -> None:
    Continuity(house.world.database, house.log).check()
    said = lose(house)
    for goes_on in (
        Continuity(house.world.database, house.log).check,
        Intake(house.world.database, house.log).take_in,
        lambda: Relay(house.world.database, house.log).step(AT),
    ):
        with pytest.raises(LostHistory) as lost:
            goes_on()
        assert said in str(lost.value)


def test_a_log_that_was_away_is_looked_into_when_it_is_back_and_otherwise_now_and_then(house: House) -> None:
    now = 0.0
    watched = Continuity(house.world.database, house.log, lambda: now)
    watched.check()
    house.log.put(DOMAINS, house.partition, house.end - 1, b"{}")
    now += continuity.CHECK_EVERY_S
    watched.check()  # it is as long as it was
    watched.doubt()
    with pytest.raises(LostHistory):
        watched.check()
    watched = Continuity(house.world.database, house.log, lambda: now)
    with pytest.raises(LostHistory):
        watched.check()


def test_a_log_that_does_not_answer_shows_nothing_and_is_looked_into_when_it_does(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(topic: str) -> dict[int, int]:
        raise Unavailable("the log does not answer")

    now = 0.0
    watched = Continuity(house.world.database, house.log, lambda: now)
    watched.check()
    now += continuity.CHECK_EVERY_S
    with monkeypatch.context() as patched, pytest.raises(Unavailable):
        patched.setattr(house.log, "ends", away)
        watched.check()
    house.log.put(DOMAINS, house.partition, house.end - 1, b"{}")
    with pytest.raises(LostHistory):
        watched.check()


def test_the_tables_are_rebuilt_from_a_log_that_lost_its_tail_and_what_it_lost_is_said_again(house: House) -> None:
    world, log = house.world, house.log
    asked_at = house.end
    world.say(RoundAsked(domain="roads", by="ops"), RollbackAsked(domain="roads", to=0, by="ops"))
    world.settle()
    done = world.work(done=frozenset(order.order_id for order in world.orders()[:1]))
    assert len(done) > 3
    selected = next(order for order in world.orders() if isinstance(order, SelectSnapshot))
    asked, implied = world.say(*talk("roads", "bob"))[0], len(rows(world.database, "SELECT 1 FROM noria.examples"))
    world.settle()
    assert len(rows(world.database, "SELECT 1 FROM noria.examples")) == implied + 1
    log.cut(DOMAINS, house.partition, asked_at + 1)  # the round was asked for; what came of it is lost
    rebuild_live(world.database, log)
    Continuity(world.database, log).check()
    assert asked.topic == CONVERSATIONS
    world.settle()
    assert len(rows(world.database, "SELECT 1 FROM noria.examples")) == implied + 1, "it follows from what bob said"
    report = verify(world.database, log)
    assert report.equal, (report.differences, report.unsaid, report.unexplained)
    taken = Intake(world.database, log)
    taken.take_in()
    by_id = dict(rows(world.database, "SELECT order_id, state FROM work.claims"))
    first, *others = world.orders()
    assert by_id[str(first.order_id)] == "done", "what was done is not done again"
    assert by_id[str(selected.order_id)] == "open", (
        "what was decided and lost is decided again, and the order said again"
    )
    lost = [order for order in others if isinstance(order, SwapRelease)]
    assert lost and {by_id[str(order.order_id)] for order in lost} == {"cancelled"}, "nobody decided that"


def test_rebuilding_what_is_whole_changes_nothing(house: House) -> None:
    world = house.world
    world.say(RoundAsked(domain="roads", by="ops"))
    world.settle()
    before = verify(world.database, house.log)
    sent = rows(world.database, "SELECT message_id FROM noria.outbox WHERE sent_at IS NOT NULL ORDER BY 1")
    change(world.database, "UPDATE noria.domains SET title = 'spoiled'")
    rebuild_live(world.database, house.log)
    after = verify(world.database, house.log)
    assert after.equal and [t.live for t in after.tables] == [t.live for t in before.tables]
    assert rows(world.database, "SELECT message_id FROM noria.outbox WHERE sent_at IS NOT NULL ORDER BY 1") == sent
    assert world.relay.step(AT).rows == 0
    Intake(world.database, house.log).take_in()
    assert house.states() == [("swap_release", "done"), ("select_snapshot", "open")]


def test_an_erasure_that_the_log_lost_is_told_to_it_again(house: House) -> None:
    world = house.world
    change(
        world.database,
        "INSERT INTO keyring.person_keys (kid, subject, wrapped, created_at, destroyed_at)"
        " VALUES ('kid-of-ann', 'person:ann', '', now(), now())",
    )
    before = house.end
    world.log.append([message(PersonErased(domain="roads", person="ann", kids=("kid-of-ann",), by="ops"))], 10)
    world.settle()
    house.log.cut(DOMAINS, house.partition, before)
    rebuild_live(world.database, house.log)
    assert rows(world.database, "SELECT person FROM noria.erasures") == []
    assert tell_erasures(world.database, house.log, "rebuild") == 1
    assert rows(world.database, "SELECT person, kids FROM noria.erasures") == [("ann", ["kid-of-ann"])]
    assert tell_erasures(world.database, house.log, "rebuild") == 0


@pytest.mark.parametrize("lost", [True, False])
def test_a_key_that_was_erased_and_put_back_is_destroyed_by_a_rebuilding(house: House, lost: bool) -> None:
    """`lost`: by the log; the tables that are replaced name it. Else it is the other way round."""
    world, before = house.world, house.end
    world.log.append([message(PersonErased(domain="roads", person="ann", kids=("kid-of-ann",), by="ops"))], 10)
    world.settle()
    if lost:
        house.log.cut(DOMAINS, house.partition, before)
    else:
        change(world.database, "DELETE FROM noria.erasures")
    change(
        world.database,
        "INSERT INTO keyring.person_keys (kid, subject, wrapped, created_at)"
        " VALUES ('kid-of-ann', 'person:ann', 'w', now()), ('kid-of-bob', 'person:bob', 'w', now())",
    )
    rebuild_live(world.database, house.log)
    left = "SELECT kid, wrapped = ''::bytea FROM keyring.person_keys ORDER BY kid"
    assert rows(world.database, left) == [("kid-of-ann", True), ("kid-of-bob", False)]


def test_the_command_names_what_is_lost_and_the_rebuilding_mends_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Given:
        def __enter__(self) -> tuple[MemoryLog, Engine]:
            return house.log, house.world.database

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(api.cli.log, "_log_and_tables", Given)

    def run(*argv: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, argv)
        return done.exit_code, done.output

    assert run("log", "check")[0] == 0
    orders_lost(house)
    code, said = run("log", "check")
    assert code == 1 and "noria.orders-0" in said and "it ends at offset 0, and was read up to 1" in said
    code, said = run("log", "check", "--json")
    told = msgspec.json.decode(said)
    assert code == 1 and told["sound"] is False
    assert [one["topic"] for one in told["partitions"] if one["lost"]] == [ORDERS]
    assert run("rebuild")[0] == 0
    assert run("log", "check")[0] == 0
