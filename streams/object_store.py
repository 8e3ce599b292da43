"""An object store (S3) that several machines keep the same artifacts in, through fsspec.

    files/<hex>             a file
    folders/<hex>/<path>    a file of a folder
    manifests/<hex>         of a folder: put when all its files are there, removed before the first of them

An object is there whole or not at all, and a folder is there when its manifest is. The bytes of a file and of a manifest have the
digest that they are named by, so that what comes back is looked at before it is believed.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import fsspec
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from streams.disk import is_full
from streams.errors import Invalid, Unavailable

# What is wrong with the address or the login is told at once; what does not answer is asked some times more.
_LIMITS = {"connect_timeout": 5, "read_timeout": 60, "retries": {"total_max_attempts": 3, "mode": "standard"}}


@cache
def object_store(url: str) -> "ObjectStore":
    """The one of this process: a client takes half a second to make."""
    return ObjectStore(url)


class ObjectStore:
    """At `url` (s3://bucket/prefix), with the credentials, region and endpoint that S3's own clients read from the environment or
    a profile. Digests are given without their prefix. All raise Unavailable, naming the address, where it does not answer,
    refuses the login or has no such bucket: somebody mends that, and it is tried again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._files, root = fsspec.core.url_to_fs(
            url, use_listings_cache=False, skip_instance_cache=True, config_kwargs=_LIMITS
        )
        self._root = root.rstrip("/")
        self._found = False  # whether its bucket was
        self._lock = threading.Lock()

    def has(self, name: str) -> bool:
        return self._is_file(name) or self._is_folder(name)

    def put_file(self, name: str, path: Path) -> None:
        if not self._is_file(name):
            with self._asked():
                self._files.put_file(str(path), self._at("files", name))

    def put_folder(self, name: str, path: Path, manifest: str) -> None:
        if self._is_folder(name):
            return
        with self._asked():
            for file, _, _ in lines_of(manifest):
                self._files.put_file(str(path / file), self._at("folders", name, file))
            self._files.pipe_file(self._at("manifests", name), manifest.encode())

    def read(self, name: str, file: str = "") -> bytes:
        """All of a file; or of that `file` of a folder. Raises FileNotFoundError, Invalid."""
        if not file:
            return self._read(name, name, "files", name)
        for found, digest, _ in lines_of(self._manifest(name)):
            if found == file:
                return self._read(name, digest, "folders", name, file)
        raise FileNotFoundError(file)

    def fetch(self, name: str, target: Path) -> None:
        """Bring the file or folder to `target`, which is not there yet. Raises FileNotFoundError, Invalid."""
        if self._is_file(name):
            self._fetch(name, name, target, "files", name)
            return
        for file, digest, _ in lines_of(self._manifest(name)):
            place = target / file
            if not place.resolve().is_relative_to(target.resolve()):
                raise Invalid(f"the artifact {name} in {self._url} holds a file outside of it")
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fetch(name, digest, place, "folders", name, file)

    def all(self) -> set[str]:
        found: set[str] = set()
        for kind in ("files", "manifests"):
            with self._asked():
                try:
                    found.update(Path(place).name for place in self._files.ls(self._at(kind), detail=False))
                except FileNotFoundError:
                    continue  # none yet
        return found

    def remove(self, name: str) -> bool:
        """Whether it was there."""
        there = self.has(name)
        with self._asked():
            for place in (self._at("files", name), self._at("manifests", name)):
                self._files.rm_file(place)
            parts = self._files.find(self._at("folders", name))
            if parts:
                self._files.rm(parts)
        return there

    def _at(self, *parts: str) -> str:
        return "/".join((self._root, *parts))

    def _is_file(self, name: str) -> bool:
        return self._is_there(self._at("files", name))

    def _is_folder(self, name: str) -> bool:
        return self._is_there(self._at("manifests", name))

    def _is_there(self, place: str) -> bool:
        with self._asked():
            try:
                return bool(self._files.info(place)["type"] == "file")
            except FileNotFoundError:
                return False

    def _manifest(self, name: str) -> str:
        return self._read(name, name, "manifests", name).decode()

    def _read(self, name: str, digest: str, *parts: str) -> bytes:
        with self._asked():
            content: bytes = self._files.cat_file(self._at(*parts))
        self._believe(name, digest, hashlib.sha256(content).hexdigest())
        return content

    def _fetch(self, name: str, digest: str, place: Path, *parts: str) -> None:
        with self._asked():
            self._files.get_file(self._at(*parts), str(place))
        place.chmod(0o600)
        with place.open("rb") as file:
            self._believe(name, digest, hashlib.file_digest(file, "sha256").hexdigest())

    def _believe(self, name: str, digest: str, found: str) -> None:
        if found != digest:
            raise Invalid(f"the artifact {name} in {self._url} is damaged: its bytes are not what its name says")

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """A missing bucket looks like a missing object, which would be believed: so it is looked for first."""
        with self._lock, self._named():
            if not self._found:
                try:
                    self._files.info(self._root.partition("/")[0])
                except FileNotFoundError:
                    raise Unavailable(f"there is no bucket for {self._url} (NORIA_ARTIFACTS)") from None
                self._found = True
        with self._named():
            yield

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (PermissionError, NoCredentialsError) as error:
            message = f"{self._url} (NORIA_ARTIFACTS) refuses the login that the environment or profile names: {error}"
            raise Unavailable(message) from error
        except (OSError, BotoCoreError, ClientError) as error:
            if is_full(error):
                raise  # the disk here is
            raise Unavailable(f"{self._url} (NORIA_ARTIFACTS) does not answer: {error}") from error


def lines_of(manifest: str) -> Iterator[tuple[str, str, int]]:
    """A folder's files: path, digest, bytes."""
    for line in manifest.split("\n")[:-1]:  # a path may hold what else parts lines
        path, digest, size = line.rsplit(" ", 2)
        yield path, digest, int(size)
