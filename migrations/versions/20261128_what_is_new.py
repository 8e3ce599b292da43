"""A prompt says what is new and what it follows, and each prompt has a state of its own.

Revision ID: 20261128_what_is_new
Revises: 20261127_how_it_was_asked
"""

from collections.abc import Iterator
from typing import Any

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "20261128_what_is_new"
down_revision = "20261128_engines_sleep"
branch_labels = None
depends_on = None

FOLLOWING = ("prompts", "examples", "preferences")
State = dict[str, Any]


def upgrade() -> None:
    for table in FOLLOWING:
        op.add_column(table, sa.Column("follows", sa.Text(), nullable=True), schema="noria")
    op.add_column("prompts", sa.Column("so_far", sa.Text(), nullable=True), schema="noria")
    op.create_index("ix_prompts_so_far", "prompts", ["so_far"], schema="noria")
    # The states that are kept, as the log would give them now: they are compared byte by byte.
    for conversation_id, state in _taken("conversation"):
        for prompt_id, exchange in _exchanges(state).items():
            _keep("exchange", msgspec.json.encode((conversation_id, prompt_id)).decode(), exchange)


def downgrade() -> None:
    talks: dict[str, State] = {}
    for key, exchange in _taken("exchange"):
        conversation_id, prompt_id = msgspec.json.decode(key, type=tuple[str, str])
        talk = talks.setdefault(conversation_id, {"prompts": {}, "drafts": {}})
        if "prompt" in exchange:
            talk["prompts"][prompt_id] = exchange["prompt"]
        for reply_id, draft in exchange.get("drafts", {}).items():
            talk["drafts"][reply_id] = {"prompt_id": prompt_id, **draft}
    for conversation_id, talk in talks.items():
        _keep("conversation", conversation_id, talk)
    op.drop_index("ix_prompts_so_far", table_name="prompts", schema="noria")
    op.drop_column("prompts", "so_far", schema="noria")
    for table in FOLLOWING:
        op.drop_column(table, "follows", schema="noria")


def _exchanges(talk: State) -> dict[str, State]:
    """By prompt: the prompt and its drafts, in the order in which they came."""
    found: dict[str, State] = {prompt_id: {"prompt": prompt} for prompt_id, prompt in talk["prompts"].items()}
    for reply_id, draft in talk["drafts"].items():
        exchange = found.setdefault(draft.pop("prompt_id"), {})
        exchange.setdefault("drafts", {})[reply_id] = draft
    return found


def _taken(kind: str) -> Iterator[tuple[str, State]]:
    """The states of that kind, one by one, each taken from its table: a long conversation's may have many megabytes."""
    keys = sa.text("SELECT key FROM noria.states WHERE kind = :kind ORDER BY key")
    take = sa.text("DELETE FROM noria.states WHERE kind = :kind AND key = :key RETURNING body")
    for key in op.get_bind().execute(keys, {"kind": kind}).scalars().all():
        body = op.get_bind().execute(take, {"kind": kind, "key": key}).scalar_one()
        yield key, msgspec.msgpack.decode(body)


def _keep(kind: str, key: str, state: State) -> None:
    insert = sa.text("INSERT INTO noria.states (kind, key, body) VALUES (:kind, :key, :body)")
    op.get_bind().execute(insert, {"kind": kind, "key": key, "body": msgspec.msgpack.encode(state)})
