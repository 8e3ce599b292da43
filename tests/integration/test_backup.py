"""The restore drill: a backup is made while people chat, everything is lost, and what comes back is what was there, without
whom was erased meanwhile; the log copied out comes back record by record, at the same offsets."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg2
import pytest
from click.testing import CliRunner, Result
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient
from msgspec import json

from api.cli import main
from deploy import local
from streams import replay
from streams.artifacts import Artifacts
from streams.cluster import Cluster
from streams.errors import Erased, Invalid
from streams.events import CONVERSATIONS, DOMAINS, ORDERS
from streams.log import KafkaLog
from streams.log_copy import copied, copy_out, write_back
from streams.sealed import Sealed
from streams.sealing import Keyring, MasterKey, open_sealed
from streams.store import open_database
from streams.topics import TOPICS, create_topics
from tests import door_world
from tests.at_rest import files_holding
from tests.door_world import wait_until
from tests.integration.by_hand import rows
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
KEPT, EARLIER, LATER = "the ferry leaves at nine", "the bridge is closed on Mondays", "the toll is four crowns"


def remove_topics(kafka: Cluster) -> None:
    admin, names = KafkaAdminClient(**kafka.client()), {topic.name for topic in TOPICS}
    admin.delete_topics(sorted(names & set(admin.list_topics())))
    wait_until(lambda: not names & set(admin.list_topics()))
    admin.close()


# The log alone


def test_the_log_comes_back_record_by_record_at_the_same_offsets(cluster: Cluster, tmp_path: Path) -> None:
    remove_topics(cluster)
    create_topics(cluster)
    log = KafkaLog(cluster, "test-copy")
    plain = KafkaProducer(**cluster.client())
    one, other = (KafkaProducer(**cluster.client(), transactional_id=f"t-{uuid4()}") for _ in range(2))

    def send(producer: KafkaProducer, key: bytes | None, value: bytes | None) -> None:
        producer.send(ORDERS, key=key, value=value, partition=0).get(PATIENCE_S)

    send(plain, "Schlüssel".encode(), "wörds".encode())
    for producer in (one, other):
        producer.init_transactions()
        producer.begin_transaction()
        send(producer, b"k", b"in a transaction")
    send(plain, b"\xff\xfe", b"\x00\x01 not UTF-8")
    one.commit_transaction()
    wait_until(lambda: log.ends(ORDERS)[0] == 2)  # the other is open still
    other.abort_transaction()
    send(plain, None, b"")
    send(plain, b"k", None)
    one.begin_transaction()
    send(one, b"last", b"and its mark")
    one.commit_transaction()
    end = wait_until(lambda: (found := log.ends(ORDERS)[0]) >= 10 and found)
    for producer in (plain, one, other):
        producer.close()
    before = list(log.read(ORDERS, 0, 0, end))
    assert len(before) == 6 and end == 10
    assert copy_out(log, ORDERS, 0, end, tmp_path / "orders") == 6
    remove_topics(cluster)
    create_topics(cluster)
    write_back(cluster, log, ORDERS, 0, copied(ORDERS, 0, tmp_path / "orders"), end)
    assert list(log.read(ORDERS, 0, 0, end)) == before
    assert log.ends(ORDERS)[0] == end
    with pytest.raises(Invalid, match="written to by another"):
        write_back(cluster, log, ORDERS, 0, copied(ORDERS, 0, tmp_path / "orders"), end)
    log.close()


# The drill


class Drill:
    """A home whose backup was made, and which is lost since."""

    def __init__(self, folder: Path) -> None:
        self.backup = folder / "backup"
        self.apart = folder / "apart"  # the master key and the journal of erasures
        self.ends: dict[str, dict[int, int]] = {}
        self.later: list[str] = []
        self.domain = ""

    @property
    def erasures(self) -> str:
        return str(self.apart / "erasures.jsonl")

    def home(self, home: Path) -> Path:
        """An empty home with its master key."""
        (home / "keys").mkdir(parents=True, mode=0o700)
        shutil.copy(self.apart / "master.key", home / "keys" / "master.key")
        return home


@pytest.fixture(scope="module")
def drill(cluster: Cluster, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drill]:
    found = Drill(tmp_path_factory.mktemp("drill"))
    remove_topics(cluster)
    create_topics(cluster)
    home = tmp_path_factory.mktemp("lost")
    with door_world.running(cluster, database_url, home) as world, pytest.MonkeyPatch.context() as patched:
        for name, value in (environment(home, cluster, database_url) | {"NORIA_DOOR": world.door_url}).items():
            patched.setenv(name, value)
        found.domain = world.domain()
        artifacts = Artifacts(home / "artifacts")
        artifacts.put_bytes(b"a snapshot")
        (home / "model" / "deep").mkdir(parents=True)
        (home / "model" / "deep" / "weights").write_bytes(b"weights" * 100)
        artifacts.put_dir(home / "model")
        for person, words in (("ann", KEPT), ("bob", LATER), ("eva", EARLIER)):
            asked = world.chat(found.domain, words, user=person)
            reply_id = asked["metadata"]["reply_ids"][0]
            told = world.as_chat.post(
                "/v1/feedback", json={"reply_id": reply_id, "user": person, "correction": f"{words}, always"}
            )
            assert told.status_code < 300, told.text
            world.caught_up(told.json()["position"])
        assert world.as_operator.post("/v1/people/eva/erase").status_code == 200
        stopping, troubles = threading.Event(), list[BaseException]()

        def chats() -> None:
            turn = 0
            while not stopping.is_set():
                turn += 1
                try:
                    world.chat(found.domain, f"turn {turn}", user=f"person-{turn}")
                except BaseException as error:
                    troubles.append(error)
                    return

        chatting = threading.Thread(target=chats)
        chatting.start()
        try:
            made = CliRunner().invoke(main, ["backup", str(found.backup), "--json"])
            assert made.exit_code == 0, made.output
        finally:
            stopping.set()
            chatting.join()
        assert not troubles
        again = CliRunner().invoke(main, ["backup", str(found.backup)])
        assert again.exit_code == 1 and "is not an empty folder" in again.output
        assert json.decode(made.stdout)["records"] > 10
        erased = world.as_operator.post("/v1/people/bob/erase")
        assert erased.status_code == 200
        found.later = erased.json()["kids"]
        shutil.copytree(home / "keys", found.apart)
    yield found
    remove_topics(cluster)
    create_topics(cluster)


@pytest.fixture
def database(postgres_server: str) -> Iterator[str]:
    """A database with nothing in it, not even tables."""
    name = f"test_{uuid4().hex[:12]}"
    for statement in (f"CREATE DATABASE {name}", f"DROP DATABASE {name} WITH (FORCE)"):
        connection = psycopg2.connect(postgres_server)
        connection.autocommit = True
        connection.cursor().execute(statement)
        connection.close()
        if statement.startswith("CREATE"):
            yield postgres_server.rpartition("/")[0] + f"/{name}"


def environment(home: Path, kafka: Cluster, database: str) -> dict[str, str]:
    return {
        "NORIA_HOME": str(home),
        **kafka.environ(),
        "NORIA_DATABASE_URL": database,
        "NORIA_DOOR": "http://[::1]:1",
    }


def restore(environ: dict[str, str], *given: str) -> Result:
    handed_on = {name: None for name in os.environ if name.startswith("NORIA_")}
    return CliRunner(env={**handed_on, **environ}).invoke(main, ["restore", *given])


def test_everything_comes_back_but_whom_was_erased_and_the_chat_goes_on(
    drill: Drill, cluster: Cluster, database: str, tmp_path: Path
) -> None:
    home = drill.home(tmp_path / "home")
    environ = environment(home, cluster, database)
    full = restore(environ, str(drill.backup), "--erasures", drill.erasures)
    assert full.exit_code == 1 and f"Kafka at {cluster.servers} is not empty" in full.output
    remove_topics(cluster)

    # Killed in the middle of the log.
    killed = subprocess.Popen(
        [sys.executable, "-m", "api.cli", "restore", str(drill.backup), "--erasures", drill.erasures],
        cwd=ROOT,
        env={**{k: v for k, v in os.environ.items() if not k.startswith("NORIA_")}, **environ},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert killed.stdout is not None
    for line in killed.stdout:
        if line.startswith(f"{CONVERSATIONS}-1"):
            break
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    with pytest.raises(Invalid, match="was broken off"):
        local.up(home, environ)

    done = restore(environ, str(drill.backup), "--erasures", drill.erasures)
    assert done.exit_code == 0, done.output
    assert "1 keys that were erased since are not" in done.output
    assert not (home / local.RESTORING).exists()
    manifest = json.decode((drill.backup / "manifest.json").read_bytes())
    log, restored = KafkaLog(cluster, "test-restored"), open_database(database)
    ends = {f"{topic.name}-{p}": end for topic in TOPICS for p, end in log.ends(topic.name).items()}
    told = {place: end - manifest["ends"][place] for place, end in ends.items()}
    assert sum(told.values()) == 1 and any(more for place, more in told.items() if place.startswith(DOMAINS)), told

    assert replay.verify(restored, log).equal
    keyring = Keyring(restored, MasterKey.made(home / "keys" / "master.key"))
    opened: dict[str, set[str]] = {}
    for person, messages in rows(restored, "SELECT person, messages FROM noria.prompts"):
        try:
            opened.setdefault(str(person), set()).add(open_sealed(Sealed(**messages), keyring))  # type: ignore[arg-type]
        except Erased:
            opened.setdefault(str(person), set()).add("erased")
    assert opened.pop("bob") == opened.pop("eva") == {"erased"}
    assert KEPT in "".join(opened.pop("ann")) and all("turn" in "".join(words) for words in opened.values())
    query = "SELECT person, retired_reason FROM noria.examples ORDER BY person"
    assert rows(restored, query) == [("ann", None), ("bob", "erased"), ("eva", "erased")]
    query = "SELECT count(*) FROM keyring.person_keys WHERE kid = ANY(:kids) AND wrapped = ''::bytea"
    assert rows(restored, query, kids=drill.later) == [(len(drill.later),)]
    assert not files_holding(home, [KEPT, EARLIER, LATER]) and not files_holding(drill.backup, [KEPT, EARLIER, LATER])
    assert set(drill.later) <= {json.decode(line)["kid"] for line in (home / "keys" / "erasures.jsonl").open()}
    artifacts = Artifacts(home / "artifacts")
    assert len(artifacts.all()) == 2 and all(artifacts.verify(digest) for digest in artifacts.all())
    query = "SELECT count(*) FILTER (WHERE sent_at IS NULL), count(*) > 0 FROM noria.outbox WHERE message_id IN"
    query += " (SELECT event_id FROM noria.events)"
    assert rows(restored, query) == [(0, True)]

    with door_world.running(cluster, database, home) as world:
        world.route(drill.domain, 0, world.engine)
        world.chat(drill.domain, "is the ferry late?", user="ann")
        world.chat(drill.domain, "it is me again", user="bob")
        assert world.services.recorder.wait_for_ends(CONVERSATIONS, PATIENCE_S)
        known = world.as_operator.get("/v1/people/bob/corrections").json()["data"]
        assert [one["state"] for one in known] == ["erased"]
    assert replay.verify(restored, log).equal
    restored.dispose()
    log.close()


def test_a_backup_that_is_damaged_is_refused_by_the_name_of_the_file_before_anything_is_written(
    drill: Drill, cluster: Cluster, tmp_path: Path
) -> None:
    home = drill.home(tmp_path / "home")
    environ = {"NORIA_HOME": str(home)}
    files = [file for file in sorted(drill.backup.rglob("*")) if file.is_file()]
    names = {file.relative_to(drill.backup).as_posix() for file in files}
    assert {"manifest.json", "tables/access.api_keys.jsonl.gz", f"log/{DOMAINS}-1.jsonl.gz"} < names
    for file in files:
        whole = file.read_bytes()
        for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1], None):
            file.unlink(missing_ok=True)
            if damaged is not None:
                file.write_bytes(damaged)
            refused = restore(environ, str(drill.backup), "--erasures", drill.erasures)
            assert refused.exit_code == 1 and file.name in refused.output, (file, refused.output)
        file.write_bytes(whole)
    assert {path.relative_to(home).as_posix() for path in home.rglob("*")} == {"keys", "keys/master.key"}


def test_a_restore_is_refused_where_it_could_bring_somebody_back_or_open_nothing(drill: Drill, tmp_path: Path) -> None:
    home = drill.home(tmp_path / "home")
    environ, backup = {"NORIA_HOME": str(home)}, str(drill.backup)
    unsaid = restore(environ, backup)
    assert unsaid.exit_code == 2 and "give the newest journal" in unsaid.output
    older = tmp_path / "older.jsonl"
    older.write_text("")
    refused = restore(environ, backup, "--erasures", str(older))
    assert refused.exit_code == 1 and "is older than the backup" in refused.output
    older.write_text("not a journal}\n")
    refused = restore(environ, backup, "--erasures", str(older))
    assert refused.exit_code == 1 and "line 1 of the erasure journal" in refused.output
    (home / "keys" / "master.key").unlink()
    refused = restore(environ, backup, "--erasures", drill.erasures)
    assert refused.exit_code == 1 and "there is no master key file" in refused.output
    MasterKey.made(home / "keys" / "master.key")
    refused = restore(environ, backup, "--erasures", drill.erasures)
    assert refused.exit_code == 1 and "which the file does not hold" in refused.output
    (home / "keys" / "master.key").unlink()
    drill.home(tmp_path / "full")
    (tmp_path / "full" / "kafka").mkdir()
    (tmp_path / "full" / "kafka" / "log").touch()
    refused = restore({"NORIA_HOME": str(tmp_path / "full")}, backup, "--erasures", drill.erasures)
    assert refused.exit_code == 1 and "the home is not empty: kafka" in refused.output
    assert (tmp_path / "full" / "kafka" / "log").exists()
