"""An engine's row says when it was last used, so that one that nobody asks may sleep.

Revision ID: 20261128_engines_sleep
Revises: 20261128_what_is_kept
"""

import sqlalchemy as sa
from alembic import op

revision = "20261128_engines_sleep"
down_revision = "20261128_what_is_kept"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("engines", sa.Column("used_at", sa.DateTime(timezone=True), nullable=True), schema="work")


def downgrade() -> None:
    op.execute("UPDATE work.engines SET state = 'asked' WHERE state = 'asleep'")
    op.drop_column("engines", "used_at", schema="work")
