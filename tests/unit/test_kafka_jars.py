"""Kafka's jars: pinned by their digest, fetched once, and never taken from anybody who has other bytes under their name."""

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy import kafka
from deploy.kafka import Jar, fetched, pinned
from streams.errors import Invalid, Unavailable


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Repository:
    """A Maven repository on loopback: what lies in its folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def holds(self, jar: Jar, content: bytes) -> None:
        place = self.folder / jar.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    made = Repository(tmp_path / "repository")
    yield made
    made.stop()


def jar(content: bytes, name: str = "mill") -> Jar:
    return Jar("org.example.wheels", name, "1.2", hashlib.sha256(content).hexdigest())


def test_the_list_names_every_jar_once_with_its_digest() -> None:
    jars = pinned()
    assert len({(one.group, one.name) for one in jars}) == len(jars) > 40
    named = {f"{one.group}:{one.name}:{one.version}" for one in jars}
    assert named >= set(kafka.COORDINATES.split("+")), "pin the list anew: make requirements"


def test_a_line_that_is_no_jar_is_named(tmp_path: Path) -> None:
    listed = tmp_path / "jars.txt"
    listed.write_text(f"a.b:c:1 sha256:{'0' * 64}\na.b:c:1\n")
    with pytest.raises(Invalid, match=r"jars\.txt, line 2"):
        pinned(listed)
    with pytest.raises(Invalid, match="there is no none"):
        pinned(tmp_path / "none")


def test_jars_are_fetched_once_and_a_broken_one_again(tmp_path: Path, repository: Repository) -> None:
    contents = {f"wheel-{number}": b"teeth %d" % number for number in range(20)}
    jars = [jar(content, name) for name, content in contents.items()]
    for one in jars:
        repository.holds(one, contents[one.name])
    places = fetched(jars, tmp_path / "m2", [repository.url])
    assert [place.read_bytes() for place in places] == list(contents.values())
    places[3].write_bytes(b"cut sh")
    (repository.folder / jars[7].path).unlink()  # it is not asked for again
    assert fetched(jars, tmp_path / "m2", [repository.url]) == places
    assert places[3].read_bytes() == b"teeth 3"


def test_other_bytes_under_the_same_name_are_refused_and_leave_nothing(tmp_path: Path, repository: Repository) -> None:
    wanted = jar(b"the real one")
    repository.holds(wanted, b"another one")
    with pytest.raises(Unavailable, match=r"org\.example\.wheels:mill:1\.2: other bytes than those that are pinned"):
        fetched([wanted], tmp_path / "m2", [repository.url])
    assert not [path for path in (tmp_path / "m2").rglob("*") if path.is_file()]


def test_what_one_repository_does_not_have_comes_from_the_next(tmp_path: Path, repository: Repository) -> None:
    wanted = jar(b"the real one")
    with pytest.raises(Unavailable, match=r"mill:1\.2: status 404"):
        fetched([wanted], tmp_path / "m2", [repository.url])
    repository.holds(wanted, b"the real one")
    (place,) = fetched([wanted], tmp_path / "m2", ["http://127.0.0.1:9/none", repository.url])
    assert place.read_bytes() == b"the real one"
