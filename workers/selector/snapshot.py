"""A snapshot: the training set of one round, immutable and addressed by its digest. People's words in it stay sealed."""

from typing import Literal

import msgspec
from msgspec import Struct

from streams.errors import Invalid
from streams.history import Part, Whole, open_whole
from streams.sealed import Sealed
from streams.sealing import Keys
from streams.turns import pairs_of
from workers.artifacts import Artifacts

FORMAT = 2  # one of format 1 may be pinned by a round that was under way when its reader was replaced


class SnapshotRow(Struct, frozen=True):
    """One example that is trained on. `wordings` are other people's prompts that ask the same."""

    example_id: str
    role: Literal["new", "earlier"]
    person: str
    prompt: Whole
    answer: Sealed
    wordings: tuple[Whole, ...] = ()


class Dropped(Struct, frozen=True):
    example_id: str
    reason: str


class Snapshot(Struct, frozen=True):
    format: int
    domain: str
    round_id: str
    pin: int
    rows: tuple[SnapshotRow, ...]
    dropped: tuple[Dropped, ...]


class _Format(Struct, frozen=True):
    format: int


class _RowBefore(Struct, frozen=True):
    """A row of format 1, in which every prompt was one piece."""

    example_id: str
    role: Literal["new", "earlier"]
    person: str
    prompt: Sealed
    answer: Sealed
    wordings: tuple[Sealed, ...] = ()


class _SnapshotBefore(Struct, frozen=True):
    format: Literal[1]
    domain: str
    round_id: str
    pin: int
    rows: tuple[_RowBefore, ...]
    dropped: tuple[Dropped, ...]


class Opened(Struct, frozen=True):
    """A prompt in plain text. Lives in memory only."""

    question: str
    system: str | None
    history: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        return "Opened(sealed)"

    @property
    def context(self) -> str:
        return "\n".join([self.system or "", *(turn for pair in self.history for turn in pair)])


def save(snapshot: Snapshot, artifacts: Artifacts) -> str:
    return artifacts.put_bytes(msgspec.json.encode(snapshot))


def load(digest: str, artifacts: Artifacts) -> Snapshot:
    """Raises Invalid if the artifact is absent or is no snapshot."""
    value = artifacts.path(digest).read_bytes()
    try:
        if msgspec.json.decode(value, type=_Format).format == 1:
            return _lifted(msgspec.json.decode(value, type=_SnapshotBefore))
        return msgspec.json.decode(value, type=Snapshot)
    except msgspec.MsgspecError as error:
        raise Invalid(f"{digest} is not a snapshot: {error}") from None


def open_prompt(whole: Whole, keys: Keys) -> Opened:
    """The question, and what stood before it. Raises Erased, or Invalid if these are not messages."""
    listed = open_whole(whole, keys)
    system = "\n".join(m["content"] for m in listed if m["role"] == "system")
    turns = [(m["role"], m["content"]) for m in listed if m["role"] != "system"]
    if not turns or turns[-1][0] != "user":
        raise Invalid(f"{whole[-1].sealed.ref}: the last message is not the person's")
    return Opened(turns[-1][1], system or None, pairs_of(turns[:-1]))


def _lifted(found: _SnapshotBefore) -> Snapshot:
    rows = tuple(
        SnapshotRow(
            example_id=row.example_id,
            role=row.role,
            person=row.person,
            prompt=(Part(row.prompt),),
            answer=row.answer,
            wordings=tuple((Part(wording),) for wording in row.wordings),
        )
        for row in found.rows
    )
    return Snapshot(FORMAT, found.domain, found.round_id, found.pin, rows, found.dropped)
