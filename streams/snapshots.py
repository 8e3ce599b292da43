"""A snapshot: the training set of one round, immutable and addressed by its digest. People's words in it stay sealed."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Literal

import msgspec
from msgspec import Struct

from streams.artifacts import Artifacts
from streams.errors import Erased, Invalid
from streams.history import Part, Whole, open_whole
from streams.personal import PersonalKind, masked
from streams.rankings import Held
from streams.recalled import Memory, MemoryKind
from streams.remembered import of_correction, of_passage, title_of
from streams.sealed import Sealed
from streams.sealing import Keys
from streams.selection import USUAL, Selection
from streams.turns import pairs_of

FORMAT = 6  # one of an older format may be pinned by a round that was under way when its reader was replaced
HELD_OUT = "held out: the candidate is examined by it"


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
    recalled for the prompt, the best first, and then for each wording; empty where the example is taught bare alone. `weight`: how
    often it is shown while others are shown once."""

    example_id: str
    role: Literal["new", "earlier"]
    person: str
    prompt: Whole
    answer: Sealed
    wordings: tuple[Whole, ...] = ()
    recalled: tuple[tuple[str, ...], ...] = ()
    weight: float = 1.0


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


LineKind = Literal["example", "pair", "label", "passage", "general"]


class Line(Struct, frozen=True, omit_defaults=True):
    """What became of one candidate. `step`: that decided it, or of what is kept the last that measured it; empty where none did.
    `number`: in that step's own measure; `neighbour`: next to which other. `reason` is empty for what is kept. Of a pair the id is
    that of its better and its worse answer; of what is held back of pairs, of the event that said it; of a general prompt, made of
    its words, which are nobody's. `weight`: how often it is shown while others are shown once, None: once."""

    id: str
    kind: LineKind
    kept: bool
    step: str = ""
    number: float | None = None
    neighbour: str | None = None
    reason: str = ""
    weight: float | None = None


class Snapshot(Struct, frozen=True):
    """`lines`: one for each candidate. `memories`: all that its rows recall, so that a training needs nothing else. `opening`: it
    has no rows, and stands for our own material (`workers.trainer.opening`). `passages`: what is read as text, where the recipe
    reads. `pairs`: what people prefer, where the recipe learns that, of what stood before `read`
    (`streams.reading.preferences.Cut`), and what is `held` back of it; `labels`: which answers they find good, where it learns from
    these. `held_out`: pairs of other questions, by which the candidate is examined, and of which nothing is ever learned
    (`streams.rankings.is_held_out`).
    `selection`: by which steps it was chosen, and with which `libraries` (name -> version), where these measured anything. `mask`:
    the kinds of personal data that are masked wherever its words are opened."""

    format: int
    domain: str
    round_id: str
    pin: int
    rows: tuple[SnapshotRow, ...]
    lines: tuple[Line, ...]
    memories: tuple[SnapshotMemory, ...] = ()
    opening: bool = False
    passages: tuple[SnapshotMemory, ...] = ()
    pairs: tuple[SnapshotPair, ...] = ()
    held: tuple[Held, ...] = ()
    read: Mapping[str, int] | None = None
    labels: tuple[SnapshotLabel, ...] = ()
    held_out: tuple[SnapshotPair, ...] = ()
    selection: Selection = USUAL
    libraries: Mapping[str, str] = {}
    mask: tuple[PersonalKind, ...] = ()

    @property
    def dropped(self) -> list[Line]:
        """Of its examples those that are not learned."""
        return [line for line in self.lines if line.kind == "example" and not line.kept]


class Dropped(Struct, frozen=True):
    """An example that is not learned, as formats before 6 said it."""

    example_id: str
    reason: str


class _Format(Struct, frozen=True):
    format: int


class _Row1(Struct, frozen=True):
    """A row of format 1, in which every prompt was one piece."""

    example_id: str
    role: Literal["new", "earlier"]
    person: str
    prompt: Sealed
    answer: Sealed
    wordings: tuple[Sealed, ...] = ()


class _Snapshot1(Struct, frozen=True):
    format: Literal[1]
    domain: str
    round_id: str
    pin: int
    rows: tuple[_Row1, ...]
    dropped: tuple[Dropped, ...]


class _Snapshot5(Struct, frozen=True):
    """Of formats 2 to 5: nothing was said of what was kept, nor by which step the rest was not."""

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


def masked_prompt(prompt: Opened, mask: Collection[str]) -> Opened:
    """Its personal data of these kinds masked."""
    if not mask:
        return prompt
    return Opened(
        masked(prompt.question, mask)[0],
        None if prompt.system is None else masked(prompt.system, mask)[0],
        tuple((masked(asked, mask)[0], masked(answered, mask)[0]) for asked, answered in prompt.history),
    )


def save(snapshot: Snapshot, artifacts: Artifacts) -> str:
    return artifacts.put_bytes(msgspec.json.encode(snapshot))


def load(digest: str, artifacts: Artifacts) -> Snapshot:
    """Raises Invalid if the artifact is absent or is no snapshot."""
    value = artifacts.read(digest)
    try:
        match msgspec.json.decode(value, type=_Format).format:
            case 1:
                return _lifted(_lifted_rows(msgspec.json.decode(value, type=_Snapshot1)))
            case 2 | 3 | 4 | 5:
                return _lifted(msgspec.json.decode(value, type=_Snapshot5))
            case _:
                return msgspec.json.decode(value, type=Snapshot)
    except msgspec.MsgspecError as error:
        raise Invalid(f"{digest} is not a snapshot: {error}") from None


class Count(Struct, frozen=True):
    """How many candidates of a kind one step decided on, and with which reason."""

    kind: LineKind
    kept: bool
    step: str
    reason: str
    candidates: int


def counts(snapshot: Snapshot) -> list[Count]:
    """By kind, step and reason; what is kept first, then the most."""
    found = Counter((line.kind, line.kept, line.step if not line.kept else "", line.reason) for line in snapshot.lines)
    ordered = sorted(found.items(), key=lambda item: (item[0][0], not item[0][1], -item[1], item[0]))
    return [Count(*about, candidates) for about, candidates in ordered]


class Change(Struct, frozen=True):
    """One candidate that fares otherwise in a later snapshot; None: it is none there."""

    id: str
    kind: LineKind
    before: Line | None
    after: Line | None


def changes(before: Snapshot, after: Snapshot) -> list[Change]:
    """What is kept in one of the two and not in the other, or is not kept for another reason; in the order of the later one, then
    what is a candidate no more."""
    then = {(line.kind, line.id): line for line in before.lines}
    now = {(line.kind, line.id): line for line in after.lines}
    return [
        Change(about[1], about[0], then.get(about), now.get(about))
        for about in [*now, *(one for one in then if one not in now)]
        if _fares(then.get(about)) != _fares(now.get(about))
    ]


def _fares(line: Line | None) -> tuple[bool, str] | None:
    return None if line is None else (line.kept, line.reason)


def lines_of_preferences(
    pairs: Iterable[SnapshotPair],
    held_out: Iterable[SnapshotPair],
    labels: Iterable[SnapshotLabel],
    held: Iterable[Held],
) -> Iterator[Line]:
    """One for each pair and label, and for each event that was held back."""
    for pair in pairs:
        yield Line(f"{pair.chosen_id} {pair.rejected_id}", "pair", True)
    for pair in held_out:
        yield Line(f"{pair.chosen_id} {pair.rejected_id}", "pair", False, "held_out", reason=HELD_OUT)
    for label in labels:
        yield Line(label.answer_id, "label", True)
    for one in held:
        for event in one.events:
            yield Line(event, "pair", False, "preferences", reason=one.reason)


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


def _lifted_rows(found: _Snapshot1) -> _Snapshot5:
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
    return _Snapshot5(2, found.domain, found.round_id, found.pin, rows, found.dropped)


def _lifted(found: _Snapshot5) -> Snapshot:
    known = {name: getattr(found, name) for name in found.__struct_fields__ if name not in ("format", "dropped")}
    lines = (
        *(Line(row.example_id, "example", True) for row in found.rows),
        *(Line(one.example_id, "example", False, reason=one.reason) for one in found.dropped),
        *lines_of_preferences(found.pairs, found.held_out, found.labels, found.held),
        *(Line(passage.id, "passage", True) for passage in found.passages),
    )
    return Snapshot(FORMAT, lines=lines, **known)
