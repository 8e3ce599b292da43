"""A file that somebody brings becomes a text and its passages, in a process of its own."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

import msgspec
from msgspec import Struct

from api.documents.faults import Unreadable
from api.documents.protocol import FILE_BYTES, Asked, Fault, Found
from streams.errors import Unavailable
from streams.passages import Passage

TEXT_CHARACTERS = 32 * 1024 * 1024
PASSAGES = 200_000
AT_ONCE = 2  # documents that are read: each may take a core and 1.5 GiB
_CPU_S = 120
_MEMORY_BYTES = 1536 * 1024 * 1024
_WALL_S = 300.0
_ANSWER_BYTES = 256 * 1024 * 1024
_WAIT_S = 60.0

_KINDS = {
    ".txt": "text",
    ".text": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".htm": "html",
    ".html": "html",
    ".pdf": "pdf",
    ".docx": "docx",
}
_MEDIA_TYPES = {
    "text/plain": "text",
    "text/markdown": "markdown",
    "text/html": "html",
    "application/pdf": "pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
}
SUFFIXES = frozenset(_KINDS)
_SLOTS = threading.BoundedSemaphore(AT_ONCE)
logger = logging.getLogger(__name__)


class Reading(Struct, frozen=True):
    text: str
    passages: list[Passage]


def kind_of(name: str, media_type: str = "") -> str:
    """By the media type, where one says it, else by how the name ends. Raises Unreadable."""
    found = _MEDIA_TYPES.get(media_type) or _KINDS.get(PurePosixPath(name).suffix.lower())
    if found is None:
        raise Unreadable("kind_unknown", f"it is none of {', '.join(sorted(SUFFIXES))}")
    return found


def read(kind: str, body: bytes) -> Reading:
    """The text of a document and its passages. Raises Unreadable, and Unavailable where others are being read for a minute."""
    if not body:
        raise Unreadable("empty", "it is empty")
    if len(body) > FILE_BYTES:
        raise Unreadable("too_large", f"it has {len(body):,} bytes; at most {FILE_BYTES:,} are read")
    asked = msgspec.json.encode(Asked(kind, _CPU_S, _MEMORY_BYTES, TEXT_CHARACTERS, PASSAGES)) + b"\n"
    with _slot():
        answer, ended = _ask(asked, body)
    if ended or len(answer) > _ANSWER_BYTES:
        raise _why(ended)
    found = msgspec.msgpack.decode(answer, type=Found | Fault)
    if isinstance(found, Fault):
        raise Unreadable(found.code, found.message)
    text = found.text
    passages = [Passage(n, place, start, end, text[start:end]) for n, (place, start, end) in enumerate(found.passages)]
    return Reading(text, passages)


@contextmanager
def _slot() -> Iterator[None]:
    if not _SLOTS.acquire(timeout=_WAIT_S):
        raise Unavailable("other documents are being read")
    try:
        yield
    finally:
        _SLOTS.release()


def _ask(asked: bytes, body: bytes) -> tuple[bytes, int]:
    """What the process says, and how it ended."""
    environ = {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)
    }  # none of the door's: it holds ways to keys
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "api.documents.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a library may repeat words of the document
        env=environ,
    ) as child:
        ends = threading.Timer(_WALL_S, child.kill)
        ends.start()
        writes = threading.Thread(target=_write, args=(child, asked, body), daemon=True)
        writes.start()
        try:
            assert child.stdout is not None
            answer = child.stdout.read(_ANSWER_BYTES + 1)
        finally:
            if child.poll() is None and len(answer) > _ANSWER_BYTES:
                child.kill()
            ended = child.wait()
            ends.cancel()
            writes.join()
    return answer, ended


def _write(child: "subprocess.Popen[bytes]", asked: bytes, body: bytes) -> None:
    assert child.stdin is not None
    try:
        with child.stdin:
            child.stdin.write(asked)
            child.stdin.write(body)
    except BrokenPipeError:
        pass  # how the process ended says why


def _why(ended: int) -> Unreadable:
    if ended in (-signal.SIGXCPU, -signal.SIGKILL):
        return Unreadable("too_hard", "reading it takes longer than a document is given")
    # Memory that a library of C does not get ends the process in many ways.
    logger.warning("the reader of a document ended with %d", ended)
    return Unreadable("too_hard", "it is broken, or reading it takes more memory than a document is given")
