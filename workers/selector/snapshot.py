"""A snapshot: the training set of one round, immutable and addressed by its digest. People's words in it stay sealed."""

from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Struct

from streams.errors import Erased, Invalid
from streams.history import Part, Whole, open_whole
from streams.rankings import Held
from streams.recalled import Memory, MemoryKind
from streams.remembered import of_correction, of_passage, title_of
from streams.sealed import Sealed
from streams.sealing import Keys
from streams.turns import pairs_of
from workers.artifacts import Artifacts

FORMAT = 5  # one of an older format may be pinned by a round that was under way when its reader was replaced


class SnapshotMemory(Struct, frozen=True, omit_defaults=True):
    """What may be put before a question of the snapshot. Of a correction `text` opens to the answer and `question` to its prompt;
    of a passage `text` opens to the passage and `title` to the title of its document."""

    id: str
    kind: MemoryKind
    text: Sealed
    question: Sealed | None = None
    title: Sealed | None = None

    @property
    def kids(self) -> frozenset[str]:
        return frozenset(part.kid for part in (self.text, self.question, self.title) if part is not None)


class SnapshotRow(Struct, frozen=True):
    """One example that is trained on. `wordings` are other people's prompts that ask the same. `recalled`: the ids of what is
    recalled for the prompt, the best first, and then for each wording; empty where the example is taught bare alone."""

    example_id: str
    role: Literal["new", "earlier"]
    person: str
    prompt: Whole
    answer: Sealed
    wordings: tuple[Whole, ...] = ()
    recalled: tuple[tuple[str, ...], ...] = ()


class SnapshotPair(Struct, frozen=True):
    """`chosen` is better than `rejected` as an answer to `prompt`. `ranking`: of which question; a prompt's K answers make up to
    K(K-1)/2 pairs of one ranking. `events`: what was said on the log that it comes of, by `people`; `chosen_id` and `rejected_id`
    are the replies, or the events of the corrections, that these are."""

    ranking: str
    prompt: Whole
    chosen: Sealed
    rejected: Sealed
    chosen_id: str
    rejected_id: str
    events: tuple[str, ...]
    people: tuple[str, ...]

    @property
    def kids(self) -> frozenset[str]:
        return frozenset({self.chosen.kid, self.rejected.kid, *(part.sealed.kid for part in self.prompt)})


class SnapshotLabel(Struct, frozen=True):
    """Whether `answer` is a good one to `prompt`, by itself; else as a pair."""

    prompt: Whole
    answer: Sealed
    answer_id: str
    good: bool
    events: tuple[str, ...]
    people: tuple[str, ...]

    @property
    def kids(self) -> frozenset[str]:
        return frozenset({self.answer.kid, *(part.sealed.kid for part in self.prompt)})


class Dropped(Struct, frozen=True):
    example_id: str
    reason: str


class Snapshot(Struct, frozen=True):
    """`memories`: all that its rows recall, so that a training needs nothing else. `opening`: it has no rows, and stands for our
    own material (`workers.trainer.opening`). `passages`: what is read as text, where the recipe reads. `pairs`: what people prefer,
    where the recipe learns that, of what stood before `read` (`streams.reading.preferences.Cut`), and what is `held` back of it;
    `labels`: which answers they find good, where it learns from these. `held_out`: pairs of other questions, by which the candidate
    is examined, and of which nothing is ever learned (`streams.rankings.is_held_out`)."""

    format: int
    domain: str
    round_id: str
    pin: int
    rows: tuple[SnapshotRow, ...]
    dropped: tuple[Dropped, ...]
    memories: tuple[SnapshotMemory, ...] = ()
    opening: bool = False
    passages: tuple[SnapshotMemory, ...] = ()
    pairs: tuple[SnapshotPair, ...] = ()
    held: tuple[Held, ...] = ()
    read: Mapping[str, int] | None = None
    labels: tuple[SnapshotLabel, ...] = ()
    held_out: tuple[SnapshotPair, ...] = ()


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


def open_memory(memory: SnapshotMemory, keys: Keys) -> Memory | None:
    """As it is put before a model; None once its person was erased, or if it cannot be read."""
    try:
        if memory.title is not None:
            return of_passage(memory.text, title_of(memory.title, keys), keys)
        assert memory.question is not None
        return of_correction(memory.question, memory.text, keys)
    except (Erased, Invalid):
        return None


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
