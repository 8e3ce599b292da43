"""A backup put back into an empty home: the log at its old offsets, keyring and access without whom was erased since, the
artifacts; the projections are rebuilt from the log.

While it runs a mark stands in the home, and nothing serves from it. A restore that was broken off begins again, and removes what
the first one wrote. A home, log or database that holds something else is never written to.
"""

import gzip
import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError
from msgspec import Struct
from sqlalchemy import Connection, text

from deploy import local
from deploy.backup import MODELS_INDEX, TABLES, Manifest, read_manifest
from deploy.supervisor import Supervisor
from streams import erasures
from streams.artifacts import PREFIX, open_artifacts
from streams.cluster import Cluster, named_cluster
from streams.erased import keep_erased
from streams.errors import Invalid, Unavailable
from streams.events import CONVERSATIONS, DOMAINS
from streams.log import KafkaLog
from streams.log_copy import copied, write_back
from streams.private import write_private
from streams.reach import unreachable
from streams.replay import mark_said, rebuild, tell_erasures
from streams.schema import machinery, projections
from streams.sealing import MasterKey, wrapped_by
from streams.settings import Settings, from_env
from streams.store import open_database, postgres_trouble
from streams.tables import LIVE
from streams.topics import TOPICS, create_topics, replication_factor

GONE_S = 30.0
INSERTED_ROWS = 1000
KEYRING = "keyring.person_keys"


class Mark(Struct, frozen=True):
    """What a restore has begun to write to; `elsewhere`: a digest of the Kafka and PostgreSQL that are not this home's own."""

    elsewhere: str


class Restored(Struct, frozen=True):
    records: int
    keys: int  # that open something
    erased: int  # keys that the backup still held and the journal or the log names
    told: int  # erasures that the log was told of
    artifacts: int


def restore(
    home: Path,
    source: Path,
    journals: Sequence[Path] | None,
    environ: Mapping[str, str],
    say: Callable[[str], None] = lambda line: None,
) -> Restored:
    """Put the backup `source` into `home`. `journals`: what was erased since; that of the home itself is read too. None:
    nothing is known of it.

    Raises Invalid (before anything is written: the backup is damaged, a journal or the master key is not the one that it needs, the
    home holds something), or Unavailable: call again."""
    manifest = read_manifest(source)
    mark = home / local.RESTORING
    elsewhere = _elsewhere(environ)
    again = mark.exists() and msgspec.json.decode(mark.read_bytes(), type=Mark) == Mark(elsewhere)
    master_key = Path(environ.get("NORIA_MASTER_KEY") or home / "keys" / "master.key")
    _check_master_key(master_key, source, manifest)
    journal = erasures.Journal(Path(environ.get("NORIA_ERASURES") or home / "keys" / "erasures.jsonl"))
    erased = _erased(source, journals, journal)
    own = [home / "artifacts"]
    own += [] if environ.get("NORIA_KAFKA") else [home / "kafka"]
    own += [] if environ.get("NORIA_DATABASE_URL") else [home / "postgres"]
    for folder in own:
        if folder.exists() and any(folder.iterdir()):
            if not again:
                raise Invalid(f"the home is not empty: {folder.name} holds something")
            shutil.rmtree(folder)
    if not again:
        _check_empty_elsewhere(environ)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(mark, msgspec.json.encode(Mark(elsewhere)))
    with log_and_database(home, environ, say) as settings:
        restored = _restore(settings, source, manifest, erased, environ, say)
    journal.add(erased)
    mark.unlink()
    return restored


@contextmanager
def log_and_database(
    home: Path, environ: Mapping[str, str], say: Callable[[str], None] = lambda line: None
) -> Iterator[Settings]:
    """Kafka and PostgreSQL with its tables, where they are not given from elsewhere, and nothing that reads or writes them."""
    for folder in (home, home / "run", home / "keys"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = local.addresses(home, environ)
    local.write_addresses(home, found)
    wanted = ("kafka", "postgres", "migrate")
    table = [process for process in local.process_table(home, found, environ) if process.name in wanted]
    ready, ended = threading.Event(), list[BaseException]()
    supervisor = Supervisor(home, table, local.environment(home, found, environ), say)

    def run() -> None:
        try:
            supervisor.run(ready.set)
        except BaseException as error:
            ended.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="supervisor")
    thread.start()
    try:
        ready.wait()
        if ended:
            raise ended[0]
        yield from_env({**environ, "NORIA_HOME": str(home)})
    finally:
        supervisor.stop()
        thread.join()


def _restore(
    settings: Settings,
    source: Path,
    manifest: Manifest,
    erased: set[str],
    environ: Mapping[str, str],
    say: Callable[[str], None],
) -> Restored:
    _remove_topics(settings.kafka)
    create_topics(settings.kafka, replication_factor(environ), manifest.partitions)
    held = {row["kid"] for row in _rows(source, KEYRING) if not row["destroyed_at"]}
    database, log = open_database(settings.database_url), KafkaLog(settings.kafka, "noria-restore")
    try:
        with postgres_trouble(), database.begin() as connection:
            every = [table.fullname for metadata in (projections, machinery) for table in metadata.sorted_tables]
            connection.execute(text(f"TRUNCATE {', '.join(every)} RESTART IDENTITY CASCADE"))
            for table in TABLES:
                _insert(connection, table.fullname, list(_erasing(_rows(source, table.fullname), erased)))
        say("keyring and access are back")
        artifacts = _restore_artifacts(settings, source, manifest)
        for place, end in manifest.ends.items():
            topic, _, partition = place.rpartition("-")
            records = copied(topic, int(partition), source / "log" / f"{place}.jsonl.gz")
            write_back(settings.kafka, log, topic, int(partition), records, end)
            say(f"{place}: up to offset {end}")
        upto = {(topic, p): end for topic in (CONVERSATIONS, DOMAINS) for p, end in log.ends(topic).items()}
        rebuild(database, log, upto, LIVE)
        with postgres_trouble(), database.begin() as connection:
            mark_said(connection, log)
        say("the tables are rebuilt from the log")
        told = tell_erasures(database, log, "restore")
        keep_erased(database, log, erasures.Journal(settings.erasures))  # the log may name what no journal does
        with postgres_trouble(), database.connect() as connection:
            open_still = set(
                connection.execute(text(f"SELECT kid FROM {KEYRING} WHERE destroyed_at IS NULL")).scalars()
            )
    finally:
        log.close()
        database.dispose()
    return Restored(manifest.records, len(open_still), len(held - open_still), told, artifacts)


def _erased(source: Path, journals: Sequence[Path] | None, own: erasures.Journal) -> set[str]:
    """The keys to be destroyed. Raises Invalid unless the journals go at least as far as the backup."""
    if journals is None:
        return own.kids()
    if missing := [path for path in journals if not path.is_file()]:
        raise Invalid(f"there is no erasure journal {missing[0]}")
    found = own.kids().union(*(erasures.Journal(path).kids() for path in journals))
    older = {row["kid"] for row in _rows(source, KEYRING) if row["destroyed_at"]} - found
    if older:
        raise Invalid(
            f"the erasure journal is older than the backup, or another's: it lacks {len(older)} keys that were destroyed before"
        )
    return found


def _check_master_key(path: Path, source: Path, manifest: Manifest) -> None:
    """Raise Invalid unless the file holds every master key that the backup's keys are wrapped by."""
    if not manifest.master_keys:
        return
    if not path.exists():
        raise Invalid(
            f"there is no master key file {path}; the backup needs master key {', '.join(manifest.master_keys)},"
            " which is kept apart from it"
        )
    master, seen = MasterKey(path), set[str]()
    for row in _rows(source, KEYRING):
        wrapped = bytes.fromhex(row["wrapped"].removeprefix("\\x"))
        if wrapped and (name := wrapped_by(wrapped)) not in seen:
            master.unwrap(wrapped, row["kid"])
            seen.add(name)


def _elsewhere(environ: Mapping[str, str]) -> str:
    named = f"{environ.get('NORIA_KAFKA', '')}\n{environ.get('NORIA_DATABASE_URL', '')}"
    return hashlib.sha256(named.encode()).hexdigest()


def _check_empty_elsewhere(environ: Mapping[str, str]) -> None:
    if kafka := named_cluster(environ):
        admin = _admin(kafka)
        try:
            there = set(admin.list_topics())
        finally:
            admin.close()
        log = KafkaLog(kafka, "noria-restore")
        try:
            for topic in TOPICS:
                if topic.name in there and any(log.ends(topic.name).values()):
                    raise Invalid(f"Kafka at {kafka.servers} is not empty: {topic.name} holds something")
        finally:
            log.close()
    if url := environ.get("NORIA_DATABASE_URL"):
        database = open_database(url)
        try:
            with postgres_trouble(), database.connect() as connection:
                for name in (KEYRING, "access.api_keys", f"{LIVE}.events", "work.claims"):
                    there_is = connection.execute(text("SELECT to_regclass(:name)"), {"name": name}).scalar_one()
                    if there_is and connection.execute(text(f"SELECT EXISTS (SELECT FROM {name})")).scalar_one():
                        raise Invalid(f"the database is not empty: {name} holds something")
        finally:
            database.dispose()


def _admin(kafka: Cluster) -> KafkaAdminClient:
    try:
        return KafkaAdminClient(**kafka.client(), client_id="noria-restore")
    except KafkaError as error:
        raise unreachable(kafka, error) from error


def _remove_topics(kafka: Cluster) -> None:
    """What a restore that was broken off has left."""
    admin, names = _admin(kafka), {topic.name for topic in TOPICS}
    try:
        if there := names & set(admin.list_topics()):
            admin.delete_topics(sorted(there))
        deadline = time.monotonic() + GONE_S
        while names & set(admin.list_topics()):
            if time.monotonic() > deadline:
                raise Unavailable("Kafka did not remove the topics of a restore that was broken off")
            time.sleep(0.05)
    except KafkaError as error:
        raise Unavailable(f"Kafka at {kafka.servers} refused: {type(error).__name__}") from error
    finally:
        admin.close()


def _rows(source: Path, table: str) -> Iterator[dict[str, Any]]:
    with gzip.open(source / "tables" / f"{table}.jsonl.gz") as file:
        for line in file:
            yield msgspec.json.decode(line)


def _erasing(rows: Iterable[dict[str, Any]], erased: set[str]) -> Iterator[dict[str, Any]]:
    """A key that is erased is not even written."""
    at = datetime.now(UTC).isoformat()
    for row in rows:
        gone = row.get("kid") in erased and not row["destroyed_at"]
        yield row | {"wrapped": "\\x", "destroyed_at": at} if gone else row


def _insert(connection: Connection, table: str, rows: Sequence[dict[str, Any]]) -> None:
    """What a later version has added to a table gets its default; raises Invalid for what an earlier one does not know."""
    known = set(
        connection.execute(
            text(
                "SELECT attname FROM pg_attribute WHERE attrelid = cast(:name AS regclass) AND attnum > 0"
                " AND NOT attisdropped"
            ),
            {"name": table},
        ).scalars()
    )
    for start in range(0, len(rows), INSERTED_ROWS):
        batch = rows[start : start + INSERTED_ROWS]
        if unknown := set(batch[0]) - known:
            raise Invalid(f"the backup is of a later version: {table} has no {', '.join(sorted(unknown))} here")
        columns = ", ".join(f'"{name}"' for name in batch[0])
        connection.execute(
            text(
                f"INSERT INTO {table} ({columns}) SELECT {columns} FROM"
                f" jsonb_populate_recordset(NULL::{table}, cast(:rows AS jsonb))"
            ),
            {"rows": msgspec.json.encode(batch).decode()},
        )


def _restore_artifacts(settings: Settings, source: Path, manifest: Manifest) -> int:
    kept = open_artifacts(settings.artifacts, settings.shared_artifacts)
    for digest in manifest.artifacts:
        if kept.take_over(source / "artifacts" / "sha256" / digest.removeprefix(PREFIX)) != digest:
            raise Invalid(f"the backup is damaged: artifact {digest}")
    if (source / MODELS_INDEX).exists():
        settings.models_index.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(settings.models_index, (source / MODELS_INDEX).read_bytes())
    return len(manifest.artifacts)
