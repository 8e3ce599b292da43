"""What a model answered is kept with how it was asked and scored; what was kept before does not say, and is asked again.

Revision ID: 20261127_how_it_was_asked
Revises: 20261128_what_engines_read
"""

import sqlalchemy as sa
from alembic import op

revision = "20261127_how_it_was_asked"
down_revision = "20261128_what_engines_read"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DELETE FROM work.examined")
    op.add_column("examined", sa.Column("form", sa.Text(), nullable=False), schema="work")


def downgrade() -> None:
    op.drop_column("examined", "form", schema="work")
