"""Beside each position stands the last record that was read, so that a log that lost it is told from the one that was read.

Revision ID: 20261129_last_read
Revises: 20261128_rebuilt
"""

import sqlalchemy as sa
from alembic import op

revision = "20261129_last_read"
down_revision = "20261128_rebuilt"
branch_labels = None
depends_on = None

TABLES = (("noria", "positions"), ("work", "intake"))


def upgrade() -> None:
    for schema, table in TABLES:
        op.add_column(table, sa.Column("last_offset", sa.BigInteger(), nullable=True), schema=schema)
        op.add_column(table, sa.Column("last_digest", sa.String(64), nullable=True), schema=schema)


def downgrade() -> None:
    for schema, table in TABLES:
        op.drop_column(table, "last_digest", schema=schema)
        op.drop_column(table, "last_offset", schema=schema)
