"""The settings of every process, read from the environment once, in `main`."""

import re
import socket
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, field

from streams.cluster import Cluster, named_cluster
from streams.errors import Invalid

_S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9!_.*'()-]+)*/?")
Pair = tuple[int, int]  # for a key that speaks as one person, and for one that names whom it speaks for


class KeyLimits(Struct, frozen=True, kw_only=True):
    """What one key may take of a door."""

    requests: Pair = (1_200, 24_000)  # a minute
    tokens: Pair = (200_000, 4_000_000)  # a minute, of prompts and answers
    queue_percent: Pair = (25, 75)  # of an engine's queue
    open: Pair = (16, 200)  # answers and followers, at once
    waits: Pair = (8, 32)  # for a position, at once


class Settings(Struct, frozen=True, kw_only=True):
    home: Path
    kafka: Cluster
    database_url: str
    door_url: str
    page_url: str
    embeddings_key: str = ""  # for endpoints that policies name
    teacher_key: str = ""
    private_endpoints: tuple[str, ...] = ()  # `host` or `host:port` that policies may name though they are not public
    master_key: Path
    erasures: Path  # the journal of destroyed keys
    opencompass: Path
    shared_artifacts: str = ""  # s3://bucket/prefix; empty: this machine's are its own
    lightllm: Path | None = None  # the folder of the environment that holds LightLLM; None: it is in this one
    host: str = field(default_factory=socket.gethostname)  # what this machine is called, the same at each start
    engine_threads: int = 1
    engine_slots: int = 4
    engine_sleep_after_s: int = 1800  # of an engine that nobody asks; 0: never
    training_device: str = "cpu"  # or "cuda"
    training_processes: int = 1  # that train one candidate together, where its method can be trained so; one a card
    training_sharded: bool = False  # each of them has its share of the model, and not all of it
    recall_url: str = ""  # of the memory of the domains; empty: there is none
    metrics_open: bool = False  # /metrics without a key
    cors_origins: tuple[str, ...] = ()  # whose pages may call the door from a browser; "*": everybody's

    key_limits: KeyLimits = KeyLimits()
    body_bytes: int = 256 * 1024
    # What one request may add to a conversation: as much as a window of 32,000 tokens holds. The one store takes 28 ms for it, and
    # 5 ms for a short one.
    prompt_bytes: int = 128 * 1024

    @property
    def artifacts(self) -> Path:
        return self.home / "artifacts"

    @property
    def local_key(self) -> Path:
        return self.home / "keys" / "local.key"

    @property
    def models_index(self) -> Path:
        """JSON {name: digest} of the base models that were prepared here."""
        return self.home / "models" / "index.json"


def home_of(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("NORIA_HOME", ".noria")).absolute()


def shared_artifacts(environ: Mapping[str, str]) -> str:
    """Where the artifacts are shared with other machines. Raises Invalid where NORIA_ARTIFACTS is no address of S3."""
    said = environ.get("NORIA_ARTIFACTS") or ""
    if said and not _S3.fullmatch(said):
        raise Invalid(f"NORIA_ARTIFACTS must be s3://bucket or s3://bucket/prefix; got {said!r}")
    if said and find_spec("s3fs") is None:
        raise Invalid("NORIA_ARTIFACTS names S3, which wants s3fs, and it is not installed (the extra `s3`)")
    return said


def from_env(environ: Mapping[str, str]) -> Settings:
    """Read NORIA_* from `environ`; what is missing comes from the addresses that `noria up` wrote under the home.

    Raises Invalid, naming every missing variable at once.
    """
    home = home_of(environ)
    written = home / "run" / "noria.json"
    known: dict[str, str] = msgspec.json.decode(written.read_bytes(), type=dict[str, str]) if written.exists() else {}

    missing: list[str] = []

    def value(variable: str, name: str) -> str:
        found = environ.get(variable) or known.get(name)
        if not found:
            missing.append(variable)
            return ""
        return found

    cluster = _cluster(environ, known)
    if cluster is None:
        missing.append("NORIA_KAFKA")
    settings = Settings(
        home=home,
        kafka=cluster or Cluster(servers=""),
        database_url=value("NORIA_DATABASE_URL", "database_url"),
        door_url=value("NORIA_DOOR", "door"),
        page_url=environ.get("NORIA_PAGE") or known.get("page") or "",
        recall_url=(environ.get("NORIA_RECALL") or known.get("recall") or "").rstrip("/"),
        embeddings_key=environ.get("NORIA_EMBEDDINGS_KEY") or "",
        teacher_key=environ.get("NORIA_TEACHER_KEY") or "",
        private_endpoints=_words(environ, "NORIA_PRIVATE_ENDPOINTS"),
        master_key=Path(environ.get("NORIA_MASTER_KEY") or home / "keys" / "master.key"),
        erasures=Path(environ.get("NORIA_ERASURES") or home / "keys" / "erasures.jsonl"),
        opencompass=Path(environ.get("NORIA_OPENCOMPASS") or home / "opencompass"),
        shared_artifacts=shared_artifacts(environ),
        lightllm=Path(environ["NORIA_LIGHTLLM"]) if environ.get("NORIA_LIGHTLLM") else None,
        host=environ.get("NORIA_HOST") or socket.gethostname(),
        engine_threads=_count(environ, "NORIA_ENGINE_THREADS", 1),
        engine_slots=_count(environ, "NORIA_ENGINE_SLOTS", 4),
        engine_sleep_after_s=_count(environ, "NORIA_ENGINE_SLEEP_AFTER_S", 1800, least=0),
        training_device=_one_of(environ, "NORIA_TRAINING_DEVICE", ("cpu", "cuda")),
        training_processes=_count(environ, "NORIA_TRAINING_PROCESSES", 1),
        training_sharded=_count(environ, "NORIA_TRAINING_SHARDED", 0, least=0) > 0,
        metrics_open=_count(environ, "NORIA_METRICS_OPEN", 0, least=0) > 0,
        cors_origins=_origins(environ, "NORIA_CORS_ORIGINS"),
        key_limits=_key_limits(environ),
        body_bytes=_count(environ, "NORIA_BODY_BYTES", 256 * 1024),
        prompt_bytes=_count(environ, "NORIA_PROMPT_BYTES", 128 * 1024),
    )
    if settings.training_sharded and settings.training_processes == 1:
        raise Invalid("NORIA_TRAINING_SHARDED wants several processes to share the model: set NORIA_TRAINING_PROCESSES")
    if missing:
        raise Invalid(f"not set: {', '.join(missing)} (is `noria up` running? it writes them under {home.name}/run)")
    return settings


def _cluster(environ: Mapping[str, str], known: Mapping[str, str]) -> Cluster | None:
    """Named as a whole, here or there: the login of one cluster is never shown to another."""
    written = {f"NORIA_{name.upper()}": said for name, said in known.items() if name.startswith("kafka")}
    return named_cluster(environ) or named_cluster(written)


def _count(environ: Mapping[str, str], variable: str, default: int, least: int = 1) -> int:
    text = environ.get(variable, str(default))
    if not text.isdigit() or int(text) < least:
        raise Invalid(f"{variable} must be a whole number above {least - 1}; got {text!r}")
    return int(text)


def _one_of(environ: Mapping[str, str], variable: str, known: tuple[str, ...]) -> str:
    """The first, where nothing is said."""
    said = environ.get(variable) or known[0]
    if said not in known:
        raise Invalid(f"{variable} must be one of {', '.join(known)}; got {said!r}")
    return said


def _key_limits(environ: Mapping[str, str]) -> KeyLimits:
    """`NORIA_LIMIT_REQUESTS=600,6000`: for a key that speaks as one person, and for one that names whom. One number is for both."""
    found: dict[str, Pair] = {}
    for name in KeyLimits.__struct_fields__:
        variable = f"NORIA_LIMIT_{name.upper()}"
        if variable in environ:
            words = environ[variable].split(",")
            if not 1 <= len(words) <= 2 or not all(word.strip().isdigit() and int(word) > 0 for word in words):
                raise Invalid(
                    f"{variable} must be one whole number above 0, or two with a comma; got {environ[variable]!r}"
                )
            found[name] = (int(words[0]), int(words[-1]))
    return KeyLimits(**found)


def _words(environ: Mapping[str, str], variable: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in environ.get(variable, "").split(",") if word.strip())


def _origins(environ: Mapping[str, str], variable: str) -> tuple[str, ...]:
    """`https://chat.example.org, http://127.0.0.1:3000`, as a browser says them; or `*`."""
    found = _words(environ, variable)
    for origin in found:
        parts = urlsplit(origin)
        if origin != "*" and origin != f"{parts.scheme}://{parts.netloc}".lower():
            raise Invalid(f"{variable} must be origins like https://chat.example.org, or *; got {origin!r}")
    return found
