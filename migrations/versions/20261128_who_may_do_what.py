"""A key speaks as one person, is of some domains, expires, and was last used; and what the page's visitors hold in its place.

Keys that were made before go on naming whom they speak for.

Revision ID: 20261128_who_may_do_what
Revises: 20261127_how_it_was_asked
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261128_who_may_do_what"
down_revision = "20261127_how_it_was_asked"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("person", sa.Text(), nullable=True), schema="access")
    op.add_column("api_keys", sa.Column("domains", postgresql.ARRAY(sa.Text()), nullable=True), schema="access")
    op.add_column("api_keys", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True), schema="access")
    op.add_column("api_keys", sa.Column("used_at", sa.DateTime(timezone=True), nullable=True), schema="access")
    op.create_table(
        "sessions",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["access.api_keys.key_id"], name=op.f("fk_sessions_key_id")),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_sessions")),
        schema="access",
    )
    op.create_index(op.f("ix_sessions_expires_at"), "sessions", ["expires_at"], schema="access")


def downgrade() -> None:
    op.drop_table("sessions", schema="access")
    op.drop_column("api_keys", "used_at", schema="access")
    op.drop_column("api_keys", "expires_at", schema="access")
    op.drop_column("api_keys", "domains", schema="access")
    op.drop_column("api_keys", "person", schema="access")
