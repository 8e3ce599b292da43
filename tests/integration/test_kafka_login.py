"""The broker that is started here, against another user of the machine: who does not have its password writes nothing, anywhere."""

import os
import re
import socket
import struct
import subprocess
import sys
from itertools import product
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from kafka.admin import KafkaAdminClient
from msgspec.structs import replace

from api.app import build, create_app
from api.cli import main
from deploy import kafka
from deploy.ports import LOOPBACK, free_port
from streams.cluster import Cluster
from streams.errors import LoginRefused, Unavailable
from streams.events import CONVERSATIONS, DOMAINS, ORDERS
from streams.log import KafkaLog, Message
from streams.sealing import MasterKey
from streams.topics import create_topics
from tests.door_world import make_settings
from tests.integration.conftest import eventually, side_by_side, started
from tests.local_noria import log_and_database
from tests.waiting import PATIENCE_S

CREATE_TOPICS, SASL_HANDSHAKE, SASL_AUTHENTICATE = 19, 17, 36  # requests, by Kafka's numbers
REFUSED = 58  # SASL_AUTHENTICATION_FAILED


@pytest.fixture
def stranger(cluster: Cluster) -> Cluster:
    """Knows where the broker is, and no more."""
    return Cluster(servers=cluster.servers)


@pytest.fixture
def liar(cluster: Cluster, tmp_path: Path) -> Cluster:
    """Knows the user's name, too."""
    return replace(cluster, password_file=kafka.made_password(tmp_path / "guessed"))


def controller_of(data: Path) -> int:
    said = (data / "server.properties").read_text()
    return int(said.partition(f"CONTROLLER://{LOOPBACK}:")[2].partition("\n")[0])


def word(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


class Raw:
    """A connection on which anything may be asked, as no library would."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((LOOPBACK, port), timeout=PATIENCE_S)

    def ask(self, what: int, version: int, body: bytes) -> bytes | None:
        """The answer without its header; None where the other end hung up."""
        asked = struct.pack(">hhih", what, version, 7, -1) + body
        try:
            self._socket.sendall(struct.pack(">i", len(asked)) + asked)
            answer = self._taken(struct.unpack(">i", self._taken(4))[0])
        except (EOFError, ConnectionError):
            return None
        assert answer[:4] == struct.pack(">i", 7)
        return answer[4:]

    def log_in(self, password: str) -> int:
        """Kafka's error code, 0: welcome."""
        assert self.ask(SASL_HANDSHAKE, 1, word("PLAIN")) is not None
        token = f"\0{kafka.USER}\0{password}".encode()
        answer = self.ask(SASL_AUTHENTICATE, 0, struct.pack(">i", len(token)) + token)
        assert answer is not None
        return int(struct.unpack(">h", answer[:2])[0])

    def create_topic(self, name: str) -> bytes | None:
        body = struct.pack(">i", 1) + word(name) + struct.pack(">ihii", 1, 1, 0, 0) + struct.pack(">ib", 10_000, 0)
        return self.ask(CREATE_TOPICS, 4, body)

    def _taken(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            if not (more := self._socket.recv(size - len(found))):
                raise EOFError
            found += more
        return found

    def close(self) -> None:
        self._socket.close()


def test_neither_a_stranger_nor_a_liar_writes_an_event_or_an_order(
    empty_log: Cluster, stranger: Cluster, liar: Cluster
) -> None:
    mine = KafkaLog(empty_log, "test-login")
    before = {topic: mine.ends(topic) for topic in (CONVERSATIONS, DOMAINS, ORDERS)}

    def forge(outsider: Cluster, topic: str) -> None:
        log = KafkaLog(outsider, "test-outsider")
        with pytest.raises(Unavailable):
            log.append([Message(topic, "k", b"forged")], 10)
        log.close()

    side_by_side(forge, product((stranger, liar), before))
    assert {topic: mine.ends(topic) for topic in before} == before
    for topic in before:
        (position,) = mine.append([Message(topic, "k", b"said")], PATIENCE_S)
        read = list(mine.read(topic, position.partition, position.offset, position.offset + 1))
        assert [record.value for record in read] == [b"said"], "else this shows nothing"
    mine.close()


def test_whoever_is_not_let_in_is_told_why(empty_log: Cluster, stranger: Cluster, liar: Cluster) -> None:
    outsiders = (
        (stranger, Unavailable, r"takes connections and does not answer to PLAINTEXT \(NORIA_KAFKA_SECURITY\)"),
        (liar, LoginRefused, "refused the login of noria"),
        (replace(empty_log, user="root"), LoginRefused, "refused the login of root"),
        (replace(empty_log, mechanism="SCRAM-SHA-256"), LoginRefused, "takes no login by SCRAM-SHA-256"),
        (replace(stranger, security="SSL"), Unavailable, "does not agree on TLS"),
    )
    side_by_side(is_told, outsiders)


@pytest.mark.parametrize("listener", ["client", "controller"])
def test_no_listener_does_what_somebody_asks_who_has_not_logged_in(
    cluster: Cluster, kafka_data: Path, listener: str
) -> None:
    port = controller_of(kafka_data) if listener == "controller" else int(cluster.servers.rpartition(":")[2])
    mine = KafkaLog(cluster, "test-login")
    unasked = Raw(port)
    assert unasked.create_topic(f"forged-{listener}") is None, "it hangs up"
    unasked.close()
    lying = Raw(port)
    assert lying.log_in("guessed") == REFUSED
    assert lying.create_topic(f"forged-{listener}") is None
    lying.close()
    with pytest.raises(Unavailable, match="does not exist"):
        mine.ends(f"forged-{listener}")
    owner = Raw(port)
    assert owner.log_in(cluster.password()) == 0
    assert owner.create_topic(f"made-{listener}") is not None, "else this shows nothing"
    owner.close()
    eventually(lambda: f"made-{listener}" in topics_of(cluster), "the topic of who has logged in")
    mine.close()


def is_told(cluster: Cluster, error: type[Exception], words: str) -> None:
    """Whoever connects like this is told so by this error."""
    log = KafkaLog(cluster, "test-outsider")
    with pytest.raises(error, match=words):
        log.ends(DOMAINS)
    log.close()


def topics_of(cluster: Cluster) -> set[str]:
    admin = KafkaAdminClient(**cluster.client())
    try:
        return set(admin.list_topics())
    finally:
        admin.close()


def test_the_password_stands_in_two_files_for_their_owner_only_and_in_no_command_line(
    cluster: Cluster, kafka_data: Path
) -> None:
    password = cluster.password().encode()
    assert cluster.password_file is not None and cluster.password_file.stat().st_mode & 0o777 == 0o600
    holding = [path for path in kafka_data.rglob("*") if path.is_file() and password in path.read_bytes()]
    assert [path.name for path in holding] == ["server.properties"]
    assert holding[0].stat().st_mode & 0o777 == 0o600
    (broker,) = (
        # What has ended and is not yet waited for has no command line any more.
        process
        for process in psutil.process_iter(["cmdline"])
        if holding[0].as_posix() in (process.info["cmdline"] or ())
    )
    assert password.decode() not in " ".join(broker.cmdline()) + str(broker.environ())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """From before: its broker asked nobody for a password, and holds what somebody said."""
    data, port = tmp_path / "home" / "kafka", free_port()
    command = kafka.prepare(data, port, free_port(), "unused")
    settings = data / "server.properties"
    text = settings.read_text().replace("SASL_PLAINTEXT", "PLAINTEXT").replace("CLIENT", "PLAINTEXT")
    settings.write_text(
        "".join(f"{line}\n" for line in text.splitlines() if not re.match(r"sasl\.|listener\.name\.", line))
    )
    settings.chmod(0o644)
    plain = Cluster(servers=f"{LOOPBACK}:{port}")
    with started(command):
        log = KafkaLog(plain, "test-older")
        eventually(log.answers, "the older broker")
        create_topics(plain)
        log.append([Message(DOMAINS, "k", b"said before")], PATIENCE_S)
        log.close()
    return tmp_path / "home"


def test_a_home_from_before_keeps_what_it_holds_and_gets_a_password_that_is_handed_on_as_a_file(home: Path) -> None:
    with log_and_database(home) as noria:
        it_keeps_what_it_holds_and_lets_no_stranger_in(home, noria.kafka)
        it_hands_on_the_file_and_never_the_password(home)


def it_keeps_what_it_holds_and_lets_no_stranger_in(home: Path, found: Cluster) -> None:
    log = KafkaLog(found, "test-newer")
    read = [
        record.value for partition, end in log.ends(DOMAINS).items() for record in log.read(DOMAINS, partition, 0, end)
    ]
    assert read == [b"said before"]
    log.append([Message(DOMAINS, "k", b"said now")], PATIENCE_S)
    with pytest.raises(Unavailable):
        KafkaLog(Cluster(servers=found.servers), "test-older").append([Message(DOMAINS, "k", b"forged")], 10)
    assert (home / "kafka" / "server.properties").stat().st_mode & 0o777 == 0o600
    log.close()


def it_hands_on_the_file_and_never_the_password(home: Path) -> None:
    path = home / "keys" / "kafka.password"
    password = path.read_text().strip()
    assert path.stat().st_mode & 0o777 == 0o600
    started = psutil.Process().children(recursive=True)
    told = [process.as_dict(["environ", "cmdline"]) for process in started]  # nothing of what has just ended
    given = [(one["environ"] or {}) | {"ARGV": " ".join(one["cmdline"] or ())} for one in told]
    assert [one for one in given if one.get("NORIA_KAFKA_PASSWORD_FILE") == str(path)], "else this shows nothing"
    assert not [one for one in given if password in str(one)]
    said = [file for file in (*home.glob("logs/*"), *home.glob("run/*"), *home.glob("kafka/*")) if file.is_file()]
    assert {file.name for file in said if password in file.read_text(errors="replace")} == {"server.properties"}
    checked = CliRunner(env=without_noria() | {"NORIA_HOME": str(home)}).invoke(main, ["log", "check"])
    assert checked.exit_code == 0, checked.output


def without_noria() -> dict[str, str | None]:
    return {name: None for name in os.environ if name.startswith("NORIA_")}


def test_a_door_whose_login_is_refused_says_so_to_whoever_asks_whether_it_is_ready(
    empty_log: Cluster, liar: Cluster, database_url: str, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path / "home", liar, database_url)
    MasterKey.made(settings.master_key)
    services = build(settings, client_id="test-refused")
    try:
        with pytest.raises(LoginRefused):
            services.recorder.log.append([Message(DOMAINS, "k", b"said")], 10)
        client = create_app(services).test_client()
        assert client.get("/readyz").json["missing"] == ["engine"]
        with pytest.raises(LoginRefused):
            services.recorder.append([])
        ready = client.get("/readyz")
        assert ready.status_code == 503 and ready.json["missing"] == ["kafka", "engine"]
        assert ready.json["reason"].endswith("refused the login of noria")
    finally:
        services.recorder.log.close()
        services.database.dispose()


@pytest.mark.parametrize("module", ["streams.erased", "streams.app"])
def test_a_process_whose_login_is_refused_says_so_and_not_that_nobody_answers(
    empty_log: Cluster, liar: Cluster, database_url: str, tmp_path: Path, module: str
) -> None:
    environ = os.environ | liar.environ() | {"NORIA_HOME": str(tmp_path), "NORIA_DATABASE_URL": database_url}
    environ |= {"NORIA_DOOR": "http://127.0.0.1:1"}
    with subprocess.Popen([sys.executable, "-m", module], env=environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            assert any("refused the login of noria" in line for line in process.stderr), "it ended without saying so"
        finally:
            process.terminate()
