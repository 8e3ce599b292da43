"""Files and folders kept by what is in them: "sha256:<hex>" names the same bytes for ever, on whatever machine.

A file's digest is that of its bytes; a folder's is that of its manifest, one line "path sha256 size" a file, sorted by path.
Things arrive under a temporary name and are renamed when they are whole and on disk, so what has a digest is complete.

Where several machines share them in an object store (`streams.object_store`), the folder of each is what it has made or fetched:
what is kept is kept in both, and what is not here is fetched, by its digest, when its path is asked for.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from streams.errors import Invalid

if TYPE_CHECKING:
    from streams.object_store import ObjectStore

PREFIX = "sha256:"
# Of PostgreSQL: held, shared, by whoever reads many artifacts; nothing is removed meanwhile.
IN_USE_LOCK = "hashtext('noria.artifacts')"
_BLOCK = 1 << 20


class Artifacts:
    """A store under `root`, for this user only (folders 0700, files 0600); `shared` with other machines, where one is given: then
    all of these raise Unavailable too."""

    def __init__(self, root: Path, shared: "ObjectStore | None" = None) -> None:
        self._root = root
        self._shared = shared
        self._kept = root / "sha256"
        self._arriving = root / "arriving"
        for folder in (self._root, self._kept, self._arriving):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put_bytes(self, content: bytes) -> str:
        """Keep `content`; return its digest."""
        return self._keep_file(content)

    def put_file(self, path: Path) -> str:
        """Keep a copy of the file at `path`; return its digest."""
        return self._keep_file(path)

    def put_dir(self, path: Path) -> str:
        """Keep the folder at `path`; return its digest. Files are taken over (hard-linked) where the disk is the same, so
        they must not be written to afterwards. Raises Invalid for an empty one, and for anything but plain files in it."""
        digest = digest_of_dir(path)
        place = self._place(digest)
        if not place.exists():
            arriving = Path(tempfile.mkdtemp(dir=self._arriving))
            try:
                for file in path.rglob("*"):
                    target = arriving / file.relative_to(path)
                    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                    if file.is_file():
                        link_or_copy(file, target)
                self._settle(arriving, place)
            finally:
                shutil.rmtree(arriving, ignore_errors=True)  # what did not arrive takes no room
        self._share(place)
        return digest

    def take_over(self, path: Path) -> str:
        """Keep the file or folder at `path`, which is another store's; return its digest."""
        return self.put_dir(path) if path.is_dir() else self.put_file(path)

    def share(self) -> int:
        """Share what was kept here before it was shared; how many these were."""
        there = self._shared.all() if self._shared is not None else set()
        own = [place for place in self._kept.iterdir() if self._shared is not None and place.name not in there]
        for place in own:
            self._share(place)
        return len(own)

    def all(self) -> list[str]:
        """The digests of all that is kept."""
        here = {place.name for place in self._kept.iterdir()}
        return sorted(PREFIX + name for name in here | (self._shared.all() if self._shared is not None else set()))

    def has(self, digest: str) -> bool:
        place = self._place(digest)
        return place.exists() or (self._shared is not None and self._shared.has(place.name))

    def read(self, digest: str, file: str = "") -> bytes:
        """All of the artifact, or of that `file` of a folder; nothing is fetched for it. Raises Invalid if it is not there."""
        place = self._place(digest)
        try:
            if place.exists() or self._shared is None:
                return (place / file).read_bytes()
            return self._shared.read(place.name, file)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise Invalid(f"there is no artifact {digest}{file and f' with {file} in it'}") from None

    def path(self, digest: str) -> Path:
        """Where the artifact lies; it must not be written to. Raises Invalid if it is not here, nor can be fetched."""
        place = self._place(digest)
        if not place.exists():
            if self._shared is None:
                raise Invalid(f"there is no artifact {digest}")
            self._fetch(self._shared, place)
        return place

    def verify(self, digest: str) -> bool:
        """Whether the bytes still are what the digest says."""
        place = self.path(digest)
        if place.is_file():
            return PREFIX + _digest(place) == digest
        return PREFIX + hashlib.sha256(manifest_of(place).encode()).hexdigest() == digest

    def remove(self, digest: str) -> bool:
        """Remove the artifact; False if it was not there."""
        place = self._place(digest)
        shared = self._shared is not None and self._shared.remove(place.name)
        return self._remove(place) or shared

    def _remove(self, place: Path) -> bool:
        if place.is_dir():
            going = Path(tempfile.mkdtemp(dir=self._arriving)) / "going"
            os.rename(place, going)  # whoever looks finds it whole or not at all
            shutil.rmtree(going.parent)
            return True
        with contextlib.suppress(FileNotFoundError):
            place.unlink()
            return True
        return False

    def clear_arriving(self, older_than_s: float) -> int:
        """Remove what was on its way here when its process was killed; how many there were."""
        found = [one for one in self._arriving.iterdir() if time.time() - one.lstat().st_mtime > older_than_s]
        for one in found:
            shutil.rmtree(one, ignore_errors=True) if one.is_dir() else one.unlink(missing_ok=True)
        return len(found)

    def size_bytes(self, digest: str) -> int:
        """What the artifact takes. Raises Invalid if it is not here."""
        place = self.path(digest)
        return sum(file.stat().st_size for file in [place, *place.rglob("*")] if file.is_file())

    def _place(self, digest: str) -> Path:
        name = digest.removeprefix(PREFIX)
        if not digest.startswith(PREFIX) or len(name) != 64 or not set(name) <= set("0123456789abcdef"):
            raise Invalid(f"{digest!r} is not the digest of an artifact")
        return self._kept / name

    def _keep_file(self, source: bytes | Path) -> str:
        handle, name = tempfile.mkstemp(dir=self._arriving)
        arriving = Path(name)
        try:
            state = hashlib.sha256()
            with os.fdopen(handle, "wb") as target:
                if isinstance(source, bytes):
                    state.update(source)
                    target.write(source)
                else:
                    with source.open("rb") as file:
                        while block := file.read(_BLOCK):
                            state.update(block)
                            target.write(block)
            place = self._kept / state.hexdigest()
            self._settle(arriving, place)
        finally:
            arriving.unlink(missing_ok=True)
        self._share(place)
        return PREFIX + place.name

    def _share(self, place: Path) -> None:
        if self._shared is not None and place.is_dir():
            self._shared.put_folder(place.name, place, manifest_of(place))
        elif self._shared is not None:
            self._shared.put_file(place.name, place)

    def _fetch(self, shared: "ObjectStore", place: Path) -> None:
        scratch = Path(tempfile.mkdtemp(dir=self._arriving))
        try:
            arriving = scratch / "artifact"
            shared.fetch(place.name, arriving)
            self._settle(arriving, place)
        except FileNotFoundError:
            raise Invalid(f"there is no artifact {PREFIX}{place.name}") from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _settle(self, arriving: Path, place: Path) -> None:
        """Bring `arriving` to disk and to its name. Another process may have been first: then its copy stays."""
        for file in [arriving, *arriving.rglob("*")]:
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        if arriving.is_dir() and place.exists():
            shutil.rmtree(arriving)
            return
        try:
            os.rename(arriving, place)
        except OSError:
            if not place.exists():
                raise
            shutil.rmtree(arriving)
        folder = os.open(self._kept, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def open_artifacts(root: Path, shared: str) -> Artifacts:
    """Those under `root`; `shared` at that address (`Settings.shared_artifacts`), if there is one."""
    if not shared:
        return Artifacts(root)
    from streams.object_store import object_store  # takes a second, and packages that only this needs

    return Artifacts(root, object_store(shared))


def digest_of_dir(path: Path) -> str:
    """The digest that the folder at `path` has, or would have, among the artifacts. Raises Invalid as `put_dir` does."""
    for file in path.rglob("*"):
        if file.is_symlink() or not (file.is_file() or file.is_dir()):
            raise Invalid(f"{path.name}/{file.relative_to(path)} is no plain file")
    if not (manifest := manifest_of(path)):
        raise Invalid(f"the folder {path.name} holds no file")
    return PREFIX + hashlib.sha256(manifest.encode()).hexdigest()


def manifest_of(path: Path) -> str:
    """Of the files in the folder at `path`: "path sha256 size", a line each."""
    lines = (
        f"{file.relative_to(path).as_posix()} {_digest(file)} {file.stat().st_size}\n"
        for file in path.rglob("*")
        if file.is_file()
    )
    return "".join(sorted(lines))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    target.chmod(0o600)
