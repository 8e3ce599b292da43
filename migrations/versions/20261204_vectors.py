"""What was computed from the words of a memory is kept, sealed as they are, so that a restart need not compute it again.

Revision ID: 20261204_vectors
Revises: 20261203_parked
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261204_vectors"
down_revision = "20261203_parked"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "vectors",
        sa.Column("memory_id", sa.Text(), nullable=False),
        sa.Column("encoder", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("kids", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("words", sa.String(64), nullable=False),
        sa.Column("vectors", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("memory_id", "encoder", name="pk_vectors"),
        schema="work",
    )
    op.create_index("ix_vectors_domain_encoder", "vectors", ["domain", "encoder"], schema="work")
    op.create_index("ix_vectors_kids", "vectors", ["kids"], postgresql_using="gin", schema="work")


def downgrade() -> None:
    op.drop_table("vectors", schema="work")
