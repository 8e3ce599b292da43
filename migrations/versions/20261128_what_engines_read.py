"""An engine's row says what its model takes for control tokens, and how many tokens it reads.

Revision ID: 20261128_what_engines_read
Revises: 20261127_plans
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261128_what_engines_read"
down_revision = "20261127_plans"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("engines", sa.Column("control_tokens", postgresql.ARRAY(sa.Text()), nullable=True), schema="work")
    op.add_column("engines", sa.Column("context_tokens", sa.Integer(), nullable=True), schema="work")


def downgrade() -> None:
    op.drop_column("engines", "context_tokens", schema="work")
    op.drop_column("engines", "control_tokens", schema="work")
