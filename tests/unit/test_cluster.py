"""How a Kafka cluster is named by the settings, and what is refused before anything starts."""

import socket
import ssl
from pathlib import Path

import msgspec
import pytest
from kafka.errors import KafkaTimeoutError

from deploy.kafka import made_password, properties
from streams.cluster import Cluster, named_cluster
from streams.errors import Invalid, Unavailable
from streams.reach import unreachable
from streams.settings import from_env
from tests.certificates import Authority

PASSWORD = "s3cret-of-a-test"


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.touch(mode=0o600)
    path.write_text(PASSWORD + "\n")
    return path


@pytest.fixture
def environ(password_file: Path) -> dict[str, str]:
    return {
        "NORIA_KAFKA": "one:9092,two:9092",
        "NORIA_KAFKA_SECURITY": "SASL_PLAINTEXT",
        "NORIA_KAFKA_USER": "noria",
        "NORIA_KAFKA_PASSWORD_FILE": str(password_file),
    }


def test_servers_alone_are_a_cluster_that_asks_nobody_who_they_are() -> None:
    cluster = named_cluster({"NORIA_KAFKA": "one:9092,two:9092"})
    assert cluster is not None and not cluster.asks_login and not cluster.speaks_tls
    assert cluster.client() == {"bootstrap_servers": ["one:9092", "two:9092"], "security_protocol": "PLAINTEXT"}


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_login_is_handed_to_a_client_and_named_nowhere_else(environ: dict[str, str], mechanism: str) -> None:
    cluster = named_cluster(environ | {"NORIA_KAFKA_MECHANISM": mechanism})
    assert cluster is not None
    given = cluster.client()
    assert (given["sasl_mechanism"], given["sasl_plain_username"]) == (mechanism, "noria")
    assert given["sasl_plain_password"] == PASSWORD
    for told in (repr(cluster), str(cluster), str(cluster.environ()), msgspec.json.encode(cluster.environ()).decode()):
        assert PASSWORD not in told
    assert named_cluster(cluster.environ()) == cluster, "whoever is given its settings comes to the same"


def test_a_new_password_is_taken_from_the_file_by_the_next_client(environ: dict[str, str], password_file: Path) -> None:
    cluster = named_cluster(environ)
    assert cluster is not None
    password_file.write_text("another")
    assert cluster.client()["sasl_plain_password"] == "another"
    password_file.unlink()
    with pytest.raises(Unavailable, match=r"NORIA_KAFKA_PASSWORD_FILE: .*cannot be read"):
        cluster.client()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"NORIA_KAFKA_SECURITY": "TLS"}, "NORIA_KAFKA_SECURITY must be one of PLAINTEXT, SSL, .*got 'TLS'"),
        ({"NORIA_KAFKA_MECHANISM": "GSSAPI"}, "NORIA_KAFKA_MECHANISM must be one of PLAIN, .*got 'GSSAPI'"),
        ({"NORIA_KAFKA_PASSWORD_FILE": ""}, "set both NORIA_KAFKA_USER and NORIA_KAFKA_PASSWORD_FILE"),
        ({"NORIA_KAFKA_USER": ""}, "set both NORIA_KAFKA_USER and NORIA_KAFKA_PASSWORD_FILE"),
        ({"NORIA_KAFKA_SECURITY": ""}, "NORIA_KAFKA_PASSWORD_FILE, NORIA_KAFKA_USER is set, .*PLAINTEXT.* no login"),
        ({"NORIA_KAFKA_CA": "/ca.pem"}, "NORIA_KAFKA_CA is set, .*SASL_PLAINTEXT, which has no TLS"),
        ({"NORIA_KAFKA_PASSWORD_FILE": "/nowhere/at/all"}, "NORIA_KAFKA_PASSWORD_FILE: /nowhere/at/all cannot be read"),
        (
            {"NORIA_KAFKA": ""},
            "NORIA_KAFKA_PASSWORD_FILE, NORIA_KAFKA_SECURITY, NORIA_KAFKA_USER is set, and NORIA_KAFKA,",
        ),
        ({"NORIA_KAFKA_SECURITY": "SASL_SSL", "NORIA_KAFKA_CA": "/nowhere"}, "NORIA_KAFKA_CA: /nowhere holds no cert"),
        ({"NORIA_KAFKA_SECURITY": "SASL_SSL", "NORIA_KAFKA_KEY": "/k"}, "set both NORIA_KAFKA_CERTIFICATE and"),
    ],
)
def test_what_does_not_fit_together_is_refused_by_the_name_of_the_setting(
    environ: dict[str, str], given: dict[str, str], words: str, tmp_path: Path
) -> None:
    whole = environ | given | {"NORIA_HOME": str(tmp_path), "NORIA_DATABASE_URL": "d", "NORIA_DOOR": "http://d:1"}
    with pytest.raises(Invalid, match=words):
        from_env(whole)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o602])
def test_a_password_that_others_may_read_is_refused(environ: dict[str, str], password_file: Path, mode: int) -> None:
    password_file.chmod(mode)
    with pytest.raises(Invalid, match=r"NORIA_KAFKA_PASSWORD_FILE: .*must not be readable by others"):
        named_cluster(environ)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_file_that_holds_no_password_is_refused(environ: dict[str, str], password_file: Path, content: bytes) -> None:
    password_file.write_bytes(content)
    with pytest.raises(Invalid, match=r"NORIA_KAFKA_PASSWORD_FILE: .*(is empty|is not UTF-8)"):
        named_cluster(environ)


def test_a_certificate_and_key_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    mine, other = authority.certificate("noria"), authority.certificate("other")
    environ = {
        "NORIA_KAFKA": "one:9093",
        "NORIA_KAFKA_SECURITY": "SSL",
        "NORIA_KAFKA_CA": str(authority.file),
        "NORIA_KAFKA_CERTIFICATE": str(mine.file),
        "NORIA_KAFKA_KEY": str(mine.key),
    }
    cluster = named_cluster(environ)
    assert cluster is not None and isinstance(cluster.client()["ssl_context"], ssl.SSLContext)
    assert named_cluster(cluster.environ()) == cluster
    with pytest.raises(
        Invalid, match=r"NORIA_KAFKA_CERTIFICATE and NORIA_KAFKA_KEY: .* are not a certificate and its key"
    ):
        named_cluster(environ | {"NORIA_KAFKA_KEY": str(other.key)})
    mine.key.chmod(0o644)
    with pytest.raises(Invalid, match=r"NORIA_KAFKA_KEY: .*must not be readable by others"):
        named_cluster(environ)


def test_the_login_of_a_running_noria_is_never_shown_to_a_cluster_that_the_environment_names(
    environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    said = {name.removeprefix("NORIA_").lower(): value for name, value in environ.items()}
    written = said | {"door": "http://d:1", "database_url": "d"}
    (tmp_path / "run" / "noria.json").write_bytes(msgspec.json.encode(written))
    here = from_env({"NORIA_HOME": str(tmp_path)}).kafka
    assert here == named_cluster(environ)
    elsewhere = from_env({"NORIA_HOME": str(tmp_path), "NORIA_KAFKA": "other:9092"}).kafka
    assert elsewhere == Cluster(servers="other:9092")


def test_whoever_takes_connections_and_says_nothing_is_told_from_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cluster = Cluster(servers=f"127.0.0.1:{silent.getsockname()[1]}")
        told = str(unreachable(cluster, KafkaTimeoutError()))
        assert "takes connections and does not answer to PLAINTEXT (NORIA_KAFKA_SECURITY)" in told
    assert "does not answer: KafkaTimeoutError" in str(unreachable(cluster, KafkaTimeoutError()))


def test_the_password_of_a_broker_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = made_password(tmp_path / "keys" / "kafka.password")
    assert path.stat().st_mode & 0o777 == 0o600
    password = path.read_text()
    assert len(password) > 40 and made_password(path).read_text() == password
    assert [file.name for file in path.parent.iterdir()] == ["kafka.password"]


def test_no_listener_of_a_broker_is_open_to_strangers() -> None:
    said = dict(line.partition("=")[::2] for line in properties(Path("/d"), 1, 2, PASSWORD).splitlines())
    protocols = dict(pair.split(":") for pair in said["listener.security.protocol.map"].split(","))
    listeners = [listener.partition("://")[0] for listener in said["listeners"].split(",")]
    assert {protocols[name] for name in listeners} == {"SASL_PLAINTEXT"}
    assert all(f"listener.name.{name.lower()}.plain.sasl.jaas.config" in said for name in listeners)
