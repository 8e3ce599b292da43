"""Six simulated people: they ask in their own words, rate, pick between drafts, and write the answer that is right.

All of it goes through the public API, as a page or a phone would.
"""

import random
import re
import time
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from msgspec import Struct

from api.client import BUSY, Answer, Door, NotNow, Piece, Refused, Source
from deploy.demo.domain import Fact

PEOPLE = ("ada", "bo", "chen", "dalia", "emeka", "fumiko")
ANSWER_TOKENS = 24  # people here stop reading early


class Said(Struct, frozen=True):
    """What one answer was, and what was recalled for it. `longest_pause_s`: until its first piece came, or from one piece to the
    next, or to its end."""

    conversation_id: str
    release: str
    reply_ids: tuple[str, ...]
    texts: tuple[str, ...]
    longest_pause_s: float
    recalled: tuple[Source, ...] = ()


class Acts(Struct):
    """How many acts people made; each is an event."""

    prompts: int = 0
    replies: int = 0
    ratings: int = 0
    picks: int = 0
    corrections: int = 0


def ask(
    door: Door,
    model: str,
    question: str,
    person: str,
    conversation_id: str | None = None,
    drafts: int = 1,
    temperature: float = 0.0,
    patience_s: float = 60.0,
    answer_tokens: int = ANSWER_TOKENS,
) -> Said:
    """One question, one answer (or several drafts); asked again for `patience_s` while the engine has enough to do."""
    until = time.monotonic() + patience_s
    while True:
        try:
            return _ask_once(door, model, question, person, conversation_id, drafts, temperature, answer_tokens)
        except NotNow as error:
            if error.code not in BUSY or time.monotonic() > until:
                raise
            time.sleep(1.0)


def _ask_once(
    door: Door,
    model: str,
    question: str,
    person: str,
    conversation_id: str | None,
    drafts: int,
    temperature: float,
    answer_tokens: int,
) -> Said:
    pieces: dict[int, list[str]] = {index: [] for index in range(drafts)}
    more = {"temperature": temperature, "max_tokens": answer_tokens}
    longest_pause_s, last_at = 0.0, time.monotonic()
    for got in door.chat(
        model,
        [{"role": "user", "content": question}],
        person=person,
        conversation_id=conversation_id,
        drafts=drafts,
        more=more,
    ):
        now = time.monotonic()
        longest_pause_s, last_at = max(longest_pause_s, now - last_at), now
        match got:
            case Piece(index, text):
                pieces[index].append(text)
            case Answer(conversation, release, reply_ids, recalled=recalled):
                texts = tuple("".join(pieces[i]) for i in range(drafts))
                return Said(conversation, release, reply_ids, texts, longest_pause_s, recalled)
    raise NotNow("the answer had no end")


def holds(answer: str, keys: Sequence[str]) -> bool:
    """Whether a person who knows the law would call the answer right: it holds one of the keys, as a word of its own."""
    said = unicodedata.normalize("NFKC", answer).casefold()
    return any(re.search(rf"(?<![\w.,]){re.escape(key.casefold())}(?![\w])", said) is not None for key in keys)


def correct_facts(
    door: Door, domain: str, facts: Sequence[Fact], apart_s: float, seen: Callable[[Acts, Fact], None]
) -> Acts:
    """Let the people ask about `facts` and correct each answer once; each comes `apart_s` after the one before.

    `seen` is told after each correction, and of which fact it was.
    """
    shares = [(person, facts[number :: len(PEOPLE)]) for number, person in enumerate(PEOPLE)]
    total = Acts()

    def live(place: int, person: str, share: Sequence[Fact]) -> None:
        chance = random.Random(person)  # no secret: the same life every time
        time.sleep(place * apart_s)
        for number, fact in enumerate(share):
            _correct(door, domain, person, fact, total, pick=number < 2, chance=chance)
            seen(total, fact)

    with ThreadPoolExecutor(len(PEOPLE), "person") as crowd:
        for done in [crowd.submit(live, place, *who) for place, who in enumerate(shares)]:
            done.result()
    return total


def _correct(door: Door, domain: str, person: str, fact: Fact, acts: Acts, pick: bool, chance: random.Random) -> None:
    """Ask in other words until patience ends, then write what is right."""
    conversation: str | None = None
    words = fact.en
    for wording in chance.sample(words.rewordings, len(words.rewordings)):
        said = ask(door, domain, wording, person, conversation)
        conversation = said.conversation_id
        acts.prompts, acts.replies = acts.prompts + 1, acts.replies + 1
        right = holds(said.texts[0], words.keys)
        door.feedback(said.reply_ids[0], person=person, rating="up" if right else "down")
        acts.ratings += 1
    drafts = 2 if pick else 1
    said = ask(door, domain, words.question, person, conversation, drafts, temperature=0.7 if pick else 0.0)
    acts.prompts, acts.replies = acts.prompts + 1, acts.replies + drafts
    chosen = 0
    if pick:
        chosen = next((i for i, text in enumerate(said.texts) if holds(text, words.keys)), 0)
        door.feedback(said.reply_ids[chosen], person=person, pick=True)
        acts.picks += 1
    try:
        door.feedback(said.reply_ids[chosen], person=person, correction=words.answer)
    except Refused as error:
        if error.status != 422:
            raise
        return  # the model had said exactly that
    acts.corrections += 1
