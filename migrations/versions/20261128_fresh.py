"""What has come since a round was last asked for is one part of a domain's state, in order of its ids.

Revision ID: 20261128_fresh
Revises: 20261128_what_is_new
"""

from collections.abc import Callable
from typing import Any

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "20261128_fresh"
down_revision = "20261128_what_is_new"
branch_labels = None
depends_on = None

State = dict[str, Any]
KINDS = ("corrections", "preferences")


def upgrade() -> None:
    _restate(_gathered)


def downgrade() -> None:
    _restate(_laid_out)


def _gathered(state: State) -> State:
    fresh = {kind: dict(sorted(state[kind].items())) for kind in KINDS}
    named = {"fresh" if name == "corrections" else name: value for name, value in state.items()}
    return {name: value for name, value in (named | {"fresh": fresh}).items() if name not in KINDS}


def _laid_out(state: State) -> State:
    found: State = {}
    for name, value in state.items():
        found |= value if name == "fresh" else {name: value}
    return found


def _restate(change: Callable[[State], State]) -> None:
    """The states that are kept, as the log would give them now: they are compared byte by byte."""
    connection = op.get_bind()
    for key, body in connection.execute(sa.text("SELECT key, body FROM noria.states WHERE kind = 'domain'")).all():
        changed = msgspec.msgpack.encode(change(msgspec.msgpack.decode(body)))
        update = sa.text("UPDATE noria.states SET body = :body WHERE kind = 'domain' AND key = :key")
        connection.execute(update, {"body": changed, "key": key})
