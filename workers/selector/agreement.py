"""One question, one answer: duplicates dropped and contradictions settled. Pure.

Of corrections of one question, the newest of each person counts. If these agree, one is kept; if not, what more than half
of the people say; and if no answer has that many, all are held back, because a model must not be taught to guess.
"""

from collections.abc import Sequence

from streams.alike import by_question, near, words_of
from streams.selection import Agreement
from workers.selector.candidates import Decision, Instruments, OpenExample

REPEATED = "said before by others, or by the same person"
REPLACED = "replaced by a newer correction of the same person"
OUTVOTED = "most people say otherwise"
HELD_BACK = "held back: people contradict each other"
KNOWN = "the release has learned it already"
SUPERSEDED = "superseded by newer corrections"


def judge(step: Agreement, candidates: Sequence[OpenExample], instruments: Instruments) -> list[Decision]:
    """As of every step. `neighbour`: the example that stands in its place."""
    return settle(candidates)


def settle(candidates: Sequence[OpenExample]) -> list[Decision]:
    """Decide on every candidate; the order of the result is that of `candidates`."""
    decided: dict[str, Decision] = {}
    for group in by_question(candidates, lambda one: (one.question, one.context)):
        for decision in _settle_question(group):
            decided[decision.example_id] = decision
    return [decided[candidate.example_id] for candidate in candidates]


def _settle_question(group: Sequence[OpenExample]) -> list[Decision]:
    newest: dict[str, OpenExample] = {}
    for candidate in sorted(group, key=lambda c: (c.said_at, c.example_id)):
        newest.pop(candidate.person, None)  # so that the order is that of the newest words
        newest[candidate.person] = candidate
    standing = list(newest.values())
    older = [c for c in group if newest[c.person] is not c]

    answers: list[list[OpenExample]] = []
    for candidate in standing:
        same = next((a for a in answers if near(words_of(a[0].answer), words_of(candidate.answer))), None)
        if same is None:
            answers.append([candidate])
        else:
            same.append(candidate)
    most = max(answers, key=len)
    agreed = len(answers) == 1 or 2 * len(most) > len(standing)

    decisions = []
    if agreed:
        # What has been learned already stays as it is; of what is new, the newest words are kept.
        winner = next((c for c in most if c.learned), most[-1])
        known = [c for c in older if c.learned and near(words_of(c.answer), words_of(winner.answer))]
        if not winner.learned and known:
            winner = known[0]
        decisions.append(Decision(winner.example_id, True))
    else:
        winner = None
        # The release goes on saying what it has learned until people agree on something else.
        decisions.extend(Decision(c.example_id, True) for c in group if c.learned)
    done = {d.example_id for d in decisions}
    for candidate in group:
        if candidate.example_id in done:
            continue
        if winner is None:
            reason = HELD_BACK
        elif near(words_of(candidate.answer), words_of(winner.answer)):
            reason = KNOWN if winner.learned else REPEATED
        elif candidate.learned:
            reason = SUPERSEDED
        else:
            reason = REPLACED if newest[candidate.person] is not candidate else OUTVOTED
        instead = None if winner is None else winner.example_id
        decisions.append(Decision(candidate.example_id, False, reason, neighbour=instead))
    return decisions
