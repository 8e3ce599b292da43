"""A policy says what is kept; a round says when its model was removed.

Revision ID: 20261128_what_is_kept
Revises: 20261127_how_it_was_asked
"""

from collections.abc import Callable
from typing import Any

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "20261128_what_is_kept"
down_revision = "20261128_who_may_do_what"
branch_labels = None
depends_on = None

KEEP = {"releases": 4, "refused": 2}
State = dict[str, Any]


def upgrade() -> None:
    op.add_column("rounds", sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True), schema="noria")
    _restate(lambda state: _of_policies(state, lambda policy: {**policy, "keep": KEEP}) | {"going": None})
    op.execute(
        "UPDATE noria.domains SET policy = policy || jsonb_build_object('keep', jsonb_build_object("
        f"'releases', {KEEP['releases']}, 'refused', {KEEP['refused']}))"
    )


def downgrade() -> None:
    op.execute("UPDATE noria.domains SET policy = policy - 'keep'")
    _restate(lambda state: _without(_of_policies(state, lambda policy: _without(policy, "keep")), "going"))
    op.drop_column("rounds", "removed_at", schema="noria")


def _of_policies(state: State, change: Callable[[State], State]) -> State:
    round_ = state["round"]
    if round_ is not None:
        round_ = {**round_, "policy": change(round_["policy"])}
    return {**state, "policy": change(state["policy"]), "round": round_}


def _without(found: State, name: str) -> State:
    return {key: value for key, value in found.items() if key != name}


def _restate(change: Callable[[State], State]) -> None:
    """The states that are kept, as the log would give them now: they are compared byte by byte."""
    connection = op.get_bind()
    for key, body in connection.execute(sa.text("SELECT key, body FROM noria.states WHERE kind = 'domain'")).all():
        changed = msgspec.msgpack.encode(change(msgspec.msgpack.decode(body)))
        update = sa.text("UPDATE noria.states SET body = :body WHERE kind = 'domain' AND key = :key")
        connection.execute(update, {"body": changed, "key": key})
