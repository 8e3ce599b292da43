"""Which proposal is shown to whom at present.

Revision ID: 20261206_leases
Revises: 20261205_teacher_calls
"""

from alembic import op

revision = "20261206_leases"
down_revision = "20261205_teacher_calls"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE TABLE IF NOT EXISTS work.leases (proposal_id text NOT NULL, person text NOT NULL, domain text NOT NULL,"
        " skipped boolean NOT NULL, until timestamptz NOT NULL, CONSTRAINT pk_leases PRIMARY KEY (proposal_id, person))"
    )
    op.execute("CREATE INDEX IF NOT EXISTS ix_leases_domain_until ON work.leases (domain, until)")
    op.execute("CREATE INDEX IF NOT EXISTS ix_leases_person ON work.leases (person)")


def downgrade() -> None:
    op.execute("DROP TABLE work.leases")
