"""A broker of somebody else, as companies run it: TLS with certificates of their own, and logins by SCRAM, PLAIN or certificate."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient, ScramMechanism, UserScramCredentialUpsertion
from msgspec.structs import replace
from sqlalchemy import Engine, text

from deploy import kafka
from deploy.ports import LOOPBACK, free_port
from streams.cluster import Cluster, named_cluster
from streams.errors import LoginRefused, Unavailable
from streams.events import DOMAINS, ORDERS
from streams.log import KafkaLog, Message, Record
from streams.log_copy import write_back
from streams.topics import create_topics
from tests.certificates import Authority
from tests.integration.conftest import eventually, side_by_side, started
from tests.integration.test_following import start_app, tick
from tests.integration.test_kafka_login import is_told
from tests.waiting import PATIENCE_S

HOWS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "certificate")


class Broker:
    """Listens for logins (SASL_SSL) and for certificates (SSL); `authority` signed what either side shows."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        server, client = self.authority.certificate("broker"), self.authority.certificate("noria")
        store = folder / "store.pem"
        store.touch(mode=0o600)
        store.write_text(server.key.read_text() + server.file.read_text())
        logins, certificates = free_port(), free_port()
        password = kafka.made_password(folder / "password")
        self.by_login = Cluster(
            servers=f"{LOOPBACK}:{logins}",
            security="SASL_SSL",
            user=kafka.USER,
            password_file=password,
            ca=self.authority.file,
        )
        self.by_certificate = Cluster(
            servers=f"{LOOPBACK}:{certificates}",
            security="SSL",
            ca=self.authority.file,
            certificate=client.file,
            key=client.key,
        )
        self.command = kafka.prepare(folder / "data", logins, free_port(), self.by_login.password())
        settings = folder / "data" / "server.properties"
        said = dict(line.partition("=")[::2] for line in settings.read_text().splitlines())
        said["listeners"] += f",OWN://{LOOPBACK}:{certificates}"
        said["advertised.listeners"] += f",OWN://{LOOPBACK}:{certificates}"
        said["listener.security.protocol.map"] = "CONTROLLER:SASL_PLAINTEXT,CLIENT:SASL_SSL,OWN:SSL"
        said["listener.name.client.sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
        for mechanism in ("scram-sha-256", "scram-sha-512"):
            said[f"listener.name.client.{mechanism}.sasl.jaas.config"] = (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            )
        said |= {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(store)}
        said |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(self.authority.file)}
        said["listener.name.own.ssl.client.auth"] = "required"
        settings.write_text("".join(f"{name}={value}\n" for name, value in said.items()))

    def cluster(self, how: str) -> Cluster:
        return self.by_certificate if how == "certificate" else replace(self.by_login, mechanism=how)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    made = Broker(tmp_path_factory.mktemp("tls"))
    with started(made.command):
        log = KafkaLog(made.by_login, "test-tls")
        eventually(log.answers, "the broker")
        log.close()
        create_topics(made.by_login)
        admin = KafkaAdminClient(**made.by_login.client())
        password = made.by_login.password()
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            admin.alter_user_scram_credentials([UserScramCredentialUpsertion(kafka.USER, mechanism, password)])
        admin.close()
        yield made


@pytest.mark.parametrize("how", HOWS)
def test_every_client_works_however_it_proves_who_it_is(broker: Broker, how: str) -> None:
    cluster = named_cluster(broker.cluster(how).environ())
    assert cluster is not None
    assert create_topics(cluster) == []
    log = KafkaLog(cluster, "test-tls")
    (position,) = log.append([Message(DOMAINS, "k", how.encode())], PATIENCE_S)
    read = list(log.read(DOMAINS, position.partition, position.offset, position.offset + 1))
    assert [record.value for record in read] == [how.encode()]
    assert log.ends(DOMAINS)[position.partition] == position.offset + 1
    log.close()


def test_a_log_is_written_back_over_tls(broker: Broker) -> None:
    log = KafkaLog(broker.by_login, "test-tls")
    write_back(broker.by_login, log, ORDERS, 0, [Record(ORDERS, 0, 0, b"k", b"said")], 1)
    assert [record.value for record in log.read(ORDERS, 0, 0, 1)] == [b"said"]
    log.close()


@pytest.mark.parametrize("how", HOWS)
def test_the_stream_follows(broker: Broker, how: str, database_url: str, database: Engine, tmp_path: Path) -> None:
    cluster = broker.cluster(how)
    log = KafkaLog(cluster, "test-tls")
    log.append([tick(how)], PATIENCE_S)
    log.close()

    def count() -> int:
        with database.connect() as connection:
            found = connection.execute(text("SELECT count(*) FROM noria.events WHERE domain = :d"), {"d": how})
            return int(found.scalar_one())

    app = start_app(tmp_path, cluster, database_url)
    try:
        eventually(lambda: count() == 1, "what was said took effect")
    finally:
        app.terminate()
        app.wait()


def test_who_is_not_trusted_or_not_let_in_is_told_so(broker: Broker, tmp_path: Path) -> None:
    login, certificate = broker.by_login, broker.by_certificate
    other = Authority(tmp_path)
    foreign = other.certificate("foreign")
    scram = replace(login, mechanism="SCRAM-SHA-512")
    guessed = kafka.made_password(tmp_path / "guessed")
    outsiders = (
        (replace(login, ca=other.file), Unavailable, "does not agree on TLS: .*(certificate|signature)"),
        (replace(login, ca=None), Unavailable, "does not agree on TLS: .*issuer certificate"),
        (
            replace(login, servers=login.servers.replace(LOOPBACK, "localhost")),
            Unavailable,
            "on TLS: Hostname mismatch",
        ),
        (
            replace(certificate, certificate=None, key=None),
            Unavailable,
            "does not agree on TLS: .*CERTIFICATE_REQUIRED",
        ),
        (replace(certificate, certificate=foreign.file, key=foreign.key), Unavailable, "does not agree on TLS: .*"),
        (Cluster(servers=login.servers), Unavailable, "does not answer to PLAINTEXT"),
        (replace(login, password_file=guessed), LoginRefused, "refused the login of noria"),
        (replace(scram, password_file=guessed), LoginRefused, "refused the login of noria"),
        (replace(scram, user="nobody"), LoginRefused, "refused the login of nobody"),
    )
    side_by_side(is_told, outsiders)
