"""Every process of Noria is killed, again and again, while people talk. What was acknowledged is there, once, with its effect."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from urllib.parse import urlsplit
from uuid import UUID, uuid5

import psutil
import psycopg2
import pytest
from msgspec import Struct

from streams.connections import SHARES
from tests import ward
from tests.faults.crowd import PEOPLE, Acknowledged, Crowd
from tests.faults.killer import Killer
from tests.faults.tally import Tally, tally_of
from tests.local_noria import LocalNoria, until

DOMAIN = "school-zones"
CORRECTIONS_A_ROUND = 12  # of replies: of several corrections of one reply the newest counts
POLICY = {
    "thresholds": {"corrections": CORRECTIONS_A_ROUND, "people": 3, "named_people": "each", "settle_s": 0},
    "rounds_per_day": 1000,
}
# One chat is 29 acknowledged events: two drafts, a pick, eleven ratings with a comment each, four corrections.
RATINGS, CORRECTIONS, EVENTS_A_CHAT = 11, 4, 29
EXAM_ITEMS = 40
SEED = 20261124


class Size(Struct, frozen=True):
    """How much is said (`chats` by each person, `exam_requests` of EXAM_ITEMS questions) and killed meanwhile."""

    chats: int
    exam_requests: int
    kills: int

    @property
    def events(self) -> int:
        return len(PEOPLE) * self.chats * EVENTS_A_CHAT + self.exam_requests * EXAM_ITEMS


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_after_a_kill_of_every_kind_of_process_500_events_have_had_their_effect_once(
    noria: LocalNoria, said: Acknowledged
) -> None:
    survive(noria, said, Size(chats=3, exam_requests=1, kills=12))


def survive(noria: LocalNoria, said: Acknowledged, size: Size) -> None:
    """Let people talk to a Noria whose processes are killed; then everything acknowledged has had its effect, once.

    `said`: what was acknowledged before; what they are told is added."""
    with noria.door() as door:
        door.create_domain({"domain": DOMAIN, "policy": POLICY, "base_model": ward.MODEL})
        until(lambda: any(model["id"] == DOMAIN for model in door.models()), "the first release answers")
        crowd, killer = Crowd(door, DOMAIN), Killer(noria, SEED)
        talk_while_killing(crowd, killer, size)
        assert crowd.said.events == size.events
        assert killer.killed.total() == size.kills and set(killer.killed) == killer.kinds
        with tally_of(noria) as tally:
            tally.settle()
            said.add(crowd.said)
            check_effects(tally, said)
            check_orders_and_rounds(tally, crowd.said)
            report = tally.replayed()
            assert report.equal, (report.differences, report.unsaid, report.unexplained)
        until(lambda: all(p.state == "ready" for p in noria.processes().values()), "all processes are ready")
        check_roles(noria)
        print(f"kills {dict(killer.killed)}; {crowd.said.events} events; asked again {crowd.said.refusals} times")


def check_roles(noria: LocalNoria) -> None:
    """Each process is given its own role's address, which its arguments do not show, and connects by no other."""
    roles = {name: share.role for name, share in SHARES.items() if share.role is not None}
    connected = (
        "SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()"
    )
    for name, role in roles.items():
        process = psutil.Process(noria.processes()[name].pid)
        given = urlsplit(process.environ()["NORIA_DATABASE_URL"])
        assert given.username == role and given.password
        assert given.password not in " ".join(process.cmdline())
    with psycopg2.connect(noria.database_url) as connection, connection.cursor() as cursor:
        cursor.execute(connected)
        assert {name for (name,) in cursor.fetchall()} == set(roles.values())


def talk_while_killing(crowd: Crowd, killer: Killer, size: Size) -> None:
    """A kill after every so many acknowledged events, and no more than twice as many events until the next."""
    step = size.events // (size.kills + 1)
    with ThreadPoolExecutor(len(PEOPLE) + 1) as pool:
        lives = [pool.submit(crowd.live, person, size.chats, RATINGS, CORRECTIONS) for person in PEOPLE]
        lives += [pool.submit(crowd.add_exam, number, EXAM_ITEMS) for number in range(size.exam_requests)]
        try:
            for kill in range(size.kills):
                crowd.allow((kill + 2) * step)
                assert crowd.reached((kill + 1) * step), f"no more than {crowd.said.events} events"
                killer.kill_next()
            crowd.allow(10 * size.events)
            for life in lives:
                life.result()
        except BaseException:
            crowd.disperse()
            raise


def check_effects(tally: Tally, said: Acknowledged) -> None:
    """Each acknowledged event stands where the door said, and in the tables once; and nothing else has an effect."""
    on_log = tally.events_on_log()
    ids = {event_id for _, event_id in on_log}
    places = dict(on_log)
    misplaced = {event_id: place for event_id, place in said.at.items() if places.get(place) != event_id}
    assert not misplaced
    assert sorted(tally.column("SELECT event_id FROM noria.events")) == sorted(ids)
    assert tally.quarantined() == 0

    assert set(tally.column("SELECT event_id FROM noria.feedback")) == said.feedback
    assert tally.number("SELECT count(*) FROM noria.feedback WHERE kind = 'correction'") == len(said.corrections)
    examples = sorted(str(uuid5(UUID(event_id), "example")) for event_id in said.corrections)
    assert sorted(tally.column("SELECT example_id FROM noria.examples")) == examples
    picks = tally.rows("SELECT prompt_id, event_id FROM noria.feedback WHERE kind = 'pick' ORDER BY prompt_id")
    assert {event_id for _, event_id in picks} == said.picks
    preferences = tally.column("SELECT prompt_id FROM noria.preferences ORDER BY prompt_id")
    assert preferences == [prompt_id for prompt_id, _ in picks]
    assert sorted(tally.column("SELECT item_id FROM noria.exam_items")) == sorted(said.exam_items)

    # A chat that broke off may stand on the log too: its client asked again, and neither is half recorded.
    replies = {str(UUID(hex=reply_id[4:])) for reply_id in tally.column("SELECT reply_id FROM noria.replies")}
    assert said.replies <= replies <= ids
    without_prompt = (
        "SELECT count(*) FROM noria.replies r WHERE r.prompt_id NOT IN (SELECT prompt_id FROM noria.prompts)"
    )
    assert tally.number(without_prompt) == 0


def check_orders_and_rounds(tally: Tally, said: Acknowledged) -> None:
    """Whatever was asked was asked once and done; a round for each time that the threshold was reached, and no more."""
    orders = tally.orders_on_log()  # a relay that died before it marked a row sends it again, under the same id
    claims = tally.rows("SELECT order_id, state FROM work.claims")
    assert {str(order.order_id) for order in orders} == {order_id for order_id, _ in claims}
    assert {state for _, state in claims} == {"done"}
    here = f"domain = '{DOMAIN}'"
    kinds = tally.column(f"SELECT kind FROM work.claims WHERE {here}")
    assert kinds.count("swap_release") == 1
    assert tally.number(f"SELECT count(*) FROM noria.releases WHERE state = 'live' AND {here}") == 1

    rounds = tally.rows(f"SELECT number, step, pin FROM noria.rounds WHERE {here} ORDER BY number")
    assert [number for number, _, _ in rounds] == list(range(1, len(rounds) + 1))
    assert 1 <= len(rounds) <= len(said.corrections) // CORRECTIONS_A_ROUND
    assert {step for _, step, _ in rounds} == {"empty"}
    for table in ("round_requested", "snapshot_selected"):
        assert tally.number(f"SELECT count(*) FROM noria.events WHERE type = '{table}' AND {here}") == len(rounds)
    assert kinds.count("select_snapshot") == len(rounds)
    accepted = tally.column(f"SELECT accepted_offset FROM noria.examples WHERE {here}")
    for before, pin in pairwise([0, *(pin for _, _, pin in rounds)]):
        assert sum(before <= offset < pin for offset in accepted) >= CORRECTIONS_A_ROUND
