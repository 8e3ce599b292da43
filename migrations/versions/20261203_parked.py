"""A key at which a bug was met stands parked, and the others go on.

Revision ID: 20261203_parked
Revises: 20261202_hosts
"""

from alembic import op

revision = "20261203_parked"
down_revision = "20261202_hosts"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A rebuild may have made it, or have left it out, whatever revision stands here.
    op.execute(
        "CREATE TABLE IF NOT EXISTS noria.parked (kind text NOT NULL, key text NOT NULL, domain text NOT NULL,"
        ' topic text NOT NULL, partition integer NOT NULL, "offset" bigint NOT NULL, reason text NOT NULL,'
        " since timestamptz NOT NULL DEFAULT now(), CONSTRAINT pk_parked PRIMARY KEY (kind, key))"
    )


def downgrade() -> None:
    op.execute("DROP TABLE IF EXISTS noria.parked")
