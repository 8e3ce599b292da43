"""The disk of PostgreSQL, then Kafka's, is full while people talk: the door says so, and with room again all goes on by itself."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg2
import pytest

from api.client import Door
from tests import ward
from tests.faults.conftest import SmallDisks
from tests.faults.crowd import PEOPLE, QUESTION, Acknowledged, Crowd
from tests.faults.tally import tally_of
from tests.faults.test_kills import check_effects
from tests.local_noria import LocalNoria, until
from tests.waiting import PATIENCE_S

RATINGS, CORRECTIONS = 3, 1
EVENTS = len(PEOPLE) * (2 + 1 + 2 * RATINGS + CORRECTIONS)  # of one chat each


@contextmanager
def filled(place: Path) -> Iterator[None]:
    """Nothing more finds room at `place` meanwhile."""
    filler = place / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(65_536))
            except OSError:
                pass
        assert shutil.disk_usage(place).free == 0
        yield
    finally:
        filler.unlink()


def refused(noria: LocalNoria, domain: str) -> str | None:
    """What the door says to somebody who asks, if it cannot."""
    body = {"model": domain, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 4, "user": "somebody"}
    answer = httpx.post(
        f"{noria.door_url}/v1/chat/completions",
        json=body,
        headers={"Authorization": f"Bearer {noria.key}"},
        timeout=PATIENCE_S,
        trust_env=False,
    )
    if answer.status_code == 200:
        return None
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1, answer.text
    return str(answer.json()["error"]["message"])


def talk_while_full(noria: LocalNoria, door: Door, name: str, words: tuple[str, ...]) -> Acknowledged:
    """What was acknowledged. `name`: whose disk it is. `words`: one of them is how the door says why it cannot."""
    domain = f"full-{name}"
    door.create_domain({"domain": domain, "base_model": ward.MODEL})
    until(lambda: any(model["id"] == domain for model in door.models()), "the first release answers")
    crowd = Crowd(door, domain)
    with ThreadPoolExecutor(len(PEOPLE)) as pool:
        lives = [pool.submit(crowd.live, person, 1, RATINGS, CORRECTIONS) for person in PEOPLE]
        try:
            crowd.allow(EVENTS // 3)
            assert crowd.reached(EVENTS // 3)
            before = noria.processes()[name].restarts
            with filled(noria.home / name):
                crowd.allow(10 * EVENTS)
                if name == "postgres":
                    use_up_written_ahead(noria)
                ended = f"{name} has ended for want of room"
                until(lambda: noria.processes()[name].restarts > before, ended)
                said = until(lambda: refused(noria, domain), "the door refuses")
                assert any(word in said for word in words), said
            for life in lives:
                life.result()
        except BaseException:
            crowd.disperse()
            raise
    assert crowd.said.events == EVENTS and crowd.said.refusals
    until(lambda: refused(noria, domain) is None, "the door answers whoever asks")
    until(lambda: all(p.state == "ready" for p in noria.processes().values()), "all processes are ready")
    return crowd.said


def use_up_written_ahead(noria: LocalNoria) -> None:
    """Ask for a new file of the write-ahead log, again and again, until there is no room for one and the server ends."""
    try:
        while True:
            connection = psycopg2.connect(noria.database_url)
            connection.autocommit = True
            connection.cursor().execute("SELECT pg_logical_emit_message(false, 'test', 'x'); SELECT pg_switch_wal()")
            connection.close()
    except psycopg2.OperationalError:
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("postgres", ("PostgreSQL does not answer", "PostgreSQL has no room left on its disk")),
        ("kafka", ("the log does not answer; nothing was recorded", "the log did not say in time")),
    ],
)
def test_a_full_disk_is_said_and_all_goes_on_by_itself_when_there_is_room(
    noria: LocalNoria, small_disks: SmallDisks, said: Acknowledged, name: str, words: tuple[str, ...]
) -> None:
    if small_disks.refused:
        pytest.skip(f"no file system can be mounted here: {small_disks.refused}")
    with noria.door() as door:
        said.add(talk_while_full(noria, door, name, words))
    with tally_of(noria) as tally:
        tally.settle()
        check_effects(tally, said)
        report = tally.replayed()
        assert report.equal, (report.differences, report.unsaid, report.unexplained)
