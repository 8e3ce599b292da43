"""Which of the messages that a client sends stand on the log already.

Clients send a conversation whole, each time. What was recorded of it is found by digests under its person's own key: in memory,
which holds no words, or in the projections. Whatever is not found is recorded anew, so a miss costs space and nothing else.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from msgspec import Struct
from sqlalchemy import Engine, select

from api.chat_request import ChatRequest
from streams import schema
from streams.errors import Erased, Unavailable
from streams.sealed import Sealed
from streams.sealing import Keys, open_sealed
from streams.store import postgres_trouble

REMEMBERED = 50_000  # points, and conversations; some 30 MB


class Known(Struct, frozen=True):
    """The first `messages` of a request end at `point`, a reply or a prompt of a conversation; None: nothing is known of them."""

    messages: int = 0
    point: str | None = None
    conversation_id: str | None = None


class Turns:
    """The points where recorded conversations stand."""

    def __init__(self, database: Engine) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._points: OrderedDict[tuple[str | None, str], tuple[str, str]] = OrderedDict()
        self._owners: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def remember(self, chat: ChatRequest, so_far: str, point: str) -> None:
        """That `point` of the request's conversation was recorded."""
        with self._lock:
            # Once for those who name the conversation, and once for those who only send it.
            for named in (chat.conversation_id, None):
                self._points[named, so_far] = (point, chat.conversation_id)
                self._points.move_to_end((named, so_far))
            while len(self._points) > REMEMBERED:
                self._points.popitem(last=False)
            self._owners[chat.conversation_id] = (chat.person, chat.domain)
            self._owners.move_to_end(chat.conversation_id)
            while len(self._owners) > REMEMBERED:
                self._owners.popitem(last=False)

    def owner(self, conversation_id: str) -> tuple[str, str] | None:
        """The person and the domain of a conversation; None: nobody has spoken in it."""
        with self._lock:
            found = self._owners.get(conversation_id)
        if found is not None:
            return found
        prompts = schema.prompts.c
        with postgres_trouble(), self._database.connect() as connection:
            first = connection.execute(
                select(prompts.person, prompts.domain).where(prompts.conversation_id == conversation_id).limit(1)
            ).one_or_none()
        return (first.person, first.domain) if first is not None else None

    def known(self, chat: ChatRequest, digests: Sequence[str], keys: Keys) -> Known:
        """The longest beginning of the request that is recorded: of the conversation that it names or, if it names none, of any of
        this person in this domain, which it then goes on with. `digests`: of the request's messages, one by one."""
        earlier = len(chat.messages) - 1
        if all(message["role"] == "system" for message in chat.messages[:earlier]):
            return Known()
        named = None if chat.new_conversation else chat.conversation_id
        found = Known()
        with self._lock:
            for count in range(earlier, 0, -1):
                there = self._points.get((named, digests[count - 1]))
                if there is not None:
                    found = Known(count, *there)
                    break
        if found.messages < earlier:
            with suppress(Unavailable):
                return self._recorded(chat, named, digests[found.messages : earlier], found, keys)
        return found

    def _recorded(
        self, chat: ChatRequest, named: str | None, digests: Sequence[str], least: Known, keys: Keys
    ) -> Known:
        """What the projections know beyond `least`; `digests` are of the messages after it."""
        prompts, replies = schema.prompts.c, schema.replies.c
        query = select(prompts.so_far, prompts.prompt_id, prompts.conversation_id).where(prompts.so_far.in_(digests))
        if named is not None:
            query = query.where(prompts.conversation_id == named)
        with postgres_trouble(), self._database.connect() as connection:
            asked = {row.so_far: row for row in connection.execute(query)}
            if not asked:
                return least
            at = max(number for number, digest in enumerate(digests) if digest in asked)
            prompt = asked[digests[at]]
            answered = select(replies.reply_id, replies.text).where(replies.prompt_id == prompt.prompt_id)
            drafts = connection.execute(answered).all()
        count = least.messages + at + 1
        after = chat.messages[count]
        if after["role"] == "assistant":
            for draft in drafts:
                try:
                    words = open_sealed(msgspec.convert(draft.text, Sealed), keys)
                except Erased:
                    continue
                if words == after["content"]:
                    return Known(count + 1, draft.reply_id, prompt.conversation_id)
        return Known(count, prompt.prompt_id, prompt.conversation_id)
