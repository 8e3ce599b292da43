"""The settings of every process, read from the environment once, in `main`."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from streams.errors import Invalid


class Settings(Struct, frozen=True, kw_only=True):
    home: Path
    kafka: str
    database_url: str
    door_url: str
    page_url: str
    master_key: Path
    erasures: Path  # the journal of destroyed keys
    opencompass: Path
    lightllm: Path | None = None  # the folder of the environment that holds LightLLM; None: it is in this one
    engine_threads: int = 1
    engine_slots: int = 4
    engine_sleep_after_s: int = 1800  # of an engine that nobody asks; 0: never
    cors_origins: tuple[str, ...] = ()  # whose pages may call the door from a browser; "*": everybody's

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

    settings = Settings(
        home=home,
        kafka=value("NORIA_KAFKA", "kafka"),
        database_url=value("NORIA_DATABASE_URL", "database_url"),
        door_url=value("NORIA_DOOR", "door"),
        page_url=environ.get("NORIA_PAGE") or known.get("page") or "",
        master_key=Path(environ.get("NORIA_MASTER_KEY") or home / "keys" / "master.key"),
        erasures=Path(environ.get("NORIA_ERASURES") or home / "keys" / "erasures.jsonl"),
        opencompass=Path(environ.get("NORIA_OPENCOMPASS") or home / "opencompass"),
        lightllm=Path(environ["NORIA_LIGHTLLM"]) if environ.get("NORIA_LIGHTLLM") else None,
        engine_threads=_count(environ, "NORIA_ENGINE_THREADS", 1),
        engine_slots=_count(environ, "NORIA_ENGINE_SLOTS", 4),
        engine_sleep_after_s=_count(environ, "NORIA_ENGINE_SLEEP_AFTER_S", 1800, least=0),
        cors_origins=_origins(environ, "NORIA_CORS_ORIGINS"),
    )
    if missing:
        raise Invalid(f"not set: {', '.join(missing)} (is `noria up` running? it writes them under {home.name}/run)")
    return settings


def _count(environ: Mapping[str, str], variable: str, default: int, least: int = 1) -> int:
    text = environ.get(variable, str(default))
    if not text.isdigit() or int(text) < least:
        raise Invalid(f"{variable} must be a whole number above {least - 1}; got {text!r}")
    return int(text)


def _origins(environ: Mapping[str, str], variable: str) -> tuple[str, ...]:
    """`https://chat.example.org, http://127.0.0.1:3000`, as a browser says them; or `*`."""
    found = tuple(word.strip() for word in environ.get(variable, "").split(",") if word.strip())
    for origin in found:
        parts = urlsplit(origin)
        if origin != "*" and origin != f"{parts.scheme}://{parts.netloc}".lower():
            raise Invalid(f"{variable} must be origins like https://chat.example.org, or *; got {origin!r}")
    return found
