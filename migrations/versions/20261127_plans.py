"""Indexes for what is asked by person, by import and by time; feedback is counted as it comes, not each time somebody looks.

Revision ID: 20261127_plans
Revises: 20261127_corrected
"""

import sqlalchemy as sa
from alembic import op

revision = "20261127_plans"
down_revision = "20261127_corrected"
branch_labels = None
depends_on = None

IMPORTED = sa.text("type IN ('exam_item_added', 'example_accepted')")
QUARANTINED = sa.text("topic = 'noria.quarantine'")


def upgrade() -> None:
    op.create_index("ix_events_person_domain", "events", ["person", "domain"], schema="noria")
    op.create_index("ix_events_imported", "events", ["correlation_id"], schema="noria", postgresql_where=IMPORTED)
    op.drop_index("ix_feedback_domain_person", table_name="feedback", schema="noria")
    op.create_index("ix_feedback_person_kind_given_at", "feedback", ["person", "kind", "given_at"], schema="noria")
    op.create_index("ix_feedback_prompt_id", "feedback", ["prompt_id"], schema="noria")
    op.create_table(
        "feedback_counts",
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("domain", "kind", name=op.f("pk_feedback_counts")),
        schema="noria",
    )
    op.execute(
        "INSERT INTO noria.feedback_counts (domain, kind, number)"
        " SELECT domain, kind, count(*) FROM noria.feedback GROUP BY domain, kind"
    )
    op.drop_index("ix_examples_domain_person", table_name="examples", schema="noria")
    op.create_index("ix_examples_person_domain", "examples", ["person", "domain"], schema="noria")
    op.create_index(
        "ix_rounds_domain_requested_at_number", "rounds", ["domain", "requested_at", "number"], schema="noria"
    )
    op.create_index("ix_rounds_requested_at_number", "rounds", ["requested_at", "number"], schema="noria")
    op.create_index("ix_erasures_person", "erasures", ["person"], schema="noria")
    op.create_index("ix_outbox_quarantined", "outbox", ["made_at"], schema="noria", postgresql_where=QUARANTINED)
    op.create_index("ix_person_keys_subject", "person_keys", ["subject"], schema="keyring")
    op.create_index("ix_places_kids", "places", ["kids"], schema="work", postgresql_using="gin")


def downgrade() -> None:
    op.drop_index("ix_places_kids", table_name="places", schema="work", postgresql_using="gin")
    op.drop_index("ix_person_keys_subject", table_name="person_keys", schema="keyring")
    op.drop_index("ix_outbox_quarantined", table_name="outbox", schema="noria", postgresql_where=QUARANTINED)
    op.drop_index("ix_erasures_person", table_name="erasures", schema="noria")
    op.drop_index("ix_rounds_requested_at_number", table_name="rounds", schema="noria")
    op.drop_index("ix_rounds_domain_requested_at_number", table_name="rounds", schema="noria")
    op.drop_index("ix_examples_person_domain", table_name="examples", schema="noria")
    op.create_index("ix_examples_domain_person", "examples", ["domain", "person"], schema="noria")
    op.drop_table("feedback_counts", schema="noria")
    op.drop_index("ix_feedback_prompt_id", table_name="feedback", schema="noria")
    op.drop_index("ix_feedback_person_kind_given_at", table_name="feedback", schema="noria")
    op.create_index("ix_feedback_domain_person", "feedback", ["domain", "person"], schema="noria")
    op.drop_index("ix_events_imported", table_name="events", schema="noria", postgresql_where=IMPORTED)
    op.drop_index("ix_events_person_domain", table_name="events", schema="noria")
