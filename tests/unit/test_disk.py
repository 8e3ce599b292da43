"""What lies on the disk, by kind; and a disk that is full: nothing half written is believed, a round waits for room and goes on."""

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from msgspec.structs import replace
from sqlalchemy import Engine

from streams.artifacts import Artifacts
from streams.codec import decode
from streams.disk import disk_use, is_full
from streams.events import DOMAINS
from streams.facts.orders import OrderProgressed
from streams.log import MemoryLog
from streams.orders import TrainCandidate
from streams.recipes import LoraRecipe
from streams.sealing import Keyring
from tests.door_world import make_settings, wait_until
from workers.context import Context
from workers.trainer import step as training

DISK_BYTES = 4 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    size = f"size={DISK_BYTES}"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_each_byte_of_a_home_is_counted_once_under_its_kind(tmp_path: Path) -> None:
    home = tmp_path / "home"
    artifacts = Artifacts(home / "artifacts")
    files = {
        "model/model.safetensors": 5,
        "adapter/adapter_model.safetensors": 3,
        "kafka/log/0.log": 7,
        "postgres/server/base": 2,
        "logs/door.log": 1,
        "models/answers": 4,
        "training/order/checkpoint": 6,
    }
    for name, blocks in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(os.urandom(4096 * blocks))
    artifacts.put_bytes(os.urandom(4096 * 2))
    for name in ("model", "adapter"):
        artifacts.put_dir(home / name)  # linked: both names are of the same bytes
    (tmp_path / "opencompass").mkdir()
    (tmp_path / "opencompass" / "wheel").write_bytes(os.urandom(4096 * 9))
    settings = replace(make_settings(home, "", ""), opencompass=tmp_path / "opencompass")
    use = disk_use(settings)
    assert {kind: size // 4096 for kind, size in use.kinds.items()} == {
        "models": 5,
        "adapters": 3,
        "rows": 2,
        "kafka": 7,
        "postgres": 2,
        "logs": 1,
        "caches": 4,
        "training": 6,
        "opencompass": 9,
    }
    assert 0 < use.free < use.total


def test_that_a_disk_is_full_is_known_by_number_by_word_and_by_cause() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as first:
            raise RuntimeError("could not save") from first
    except RuntimeError as error:
        caused = error
    words = RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)")
    assert is_full(caused) and is_full(words) and is_full(OSError(errno.EDQUOT, "quota"))
    assert not is_full(OSError(errno.EACCES, "no")) and not is_full(None)


@pytest.mark.parametrize("kind", ["bytes", "file", "folder"])
def test_what_did_not_fit_is_not_there_takes_no_room_and_fits_once_there_is_some(
    small_disk: Path, tmp_path: Path, kind: str
) -> None:
    kept = Artifacts(small_disk / "artifacts")
    (small_disk / "filler").write_bytes(b"\0" * (DISK_BYTES - (1 << 20)))
    content = os.urandom(2 << 20)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "small").write_bytes(b"small")
    (tmp_path / "folder" / "weights").write_bytes(content)

    def put() -> str:
        match kind:
            case "bytes":
                return kept.put_bytes(content)
            case "file":
                return kept.put_file(tmp_path / "folder" / "weights")
            case _:
                return kept.put_dir(tmp_path / "folder")

    with pytest.raises(OSError, match="No space left") as full:
        put()
    assert is_full(full.value)
    assert kept.all() == [] and list((small_disk / "artifacts" / "arriving").iterdir()) == []
    (small_disk / "filler").unlink()
    assert kept.verify(put())


def test_what_was_on_its_way_when_its_process_was_killed_is_removed_a_day_later(tmp_path: Path) -> None:
    kept = Artifacts(tmp_path)
    digest = kept.put_bytes(b"here")
    for name in ("old", "new"):
        (tmp_path / "arriving" / name).mkdir()
        (tmp_path / "arriving" / name / "part").write_bytes(b"part")
    os.utime(tmp_path / "arriving" / "old", (0, 0))
    assert kept.clear_arriving(86_400.0) == 1
    assert [one.name for one in (tmp_path / "arriving").iterdir()] == ["new"] and kept.has(digest)


def test_a_training_waits_for_room_says_so_and_goes_on_by_itself(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SPARE_BYTES", 1 << 20)
    log = MemoryLog()
    settings = make_settings(small_disk, "", "")
    context = Context(settings, cast(Engine, None), log, cast(Keyring, None), "worker-1")
    base = context.artifacts.put_bytes(os.urandom(1 << 20))
    order: Any = TrainCandidate(
        order_id=uuid4(),
        domain="roads",
        round_id="round",
        snapshot="",
        base_model=base,
        reference_model=base,
        recipe=LoraRecipe(),
        replay_prompts=(),
    )
    (small_disk / "filler").write_bytes(b"\0" * (1 << 20))
    waiting = threading.Thread(target=context.wait, args=(order, "train", lambda: training.no_room(order, context)))
    waiting.start()
    partition = wait_until(lambda: next((p for p, end in log.ends(DOMAINS).items() if end), None) is not None)
    (told,) = [decode(r.value).event for p, end in log.ends(DOMAINS).items() for r in log.read(DOMAINS, p, 0, end)]
    assert partition and isinstance(told, OrderProgressed) and told.waits_for == "disk_space"
    assert waiting.is_alive()
    (small_disk / "filler").unlink()
    waiting.join()
    assert not waiting.is_alive()
