"""A policy says for how many days a release is kept that answered; what was removed is made again.

Revision ID: 20261128_rebuilt
Revises: 20261128_fresh
"""

from collections.abc import Callable
from typing import Any

import msgspec
import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "20261128_rebuilt"
down_revision = "20261128_fresh"
branch_labels = None
depends_on = None

DAYS = 7
State = dict[str, Any]


def upgrade() -> None:
    op.add_column("rounds", sa.Column("rebuild", JSONB(), nullable=True), schema="noria")
    op.create_index(
        "ix_events_went_live",
        "events",
        ["domain", "offset"],
        schema="noria",
        postgresql_where=sa.text("type IN ('release_finished', 'release_rolled_back')"),
    )
    _restate(lambda state: _of_keep(state, lambda keep: {**keep, "days": DAYS}) | {"rebuild": None})
    op.execute(f"UPDATE noria.domains SET policy = jsonb_set(policy, '{{keep,days}}', '{DAYS}')")


def downgrade() -> None:
    op.execute("UPDATE noria.domains SET policy = policy #- '{keep,days}'")
    _restate(lambda state: _without(_of_keep(state, lambda keep: _without(keep, "days")), "rebuild"))
    op.drop_index("ix_events_went_live", "events", schema="noria")
    op.drop_column("rounds", "rebuild", schema="noria")


def _of_keep(state: State, change: Callable[[State], State]) -> State:
    def of(policy: State) -> State:
        return {**policy, "keep": change(policy["keep"])}

    round_ = state["round"]
    if round_ is not None:
        round_ = {**round_, "policy": of(round_["policy"])}
    return {**state, "policy": of(state["policy"]), "round": round_}


def _without(found: State, name: str) -> State:
    return {key: value for key, value in found.items() if key != name}


def _restate(change: Callable[[State], State]) -> None:
    """The states that are kept, as the log would give them now: they are compared byte by byte."""
    connection = op.get_bind()
    for key, body in connection.execute(sa.text("SELECT key, body FROM noria.states WHERE kind = 'domain'")).all():
        changed = msgspec.msgpack.encode(change(msgspec.msgpack.decode(body)))
        update = sa.text("UPDATE noria.states SET body = :body WHERE kind = 'domain' AND key = :key")
        connection.execute(update, {"body": changed, "key": key})
