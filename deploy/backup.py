"""A backup: log, keyring, access and artifacts in one consistent cut, as a folder of plain files.

    log/TOPIC-PARTITION.jsonl.gz      every record up to the cut, with its offset (`streams.log_copy`)
    tables/SCHEMA.TABLE.jsonl.gz      keyring and access, a row a line
    artifacts/sha256/…                what rounds made and what is still kept
    manifest.json, manifest.sha256    the digest of every file, and that of the manifest; written last

The ends of the log are taken first and the keyring after them: a key is made before anything is sealed with it, so each key that
the log names up to its ends is in the keyring's snapshot, unless it was destroyed. The master key is not in it.
"""

import gzip
import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Engine, text

from streams.artifacts import IN_USE_LOCK, PREFIX, Artifacts, open_artifacts
from streams.errors import Invalid
from streams.log import KafkaLog
from streams.log_copy import copy_out
from streams.schema import machinery
from streams.sealing import wrapped_by
from streams.settings import Settings
from streams.store import open_database, postgres_trouble
from streams.topics import TOPICS

FORMAT = 1
MANIFEST = "manifest.json"
MANIFEST_DIGEST = "manifest.sha256"
TABLES = tuple(table for table in machinery.sorted_tables if table.schema in ("keyring", "access"))
MODELS_INDEX = "models-index.json"


class Kept(Struct, frozen=True):
    sha256: str
    bytes: int


class Manifest(Struct, frozen=True):
    """`master_keys`: the ids of the keys that a restore needs; `ends`: by `topic-partition`, where the cut is."""

    format: int
    made_at: datetime
    revision: str
    partitions: dict[str, int]
    ends: dict[str, int]
    master_keys: tuple[str, ...]
    records: int
    artifacts: tuple[str, ...]
    files: dict[str, Kept]

    @property
    def bytes(self) -> int:
        return sum(kept.bytes for kept in self.files.values())


def backup(settings: Settings, target: Path, say: Callable[[str], None] = lambda line: None) -> Manifest:
    """Write a backup to the folder `target`, which must be empty or not there, while everything runs.

    Raises Unavailable; Invalid for a folder that holds something, or an artifact that is not what its digest says."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Invalid(f"{target} is not an empty folder")
    for folder in (target, target / "log", target / "tables"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    database, log = open_database(settings.database_url), KafkaLog(settings.kafka, "noria-backup")
    try:
        with postgres_trouble(), database.connect() as held:
            held.execute(text(f"SELECT pg_advisory_lock_shared({IN_USE_LOCK})"))  # nothing is removed meanwhile
            held.commit()
            return _backup(settings, database, log, target, say)
    finally:
        log.close()
        database.dispose()


def _backup(settings: Settings, database: Engine, log: KafkaLog, target: Path, say: Callable[[str], None]) -> Manifest:
    ends = {topic.name: log.ends(topic.name) for topic in TOPICS}
    made_at = datetime.now(UTC)
    with database.connect().execution_options(isolation_level="REPEATABLE READ") as snapshot:
        revision = str(snapshot.execute(text("SELECT version_num FROM public.alembic_version")).scalar_one())
        master_keys = sorted(
            {
                wrapped_by(bytes(wrapped))
                for wrapped in snapshot.execute(
                    text("SELECT wrapped FROM keyring.person_keys WHERE destroyed_at IS NULL")
                ).scalars()
            }
        )
        for table in TABLES:
            rows = _copy_table(snapshot, table.fullname, target / "tables" / f"{table.fullname}.jsonl.gz")
            say(f"{table.fullname}: {rows} rows")
    records = 0
    for topic, its_ends in ends.items():
        for partition, end in sorted(its_ends.items()):
            place = f"{topic}-{partition}"
            copied = copy_out(log, topic, partition, end, target / "log" / f"{place}.jsonl.gz")
            records += copied
            say(f"{place}: {copied} records, up to offset {end}")
    artifacts = _copy_artifacts(settings, target, say)
    if settings.models_index.exists():
        _write(target / MODELS_INDEX, settings.models_index.read_bytes())
    manifest = Manifest(
        format=FORMAT,
        made_at=made_at,
        revision=revision,
        partitions={topic: len(its_ends) for topic, its_ends in ends.items()},
        ends={f"{topic}-{partition}": end for topic, its_ends in ends.items() for partition, end in its_ends.items()},
        master_keys=tuple(master_keys),
        records=records,
        artifacts=artifacts,
        files={
            file.relative_to(target).as_posix(): Kept(_sha256(file), file.stat().st_size)
            for file in sorted(target.rglob("*"))
            if file.is_file()
        },
    )
    content = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    _write(target / MANIFEST, content)
    _write(target / MANIFEST_DIGEST, _line(content))
    return manifest


def read_manifest(source: Path) -> Manifest:
    """The manifest of a whole backup, every file of which is what it says. Raises Invalid naming the file that is not."""
    try:
        content = (source / MANIFEST).read_bytes()
        expected = (source / MANIFEST_DIGEST).read_bytes()
    except OSError as error:
        name = Path(error.filename).name
        raise Invalid(f"{source} is no whole backup: {name} is not there") from None
    if _line(content) != expected:
        raise Invalid(f"the backup is damaged: {MANIFEST} is not what {MANIFEST_DIGEST} says")
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except msgspec.MsgspecError as error:
        raise Invalid(f"{MANIFEST} cannot be read: {error}") from None
    if manifest.format != FORMAT:
        raise Invalid(f"the backup is of format {manifest.format}; this reads {FORMAT}")
    for name, kept in manifest.files.items():
        file = source / name
        if not file.is_file() or file.stat().st_size != kept.bytes or _sha256(file) != kept.sha256:
            raise Invalid(f"the backup is damaged: {name} is not what the manifest says")
    return manifest


def _copy_table(connection: Connection, name: str, target: Path) -> int:
    rows = connection.execution_options(stream_results=True).execute(text(f"SELECT row_to_json(t)::text FROM {name} t"))
    count = 0
    with target.open("xb") as raw:
        with gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as file:
            for row in rows.scalars():
                file.write(row.encode() + b"\n")
                count += 1
        os.fsync(raw.fileno())
    return count


def _copy_artifacts(settings: Settings, target: Path, say: Callable[[str], None]) -> tuple[str, ...]:
    """All that are kept; on the disk of the store they are linked, not copied."""
    kept = open_artifacts(settings.artifacts, settings.shared_artifacts)
    store = Artifacts(target / "artifacts")
    digests = kept.all()
    for number, digest in enumerate(digests, 1):
        if store.take_over(kept.path(digest)) != digest:
            raise Invalid(f"the artifact {digest} is damaged: its bytes are not what its name says")
        say(f"artifact {number} of {len(digests)}: {digest.removeprefix(PREFIX)[:12]}")
    (target / "artifacts" / "arriving").rmdir()
    return tuple(digests)


def _line(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode() + b"\n"


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _write(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
