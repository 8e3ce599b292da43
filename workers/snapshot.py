"""A snapshot: the training set of one round, immutable and addressed by its digest. People's words in it stay sealed."""

import json
from typing import Any, Literal

import msgspec
from msgspec import Struct

from streams.errors import Invalid
from streams.sealed import Sealed
from streams.sealing import Keys, open_sealed
from streams.turns import pairs_of
from workers.artifacts import Artifacts


class SnapshotRow(Struct, frozen=True):
    """One example that is trained on. `wordings` are other people's prompts that ask the same."""

    example_id: str
    role: Literal["new", "earlier"]
    person: str
    prompt: Sealed
    answer: Sealed
    wordings: tuple[Sealed, ...] = ()


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
    try:
        return msgspec.json.decode(artifacts.path(digest).read_bytes(), type=Snapshot)
    except msgspec.MsgspecError as error:
        raise Invalid(f"{digest} is not a snapshot: {error}") from None


def open_prompt(messages: Sealed, keys: Keys) -> Opened:
    """The question, and what stood before it. Raises Erased, or Invalid if this is not a list of messages."""
    try:
        listed: list[dict[str, Any]] = json.loads(open_sealed(messages, keys))
        system = "\n".join(str(m["content"]) for m in listed if m["role"] == "system")
        turns = [(str(m["role"]), str(m["content"])) for m in listed if m["role"] != "system"]
        if not turns or turns[-1][0] != "user":
            raise Invalid(f"{messages.ref}: the last message is not the person's")
    except (ValueError, KeyError, TypeError):
        raise Invalid(f"{messages.ref} does not open to a list of messages") from None
    return Opened(turns[-1][1], system or None, pairs_of(turns[:-1]))
