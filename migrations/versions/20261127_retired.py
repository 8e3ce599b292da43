"""Exam questions and domains can be retired.

Revision ID: 20261127_retired
Revises: 20261124_first_tables
"""

import sqlalchemy as sa
from alembic import op

revision = "20261127_retired"
down_revision = "20261124_first_tables"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("domains", sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True), schema="noria")
    op.add_column("exam_items", sa.Column("retired_offset", sa.BigInteger(), nullable=True), schema="noria")
    op.add_column("exam_items", sa.Column("retired_reason", sa.Text(), nullable=True), schema="noria")


def downgrade() -> None:
    op.drop_column("exam_items", "retired_reason", schema="noria")
    op.drop_column("exam_items", "retired_offset", schema="noria")
    op.drop_column("domains", "retired_at", schema="noria")
