"""The order `select_snapshot`: from the examples that stood on the log at the round's pin to a snapshot, with reasons."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from msgspec.structs import replace

from streams.alike import words_of
from streams.errors import Erased
from streams.facts.judgements import ConcernRaised
from streams.facts.rounds import ExamplesSelected, SnapshotSelected
from streams.history import Before, Whole, before, open_whole
from streams.orders import SelectSnapshot
from streams.personal import kinds_in
from streams.preferred import counted
from streams.reading.learning import (
    AskedInVain,
    Example,
    asked_in_vain,
    exam_as_of,
    examples_as_of,
    line_of_round,
    proposals_of,
)
from streams.reading.memories import passages_as_of
from streams.recipes import PreferringRecipe, Recipe, RewardRecipe
from streams.sealed import Sealed
from streams.sealing import Keys, open_sealed
from streams.selection import Leakage
from streams.snapshots import (
    FORMAT,
    Line,
    Opened,
    Snapshot,
    SnapshotMemory,
    SnapshotRow,
    lines_of_preferences,
    save,
)
from streams.store import postgres_trouble
from workers.context import Context
from workers.recall.as_of import AsOf, memory_as_of
from workers.selector.hard import TOO_HARD
from workers.selector.instruments import RoundInstruments, length_of
from workers.selector.leakage import Guard
from workers.selector.mixing import general_lines
from workers.selector.opened import open_exam, open_examples, other_wordings
from workers.selector.pipeline import choose
from workers.selector.preferences import select_pairs

MISLED = 0.1  # of the contexts that are taught
HARD_TO_LEARN = "hard_to_learn"  # why a proposal is put before the annotators
NAMED_AT_ONCE = 10_000  # examples, in one event: half of what it may hold


def run(order: SelectSnapshot, context: Context) -> None:
    snapshot = select(order, context)
    new = [row for row in snapshot.rows if row.role == "new"]
    digest, kept = save(snapshot, context.artifacts), tuple(row.example_id for row in new)
    _put_forward(order, snapshot, context)
    about: dict[str, Any] = {
        "domain": order.domain,
        "round_id": order.round_id,
        "order_id": order.order_id,
        "snapshot": digest,
    }
    named = range(0, max(0, len(kept) - NAMED_AT_ONCE), NAMED_AT_ONCE)
    for start in named:
        part = ExamplesSelected(**about, kept=kept[start : start + NAMED_AT_ONCE])
        context.publish(order, part, f"examples_selected {digest} {start}")
    event = SnapshotSelected(
        **about,
        kept=kept[len(named) * NAMED_AT_ONCE :],
        named=len(named) * NAMED_AT_ONCE,
        earlier=len(snapshot.rows) - len(new),
        wordings=sum(len(row.wordings) for row in new),
        dropped=dict(sorted(Counter(d.reason for d in snapshot.dropped).items())),
        pairs=len(snapshot.pairs),
        labels=len(snapshot.labels),
        pairs_held_out=len(snapshot.held_out),
        held=counted(snapshot.held),
        read=None if snapshot.read is None else dict(snapshot.read),
        said_by=said_by(snapshot),
        masked=masked_in(snapshot, context.keyring),
    )
    context.publish(order, event, "snapshot_selected")


def select(order: SelectSnapshot, context: Context) -> Snapshot:
    """The training set, by what stood on the log at the pin and opens now. Raises Cancelled, Invalid, Unavailable."""
    if order.opening:
        return Snapshot(
            FORMAT,
            order.domain,
            order.round_id,
            order.pin,
            (),
            (),
            opening=True,
            selection=order.selection,
            mask=order.mask,
        )
    examples, exam, in_vain, earlier = _read(order, context)
    if isinstance(
        order.recipe, RewardRecipe
    ):  # a correction is learned as a pair, and waits for a round that learns it as a row
        examples = []
    found = open_examples(examples, earlier, frozenset(), context.keyring, partial(context.progress, order, "select"))
    length = length_of(order, context)
    instruments = RoundInstruments(order, context, examples, found.prompts, exam, length)
    chosen = choose(order.selection, found.candidates, instruments, partial(context.progress, order, "select"))
    lines = {line.id: line for line in found.dropped} | dict(chosen.lines)
    answers = {candidate.example_id: candidate.answer for candidate in found.candidates}
    kept = {candidate.example_id: candidate for candidate in chosen.kept}
    guard = Guard(next(step for step in order.selection if isinstance(step, Leakage)), instruments)

    def leaks(question: str) -> bool:
        return guard.leaks([question]) != [None]

    def fits(asked: Opened, answer: str) -> bool:
        return length(asked, answer) is not None

    wordings = other_wordings(
        {e: found.prompts[e] for e in kept},
        in_vain,
        earlier,
        context.keyring,
        lambda e, asked: not leaks(asked.question) and fits(asked, answers[e]),
    )
    rows = tuple(
        SnapshotRow(
            example_id=row.example_id,
            role="earlier" if row.learned else "new",
            person=row.person,
            prompt=found.wholes[row.example_id],
            answer=row.answer,
            wordings=tuple(wording.whole for wording in wordings.get(row.example_id, ())),
            weight=kept[row.example_id].weight,
        )
        for row in examples
        if row.example_id in kept
    )
    memories: tuple[SnapshotMemory, ...] = ()
    if order.recall.kinds and order.recipe is not None and order.recipe.recalled_share and rows:
        asked = {
            e: [found.prompts[e], *(wording.prompt for wording in wordings.get(e, ()))]
            for e in _taught_to_recall(order.recipe, {e: (found.prompts[e].question, answers[e]) for e in kept})
        }
        rows, memories = _recalled(order, context, rows, asked, lambda e, prompt: fits(prompt, answers[e]))
    context.check()
    passages = _passages(order, context) if order.recipe is not None and order.recipe.reads_passages else ()
    snapshot = Snapshot(
        FORMAT,
        order.domain,
        order.round_id,
        order.pin,
        rows,
        (
            *(lines[row.example_id] for row in examples),
            *(Line(passage.id, "passage", True) for passage in passages),
            *general_lines(order, context),
        ),
        memories,
        passages=passages,
        selection=order.selection,
        libraries=instruments.measured_with,
        mask=order.mask,
    )
    if not isinstance(order.recipe, PreferringRecipe | RewardRecipe):
        return snapshot
    forbidden = frozenset(words_of(question) for question in exam.values())
    taught = frozenset(words_of(found.prompts[row.example_id].question) for row in rows)
    preferences = select_pairs(order, order.recipe, forbidden, leaks, taught, fits, context)
    said = lines_of_preferences(preferences.pairs, preferences.held_out, preferences.labels, preferences.held)
    return replace(
        snapshot,
        lines=(*snapshot.lines, *said),
        pairs=preferences.pairs,
        labels=preferences.labels,
        held_out=preferences.held_out,
        held=preferences.held,
        read=preferences.read,
    )


def _put_forward(order: SelectSnapshot, snapshot: Snapshot, context: Context) -> None:
    """Before the annotators: the proposals of what is too hard, but for those that wait as that already."""
    hard = [line.id for line in snapshot.dropped if line.reason == TOO_HARD]
    if not hard:
        return
    with postgres_trouble(), context.database.connect() as connection:
        proposals = proposals_of(connection, order.domain, hard)
    for proposal_id in proposals:
        concern = ConcernRaised(domain=order.domain, proposal_id=proposal_id, concern="hard", reason=HARD_TO_LEARN)
        context.publish(order, concern, f"hard {proposal_id}")


def said_by(snapshot: Snapshot) -> dict[str, int]:
    """In how many of the pairs and labels there is something that each person said, or wrote."""
    said = [*(pair.people for pair in snapshot.pairs), *(label.people for label in snapshot.labels)]
    return dict(sorted(Counter(person for people in said for person in set(people)).items()))


def masked_in(snapshot: Snapshot, keys: Keys) -> dict[str, int]:
    """In how many of its examples, pairs and labels personal data of each kind is masked, be it in another wording."""
    if not snapshot.mask:
        return {}
    said = [
        *(((row.prompt, *row.wordings), (row.answer,)) for row in snapshot.rows),
        *(((pair.prompt,), (pair.chosen, pair.rejected)) for pair in (*snapshot.pairs, *snapshot.held_out)),
        *(((label.prompt,), (label.answer,)) for label in snapshot.labels),
    ]
    found: Counter[str] = Counter()
    for prompts, answers in said:
        texts: list[str] = []
        for open_ in (
            *(partial(_texts_of, whole, keys) for whole in prompts),
            *(partial(_text_of, one, keys) for one in answers),
        ):
            try:
                texts += open_()
            except Erased:
                continue  # a moment ago
        found.update(kinds_in(texts, snapshot.mask))
    return dict(sorted(found.items()))


def _texts_of(whole: Whole, keys: Keys) -> list[str]:
    return [message["content"] for message in open_whole(whole, keys)]


def _text_of(sealed: Sealed, keys: Keys) -> list[str]:
    return [open_sealed(sealed, keys)]


def _taught_to_recall(recipe: Recipe, facts: Mapping[str, tuple[str, str]]) -> list[str]:
    """The recipe's share of the facts. By their words, as if by lot, so that the same corrections make the same model in whatever
    order they came."""

    def lot(example_id: str) -> bytes:
        return hashlib.sha256(json.dumps([recipe.seed, *facts[example_id]]).encode()).digest()

    return sorted(facts, key=lambda example_id: (lot(example_id), example_id))[
        : round(recipe.recalled_share * len(facts))
    ]


def _recalled(
    order: SelectSnapshot,
    context: Context,
    rows: tuple[SnapshotRow, ...],
    asked: Mapping[str, list[Opened]],
    fits: Callable[[str, Opened], bool],
) -> tuple[tuple[SnapshotRow, ...], tuple[SnapshotMemory, ...]]:
    """The rows with what would be recalled for the prompts that are `asked` of them, each wording itself being left out of the
    memory; and those memories.

    The right one is put first, but in MISLED of the contexts, which stay as they are ranked: some of these mislead, and some lack
    the right one (RAFT). Left as they are all of them (a wording that is left out finds its own fact first in 69 of 100 cases, and
    not at all in 13) a small model learns to answer from its weights: of facts that it was not taught, it answered 29 of 100
    questions behind what was recalled, and 66 to 69 when the right one always stood there (measured)."""
    remembered = memory_as_of(order.domain, order.round_id, order.pin, order.recall.kinds, context)
    found: dict[str, list[tuple[str, ...]]] = {}
    for done, (example_id, prompts) in enumerate(asked.items()):
        context.progress(order, "select", done, len(asked))
        found[example_id] = []
        for prompt, ids in zip(
            prompts,
            remembered.recall([prompt.question for prompt in prompts], order.recall, without_own=True),
            strict=True,
        ):
            ids = _right_first(example_id, prompt.question, ids, remembered, order)
            while ids and not fits(example_id, replace(prompt, question=remembered.asked(prompt.question, ids))):
                ids = ids[:-1]
            found[example_id].append(ids)
    used = sorted({id for prompts in found.values() for ids in prompts for id in ids})
    with_them = tuple(
        replace(row, recalled=tuple(found[row.example_id])) if any(found.get(row.example_id, ())) else row
        for row in rows
    )
    return with_them, tuple(remembered.sealed(id) for id in used)


def _right_first(
    example_id: str, question: str, ids: tuple[str, ...], remembered: AsOf, order: SelectSnapshot
) -> tuple[str, ...]:
    assert order.recipe is not None
    lot = hashlib.sha256(json.dumps([order.recipe.seed, question]).encode()).digest()  # by its words, as the share is
    if not ids or example_id not in remembered or int.from_bytes(lot[:4]) < MISLED * 2**32:
        return ids
    return remembered.within((example_id, *(id for id in ids if id != example_id)), order.recall)


def _read(order: SelectSnapshot, context: Context) -> tuple[list[Example], dict[str, str], list[AskedInVain], Before]:
    """The domain's examples and exam questions as of the pin, what was asked in vain before each correction, and what stands before
    them all. `learned`: by the release that the round starts from."""
    with postgres_trouble(), context.database.connect() as connection:
        line = line_of_round(connection, order.domain, order.round_id)
        examples = examples_as_of(connection, order.domain, order.pin, line)
        exam = exam_as_of(connection, order.domain, order.pin)
        in_vain = asked_in_vain(connection, order.domain, order.pin)
        earlier = before(connection, {*(row.follows for row in examples), *(row.follows for row in in_vain)})
    return examples, open_exam(exam, context.keyring), in_vain, earlier


def _passages(order: SelectSnapshot, context: Context) -> tuple[SnapshotMemory, ...]:
    """Those of the documents that were in force at the pin."""
    with postgres_trouble(), context.database.connect() as connection:
        rows = passages_as_of(connection, order.domain, order.pin)
    return tuple(SnapshotMemory(row.passage_id, "passage", row.passage, title=row.title) for row in rows)
