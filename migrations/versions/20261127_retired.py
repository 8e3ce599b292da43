"""Exam questions and domains can be retired.

Revision ID: 20261127_retired
Revises: 20261124_first_tables
"""

from collections.abc import Callable
from typing import Any

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "20261127_retired"
down_revision = "20261124_first_tables"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _restate(lambda state: {**state, "retired": False})
    op.add_column("domains", sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True), schema="noria")
    op.add_column("exam_items", sa.Column("retired_offset", sa.BigInteger(), nullable=True), schema="noria")
    op.add_column("exam_items", sa.Column("retired_reason", sa.Text(), nullable=True), schema="noria")


def downgrade() -> None:
    _restate(lambda state: {name: value for name, value in state.items() if name != "retired"})
    op.drop_column("exam_items", "retired_reason", schema="noria")
    op.drop_column("exam_items", "retired_offset", schema="noria")
    op.drop_column("domains", "retired_at", schema="noria")


def _restate(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The states that are kept, as the log would give them now: they are compared byte by byte."""
    connection = op.get_bind()
    for key, body in connection.execute(sa.text("SELECT key, body FROM noria.states WHERE kind = 'domain'")).all():
        changed = msgspec.msgpack.encode(change(msgspec.msgpack.decode(body)))
        update = sa.text("UPDATE noria.states SET body = :body WHERE kind = 'domain' AND key = :key")
        connection.execute(update, {"body": changed, "key": key})
