"""What a teacher answered is kept, so that nothing is paid twice.

Revision ID: 20261205_teacher_calls
Revises: 20261204_vectors
"""

from alembic import op

revision = "20261205_teacher_calls"
down_revision = "20261204_vectors"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE TABLE IF NOT EXISTS work.teacher_calls (call varchar(64) NOT NULL, domain text NOT NULL, build_id text NOT NULL,"
        " answer jsonb NOT NULL, made_at timestamptz NOT NULL, CONSTRAINT pk_teacher_calls PRIMARY KEY (call))"
    )


def downgrade() -> None:
    op.execute("DROP TABLE work.teacher_calls")
