"""The pairs and labels of a snapshot: what people prefer, as of a cut of the log, with a reason for what is held back."""

from collections.abc import Callable, Mapping

from msgspec import Struct

from streams.alike import Words, words_of
from streams.history import Whole, before
from streams.orders import SelectSnapshot
from streams.preferred import IN_THE_EXAM, TAUGHT, TOO_LONG, preferred
from streams.rankings import Held, Label, Pair
from streams.reading.preferences import cut_now, cut_of_round, said_of_answers
from streams.recipes import PreferringRecipe, RewardRecipe
from streams.sealed import Sealed
from streams.snapshots import Opened, SnapshotLabel, SnapshotPair
from streams.store import postgres_trouble
from streams.turns import pairs_of
from workers.context import Context


class Selected(Struct, frozen=True):
    pairs: tuple[SnapshotPair, ...]
    held_out: tuple[SnapshotPair, ...]
    labels: tuple[SnapshotLabel, ...]
    held: tuple[Held, ...]
    read: Mapping[str, int]


def select_pairs(
    order: SelectSnapshot,
    recipe: PreferringRecipe | RewardRecipe,
    forbidden: frozenset[Words],
    leaks: Callable[[str], bool],
    taught: frozenset[Words],
    fits: Callable[[Opened, str], bool],
    context: Context,
) -> Selected:
    """`forbidden`: the words of questions that nothing is learned from; `leaks`: whether a question is nearly such; `taught`: the
    words of those to which the snapshot's rows teach the answer, by which it would be no news that it is preferred; `fits`: whether
    a prompt with that answer is short enough.
    A round whose snapshot is selected again reads what it read the first time. Raises Cancelled, Unavailable."""
    with postgres_trouble(), context.database.connect() as connection:
        read = cut_of_round(connection, order.round_id) or cut_now(connection)
        said = said_of_answers(connection, order.domain, read, order.pin)
        earlier = before(connection, {prompt.follows for prompt in said.prompts.values()})
    with postgres_trouble():
        found = preferred(said, earlier, context.keyring, order.domain, forbidden, recipe.person_share)
    held, too_long = list(found.held), dict[tuple[str, str], bool]()
    pairs, held_out = list[SnapshotPair](), list[SnapshotPair]()

    def is_long(prompt_id: str, answer_id: str) -> bool:
        at = (prompt_id, answer_id)
        if at not in too_long:
            asked = [(m["role"], m["content"]) for m in found.messages[prompt_id]]
            system = "\n".join(words for role, words in asked if role == "system")
            turns = [turn for turn in asked if turn[0] != "system"]
            opened = Opened(turns[-1][1], system or None, pairs_of(turns[:-1]))
            too_long[at] = not fits(opened, found.texts[answer_id])
        return too_long[at]

    for done, pair in enumerate(found.pairs):
        context.progress(order, "select", done, len(found.pairs))
        if leaks(found.messages[pair.better.prompt_id][-1]["content"]):
            held.append(Held(IN_THE_EXAM, pair.events))
        elif any(is_long(pair.better.prompt_id, side.answer_id) for side in (pair.better, pair.worse)):
            held.append(Held(TOO_LONG, pair.events))
        elif pair.held_out and words_of(found.messages[pair.better.prompt_id][-1]["content"]) in taught:
            held.append(Held(TAUGHT, pair.events))
        else:
            (held_out if pair.held_out else pairs).append(_sealed(pair, found.wholes, found.sealed))
    labels = [
        _labelled(label, found.wholes, found.sealed)
        for label in (found.ranked.labels if recipe.from_labels else ())
        if not label.held_out
        and not is_long(label.answer.prompt_id, label.answer.answer_id)
        and not leaks(found.messages[label.answer.prompt_id][-1]["content"])
    ]
    return Selected(tuple(pairs), tuple(held_out), tuple(labels), tuple(held), read)


def _labelled(label: Label, wholes: Mapping[str, Whole], sealed: Mapping[str, Sealed]) -> SnapshotLabel:
    return SnapshotLabel(
        prompt=wholes[label.answer.prompt_id],
        answer=sealed[label.answer.answer_id],
        answer_id=label.answer.answer_id,
        good=label.good,
        events=label.events,
        people=label.people,
    )


def _sealed(pair: Pair, wholes: Mapping[str, Whole], sealed: Mapping[str, Sealed]) -> SnapshotPair:
    better, worse = pair.better, pair.worse
    return SnapshotPair(
        ranking=pair.ranking,
        prompt=wholes[better.prompt_id],
        chosen=sealed[better.answer_id],
        rejected=sealed[worse.answer_id],
        chosen_id=better.answer_id,
        rejected_id=worse.answer_id,
        events=pair.events,
        people=pair.people,
    )
