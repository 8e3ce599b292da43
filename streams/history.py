"""The whole that a prompt ends: its event holds only what it added and names what it follows, and here that is put together.

A conversation is a tree: a person may ask again, change an earlier turn, or go on from another draft. So what is followed is one
point of it, a reply or a prompt, and never "the turn before".
"""

import hmac
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from streams.errors import Invalid
from streams.sealed import Sealed
from streams.sealing import Keys, PersonKey, open_sealed

Message = dict[str, str]


class Part(Struct, frozen=True, omit_defaults=True):
    """One piece of a whole. It opens to a JSON list of messages or, if it `is_reply`, to what the model answered."""

    sealed: Sealed
    is_reply: bool = False


Whole = tuple[Part, ...]  # the oldest first; the last is the prompt's own


class _Said(Struct, frozen=True):
    role: str
    content: str


_listed = msgspec.json.Decoder(list[_Said])


class Prompt(Struct, frozen=True):
    messages: Sealed
    follows: str | None


class Reply(Struct, frozen=True):
    text: Sealed
    prompt_id: str


class Before:
    """Every prompt and reply on the way from some points back to where their conversations began."""

    def __init__(self, prompts: Mapping[str, Prompt], replies: Mapping[str, Reply]) -> None:
        self._prompts = prompts
        self._replies = replies

    def whole(self, messages: Sealed, follows: str | None) -> Whole:
        """`messages` behind all that stands before them. Raises Invalid when what they follow is not there or follows itself,
        which only a foreign writer can have said."""
        parts, seen = [Part(messages)], set[str]()
        while follows is not None:
            if follows in seen:
                raise Invalid(f"{messages.ref} follows itself")
            seen.add(follows)
            reply = self._replies.get(follows)
            if reply is not None:
                parts.append(Part(reply.text, is_reply=True))
            prompt = self._prompts.get(follows if reply is None else reply.prompt_id)
            if prompt is None:
                raise Invalid(f"what {messages.ref} follows is not known")
            parts.append(Part(prompt.messages))
            follows = prompt.follows
        return tuple(reversed(parts))


def before(connection: Connection, points: Collection[str | None]) -> Before:
    """What stands before and at these points."""
    rows = connection.execute(
        text(
            "WITH RECURSIVE reached (point) AS (SELECT unnest(CAST(:points AS text[])) UNION"
            " SELECT p.follows FROM reached LEFT JOIN noria.replies r ON r.reply_id = reached.point"
            " JOIN noria.prompts p ON p.prompt_id = coalesce(r.prompt_id, reached.point) WHERE p.follows IS NOT NULL)"
            " SELECT r.reply_id, r.text, p.prompt_id, p.messages, p.follows"
            " FROM reached LEFT JOIN noria.replies r ON r.reply_id = reached.point"
            " JOIN noria.prompts p ON p.prompt_id = coalesce(r.prompt_id, reached.point)"
        ),
        {"points": sorted({point for point in points if point is not None})},
    ).all()
    prompts = {row.prompt_id: Prompt(msgspec.convert(row.messages, Sealed), row.follows) for row in rows}
    replies = {
        row.reply_id: Reply(msgspec.convert(row.text, Sealed), row.prompt_id)
        for row in rows
        if row.reply_id is not None
    }
    return Before(prompts, replies)


def open_whole(whole: Whole, keys: Keys) -> list[Message]:
    """The messages, in clear. Raises Erased, or Invalid if a part is not what it should be."""
    found: list[Message] = []
    for part in whole:
        words = open_sealed(part.sealed, keys)
        found += [{"role": "assistant", "content": words}] if part.is_reply else _messages(words, part.sealed.ref)
    return found


def open_question(messages: Sealed, keys: Keys) -> str:
    """The prompt alone, without what stands before it. Raises Erased, or Invalid if it is not a person's message."""
    listed = _messages(open_sealed(messages, keys), messages.ref)
    if not listed or listed[-1]["role"] != "user":
        raise Invalid(f"{messages.ref}: the last message is not the person's")
    return listed[-1]["content"]


def digests(domain: str, messages: Sequence[Message], key: PersonKey) -> list[str]:
    """For each message the digest of all up to and with it: equal for equal beginnings in one domain under one key, and nothing
    to anybody without the key."""
    return list(_digests(domain, messages, key))


def next_digest(so_far: str, message: Message, key: PersonKey) -> str:
    """The digest of what `so_far` is the digest of, and one message more."""
    return next(_digests(so_far, [message], key))


def _digests(so_far: str, messages: Iterable[Message], key: PersonKey) -> Iterator[str]:
    secret = hmac.digest(key.secret, b"noria: a conversation so far", "sha256")
    for message in messages:
        said = msgspec.json.encode((so_far, message["role"], message["content"]))
        so_far = hmac.digest(secret, said, "sha256").hex()
        yield so_far


def _messages(words: str, ref: str) -> list[Message]:
    try:
        return [{"role": said.role, "content": said.content} for said in _listed.decode(words)]
    except msgspec.MsgspecError:
        raise Invalid(f"{ref} does not open to a list of messages") from None
