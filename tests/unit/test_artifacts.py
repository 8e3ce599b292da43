"""The artifact store: the same bytes under the same name, whole or not at all, and only for this user; in a folder, and in S3."""

import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.artifacts import Artifacts, open_artifacts
from streams.errors import Invalid, Unavailable
from streams.object_store import ObjectStore
from streams.settings import shared_artifacts
from streams.snapshots import FORMAT, Snapshot, load, save
from tests import s3_server
from tests.s3_server import S3


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server.running() as found:
        yield found


@pytest.fixture(params=["in a folder", "in S3"])
def kept(request: pytest.FixtureRequest, tmp_path: Path, s3: S3) -> Artifacts:
    return open_artifacts(tmp_path / "artifacts", s3.place() if request.param == "in S3" else "")


def folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def arriving(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "artifacts" / "arriving").iterdir())


MODEL = {"config.json": b"{}", "weights/one.bin": b"\x00" * 5000, "weights/two.bin": "naïve 权重".encode()}


def test_a_files_name_is_the_digest_of_its_bytes(kept: Artifacts, tmp_path: Path) -> None:
    content = b"potting soil" * 200_000
    source = tmp_path / "source"
    source.write_bytes(content)
    expected = "sha256:" + hashlib.sha256(content).hexdigest()
    assert kept.put_bytes(content) == kept.put_file(source) == expected
    assert kept.has(expected) and kept.path(expected).read_bytes() == content and kept.verify(expected)
    assert arriving(tmp_path) == []


def test_a_copy_is_kept_of_a_file_so_that_the_original_may_change(kept: Artifacts, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"before")
    digest = kept.put_file(source)
    source.write_bytes(b"after!")
    assert kept.path(digest).read_bytes() == b"before" and kept.verify(digest)


def test_a_folders_name_is_the_digest_of_its_manifest(kept: Artifacts, tmp_path: Path) -> None:
    digest = kept.put_dir(folder(tmp_path / "model", MODEL))
    manifest = "".join(f"{n} {hashlib.sha256(c).hexdigest()} {len(c)}\n" for n, c in sorted(MODEL.items()))
    assert digest == "sha256:" + hashlib.sha256(manifest.encode()).hexdigest()
    place = kept.path(digest)
    assert {f.relative_to(place).as_posix(): f.read_bytes() for f in place.rglob("*") if f.is_file()} == MODEL
    assert kept.verify(digest) and arriving(tmp_path) == []


def test_the_same_folder_has_the_same_name_wherever_it_lay_and_whenever_it_was_written(tmp_path: Path) -> None:
    one, other = Artifacts(tmp_path / "artifacts"), Artifacts(tmp_path / "others")
    first = folder(tmp_path / "a", MODEL)
    second = folder(tmp_path / "b" / "deeper", dict(reversed(MODEL.items())))
    os.utime(second / "config.json", (1, 1))
    assert one.put_dir(first) == other.put_dir(second) == one.put_dir(second)


@pytest.mark.parametrize(
    "changed",
    [
        MODEL | {"config.json": b"{ }"},
        MODEL | {"extra": b""},
        {"config.json": MODEL["config.json"]},
        {"settings.json" if n == "config.json" else n: c for n, c in MODEL.items()},
        MODEL | {"weights/one.bin": MODEL["weights/two.bin"], "weights/two.bin": MODEL["weights/one.bin"]},
    ],
    ids=["bytes", "one more", "fewer", "renamed", "exchanged"],
)
def test_a_folder_that_differs_in_anything_has_another_name(tmp_path: Path, changed: dict[str, bytes]) -> None:
    kept = Artifacts(tmp_path / "artifacts")
    assert kept.put_dir(folder(tmp_path / "a", MODEL)) != kept.put_dir(folder(tmp_path / "b", changed))


def test_what_is_put_twice_is_kept_once(kept: Artifacts, tmp_path: Path) -> None:
    source = folder(tmp_path / "model", MODEL)
    for _ in range(2):
        kept.put_dir(source)
        kept.put_bytes(b"words")
    assert len(list((tmp_path / "artifacts" / "sha256").iterdir())) == 2 and arriving(tmp_path) == []


def test_a_folder_with_anything_but_plain_files_is_refused_and_nothing_of_it_stays(
    kept: Artifacts, tmp_path: Path
) -> None:
    source = folder(tmp_path / "model", MODEL)
    (source / "link").symlink_to("/etc/hostname")
    with pytest.raises(Invalid, match="model/link is no plain file"):
        kept.put_dir(source)
    (source / "link").unlink()
    os.mkfifo(source / "pipe")
    with pytest.raises(Invalid, match="model/pipe is no plain file"):
        kept.put_dir(source)
    assert list((tmp_path / "artifacts" / "sha256").iterdir()) == [] and arriving(tmp_path) == []


def test_everything_kept_is_for_this_user_only(kept: Artifacts, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Artifacts(tmp_path / "artifacts").put_dir(folder(tmp_path / "model", MODEL))
        kept.put_bytes(b"words")
    finally:
        os.umask(before)
    root = tmp_path / "artifacts"
    for place in [root, *root.rglob("*")]:
        mode = stat.S_IMODE(place.stat().st_mode)
        assert mode == (0o700 if place.is_dir() else 0o600), f"{place.relative_to(root)} has {mode:o}"


def test_bytes_that_rotted_no_longer_verify(kept: Artifacts, tmp_path: Path) -> None:
    file, model = kept.put_bytes(b"words"), kept.put_dir(folder(tmp_path / "model", MODEL))
    kept.path(file).write_bytes(b"worms")
    (kept.path(model) / "config.json").write_bytes(b"[]")
    assert not kept.verify(file) and not kept.verify(model)


def test_a_file_that_is_missing_from_a_kept_folder_is_noticed(kept: Artifacts, tmp_path: Path) -> None:
    digest = kept.put_dir(folder(tmp_path / "model", MODEL))
    (kept.path(digest) / "config.json").unlink()
    assert not kept.verify(digest)


def test_what_is_removed_is_gone_and_can_be_put_again(kept: Artifacts, tmp_path: Path) -> None:
    source = folder(tmp_path / "model", MODEL)
    for digest in (kept.put_bytes(b"words"), kept.put_dir(source)):
        assert kept.remove(digest) is True and not kept.has(digest)
        assert kept.remove(digest) is False
        with pytest.raises(Invalid, match="there is no artifact"):
            kept.path(digest)
    assert arriving(tmp_path) == [] and (source / "config.json").exists(), "the folder that it came from stays"
    assert kept.verify(kept.put_dir(source))


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "sha256:",
        "sha256:" + "a" * 63,
        "sha256:" + "A" * 64,
        "a" * 64,
        "md5:" + "a" * 64,
        "sha256:../../../etc/passwd",
    ],
)
def test_what_is_no_digest_reaches_no_file(tmp_path: Path, digest: str) -> None:
    kept = Artifacts(tmp_path / "artifacts")
    for act in (kept.has, kept.path, kept.verify, kept.remove):
        with pytest.raises(Invalid, match="is not the digest of an artifact"):
            act(digest)


def test_what_was_not_finished_is_not_there_for_anybody(kept: Artifacts, tmp_path: Path) -> None:
    missing = tmp_path / "no such file"
    with pytest.raises(FileNotFoundError):
        kept.put_file(missing)
    assert arriving(tmp_path) == [] and list((tmp_path / "artifacts" / "sha256").iterdir()) == []


def test_many_who_put_the_same_at_once_all_get_it(tmp_path: Path) -> None:
    sources = [folder(tmp_path / f"model {number}", MODEL) for number in range(8)]
    start = threading.Barrier(len(sources))
    found: list[str] = []

    def put(source: Path) -> None:
        mine = Artifacts(tmp_path / "artifacts")
        start.wait()
        found.extend([mine.put_dir(source), mine.put_bytes(b"words")])

    threads = [threading.Thread(target=put, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16 and len(set(found)) == 2 and arriving(tmp_path) == []
    assert all(Artifacts(tmp_path / "artifacts").verify(digest) for digest in set(found))


def test_an_empty_folder_is_refused_for_its_digest_would_be_that_of_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "nothing" / "within").mkdir(parents=True)
    with pytest.raises(Invalid, match="holds no file"):
        Artifacts(tmp_path / "store").put_dir(tmp_path / "nothing")


def test_what_one_machine_keeps_another_reads_and_fetches(s3: S3, tmp_path: Path) -> None:
    place = s3.place()
    one, other = open_artifacts(tmp_path / "one", place), open_artifacts(tmp_path / "other", place)
    words, model = one.put_bytes(b"words"), one.put_dir(folder(tmp_path / "model", MODEL))
    assert other.has(words) and other.has(model) and other.all() == one.all() == sorted([words, model])
    assert other.read(words) == b"words" and other.read(model, "weights/two.bin") == MODEL["weights/two.bin"]
    assert list((tmp_path / "other" / "sha256").iterdir()) == [], "what is read is not fetched"
    found = other.path(model)
    assert {f.relative_to(found).as_posix(): f.read_bytes() for f in found.rglob("*") if f.is_file()} == MODEL
    assert other.path(words).read_bytes() == b"words" and other.verify(model) and other.verify(words)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "other").rglob("*") if file.is_file()}
    assert modes == {0o600} and list((tmp_path / "other" / "arriving").iterdir()) == []
    snapshot = Snapshot(FORMAT, "roads", "round-1", 9, (), ())
    chosen = save(snapshot, one)
    assert load(chosen, other) == snapshot
    for digest in (words, model, chosen):
        assert other.remove(digest) and not ObjectStore(place).has(digest.removeprefix("sha256:"))
        assert one.has(digest), "what one has fetched or made is its own to remove"
        assert one.remove(digest) and not one.has(digest)
    assert ObjectStore(place).all() == set()


def test_what_a_home_kept_before_it_shared_is_shared_once(s3: S3, tmp_path: Path) -> None:
    alone = Artifacts(tmp_path / "one")
    kept = {alone.put_bytes(b"words"), alone.put_dir(folder(tmp_path / "model", MODEL))}
    assert alone.share() == 0
    place = s3.place()
    sharing = open_artifacts(tmp_path / "one", place)
    assert (sharing.share(), sharing.share()) == (2, 0)
    assert set(open_artifacts(tmp_path / "other", place).all()) == kept


def test_a_folder_that_was_cut_off_on_its_way_is_not_there_for_anybody(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = s3.place()
    one, other = open_artifacts(tmp_path / "one", place), open_artifacts(tmp_path / "other", place)
    source = folder(tmp_path / "model", MODEL)

    def killed(self: ObjectStore, *parts: str) -> str:
        if parts[0] == "manifests":
            raise KeyboardInterrupt
        return at(self, *parts)

    at = ObjectStore._at
    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "_is_folder", lambda self, name: False)
        patched.setattr(ObjectStore, "_at", killed)
        with pytest.raises(KeyboardInterrupt):
            one.put_dir(source)
    (digest,) = one.all()
    assert not other.has(digest) and other.all() == []
    with pytest.raises(Invalid, match="there is no artifact"):
        other.path(digest)
    assert one.put_dir(source) == digest and other.verify(digest), "put again, it is there"


def test_what_was_damaged_on_its_way_is_not_believed(s3: S3, tmp_path: Path) -> None:
    place = s3.place()
    one, other = open_artifacts(tmp_path / "one", place), open_artifacts(tmp_path / "other", place)
    words, model = one.put_bytes(b"words"), one.put_dir(folder(tmp_path / "model", MODEL))
    store = ObjectStore(place)
    store._files.pipe_file(store._at("files", words.removeprefix("sha256:")), b"worms")
    store._files.pipe_file(store._at("folders", model.removeprefix("sha256:"), "config.json"), b"[]")
    for look in (lambda: other.read(words), lambda: other.path(words), lambda: other.path(model)):
        with pytest.raises(Invalid, match="its bytes are not what its name says"):
            look()
    assert list((tmp_path / "other" / "sha256").iterdir()) == []


def test_a_store_that_does_not_answer_is_tried_again_and_says_which_it_is(s3: S3, tmp_path: Path) -> None:
    kept = open_artifacts(tmp_path / "artifacts", "s3://no-such-bucket/here")
    for act in (lambda: kept.put_bytes(b"words"), lambda: kept.has("sha256:" + "a" * 64), kept.all):
        with pytest.raises(Unavailable, match="there is no bucket for s3://no-such-bucket/here"):
            act()
    kept, place = Artifacts(tmp_path / "artifacts"), s3.place()
    digest = kept.put_bytes(b"words")
    s3.asks_for_a_login(True)
    try:
        refused = open_artifacts(tmp_path / "artifacts", place)
        with pytest.raises(Unavailable, match="refuses the login that the environment or profile names"):
            refused.put_bytes(b"words")
    finally:
        s3.asks_for_a_login(False)
    assert refused.put_bytes(b"words") == digest, "somebody has mended it"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        away = open_artifacts(tmp_path / "artifacts", s3.place())
        with pytest.raises(Unavailable, match=r"s3://noria/.* does not answer"):
            away.put_bytes(b"others")
        assert away.read(digest) == b"words", "what lies here is read as before"


@pytest.mark.parametrize("said", ["/mnt/artifacts", "s3://", "s3://a/b c", "gs://bucket/x", "s3://Bucket/../x?y"])
def test_an_address_that_is_none_is_refused(said: str) -> None:
    assert shared_artifacts({}) == "" and shared_artifacts({"NORIA_ARTIFACTS": "s3://noria/one"}) == "s3://noria/one"
    with pytest.raises(Invalid, match="NORIA_ARTIFACTS must be s3://bucket or s3://bucket/prefix"):
        shared_artifacts({"NORIA_ARTIFACTS": said})
