"""What is fresh knows where it was accepted: a round takes what stood before its pin, and leaves the rest for the next.

Revision ID: 20261201_decisions
Revises: 20261130_named_people
"""

import sqlalchemy as sa
from alembic import op

revision = "20261201_decisions"
down_revision = "20261130_named_people"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("fresh", sa.Column("offset", sa.BigInteger(), nullable=False, server_default="0"), schema="noria")
    for table, kind, key in (("examples", "correction", "example_id"), ("preferences", "preference", "preference_id")):
        op.execute(
            f'UPDATE noria.fresh f SET "offset" = t.accepted_offset FROM noria.{table} t'
            f" WHERE f.kind = '{kind}' AND t.{key} = f.given_id"
        )
    op.alter_column("fresh", "offset", server_default=None, schema="noria")


def downgrade() -> None:
    op.drop_column("fresh", "offset", schema="noria")
