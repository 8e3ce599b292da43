"""The kept states of conversations know the newest correction of each reply, as a replay of the log would give them.

Revision ID: 20261127_corrected
Revises: 20261127_retired
"""

from typing import Any
from uuid import UUID, uuid5

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "20261127_corrected"
down_revision = "20261127_retired"
branch_labels = None
depends_on = None

GIVEN = (
    "SELECT f.conversation_id, f.reply_id, f.prompt_id, f.person, f.event_id FROM noria.feedback f"
    " JOIN noria.events e USING (event_id) WHERE f.kind = 'correction' ORDER BY e.\"offset\""
)


def upgrade() -> None:
    connection = op.get_bind()
    states: dict[str, dict[str, Any]] = {}
    for given in connection.execute(sa.text(GIVEN)).all():
        state = states.get(given.conversation_id) or _state(given.conversation_id)
        draft = state["drafts"].get(given.reply_id)
        if draft is not None and given.prompt_id in state["prompts"]:
            draft.setdefault("corrected", {})[given.person] = str(uuid5(UUID(given.event_id), "example"))
            states[given.conversation_id] = state
    _keep(states)


def downgrade() -> None:
    connection = op.get_bind()
    states = {}
    for key in connection.execute(sa.text("SELECT DISTINCT conversation_id FROM noria.feedback")).scalars().all():
        states[key] = _state(key)
        for draft in states[key]["drafts"].values():
            draft.pop("corrected", None)
    _keep(states)


def _state(conversation_id: str) -> dict[str, Any]:
    query = sa.text("SELECT body FROM noria.states WHERE kind = 'conversation' AND key = :key")
    body = op.get_bind().execute(query, {"key": conversation_id}).scalar_one()
    state: dict[str, Any] = msgspec.msgpack.decode(body)
    return state


def _keep(states: dict[str, dict[str, Any]]) -> None:
    update = sa.text("UPDATE noria.states SET body = :body WHERE kind = 'conversation' AND key = :key")
    for key, state in states.items():
        op.get_bind().execute(update, {"body": msgspec.msgpack.encode(state), "key": key})
