"""The first tables: projections, keyring, access and work.

Revision ID: 20261124_first_tables
Revises:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261124_first_tables"
down_revision = None
branch_labels = None
depends_on = None

SCHEMAS = ("noria", "keyring", "access", "work")


def upgrade() -> None:
    for schema in SCHEMAS:
        op.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    op.create_table(
        "domains",
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("languages", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("system_prompt", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("policy", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("live_release", sa.Integer(), nullable=True),
        sa.Column("round_id", sa.Text(), nullable=True),
        sa.Column("corrections", sa.Integer(), nullable=False),
        sa.Column("preferences", sa.Integer(), nullable=False),
        sa.Column("people", sa.Integer(), nullable=False),
        sa.Column("due", sa.Boolean(), nullable=False),
        sa.Column("missing", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("wake_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("domain", name=op.f("pk_domains")),
        schema="noria",
    )
    op.create_table(
        "erasures",
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("kids", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("domain", "person", name=op.f("pk_erasures")),
        schema="noria",
    )
    op.create_table(
        "events",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=True),
        sa.Column("correlation_id", sa.Text(), nullable=False),
        sa.Column("causation_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_events")),
        schema="noria",
    )
    op.create_index(op.f("ix_events_domain_time"), "events", ["domain", "time"], unique=False, schema="noria")
    op.create_index(
        op.f("ix_events_topic_partition_offset"),
        "events",
        ["topic", "partition", "offset"],
        unique=False,
        schema="noria",
    )
    op.create_table(
        "exam_items",
        sa.Column("item_id", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("item", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("added_offset", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("item_id", name=op.f("pk_exam_items")),
        schema="noria",
    )
    op.create_index(
        op.f("ix_exam_items_domain_added_offset"),
        "exam_items",
        ["domain", "added_offset"],
        unique=False,
        schema="noria",
    )
    op.create_table(
        "examples",
        sa.Column("example_id", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("prompt", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("answer", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("said_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("prompt_id", sa.Text(), nullable=True),
        sa.Column("accepted_offset", sa.BigInteger(), nullable=False),
        sa.Column("retired_offset", sa.BigInteger(), nullable=True),
        sa.Column("retired_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("example_id", name=op.f("pk_examples")),
        schema="noria",
    )
    op.create_index(
        op.f("ix_examples_domain_accepted_offset"),
        "examples",
        ["domain", "accepted_offset"],
        unique=False,
        schema="noria",
    )
    op.create_index(op.f("ix_examples_domain_person"), "examples", ["domain", "person"], unique=False, schema="noria")
    op.create_table(
        "feedback",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("reply_id", sa.Text(), nullable=False),
        sa.Column("prompt_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("rating", sa.Integer(), nullable=True),
        sa.Column("scale", sa.Text(), nullable=True),
        sa.Column("text", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("request_digest", sa.Text(), nullable=False),
        sa.Column("given_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_feedback")),
        schema="noria",
    )
    op.create_index(op.f("ix_feedback_domain_person"), "feedback", ["domain", "person"], unique=False, schema="noria")
    op.create_index(op.f("ix_feedback_reply_id"), "feedback", ["reply_id"], unique=False, schema="noria")
    op.create_table(
        "learned",
        sa.Column("round_id", sa.Text(), nullable=False),
        sa.Column("example_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("round_id", "example_id", name=op.f("pk_learned")),
        schema="noria",
    )
    op.create_index(op.f("ix_learned_example_id"), "learned", ["example_id"], unique=False, schema="noria")
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sa.UniqueConstraint("message_id"),
        schema="noria",
    )
    op.create_index(
        "ix_outbox_unsent", "outbox", ["id"], unique=False, schema="noria", postgresql_where=sa.text("sent_at IS NULL")
    )
    op.create_table(
        "positions",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("topic", "partition", name=op.f("pk_positions")),
        schema="noria",
    )
    op.create_table(
        "preferences",
        sa.Column("preference_id", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("prompt", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("chosen", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("rejected", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("prompt_id", sa.Text(), nullable=False),
        sa.Column("said_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("accepted_offset", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("preference_id", name=op.f("pk_preferences")),
        schema="noria",
    )
    op.create_index(
        op.f("ix_preferences_domain_accepted_offset"),
        "preferences",
        ["domain", "accepted_offset"],
        unique=False,
        schema="noria",
    )
    op.create_table(
        "prompts",
        sa.Column("prompt_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("messages", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("prompt_id", name=op.f("pk_prompts")),
        schema="noria",
    )
    op.create_index(
        op.f("ix_prompts_conversation_id_asked_at"),
        "prompts",
        ["conversation_id", "asked_at"],
        unique=False,
        schema="noria",
    )
    op.create_index(op.f("ix_prompts_domain_person"), "prompts", ["domain", "person"], unique=False, schema="noria")
    op.create_table(
        "releases",
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("round_id", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("golden_difference", sa.Float(), nullable=True),
        sa.Column("flip_ms", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("domain", "release", name=op.f("pk_releases")),
        schema="noria",
    )
    op.create_table(
        "replies",
        sa.Column("reply_id", sa.Text(), nullable=False),
        sa.Column("prompt_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("text", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("finish_reason", sa.Text(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("duration_s", sa.Float(), nullable=False),
        sa.Column("drafted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("reply_id", name=op.f("pk_replies")),
        schema="noria",
    )
    op.create_index(op.f("ix_replies_prompt_id"), "replies", ["prompt_id"], unique=False, schema="noria")
    op.create_table(
        "rounds",
        sa.Column("round_id", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("pin", sa.BigInteger(), nullable=False),
        sa.Column("base_release", sa.Integer(), nullable=False),
        sa.Column("snapshot", sa.Text(), nullable=True),
        sa.Column("kept", sa.Integer(), nullable=True),
        sa.Column("earlier", sa.Integer(), nullable=True),
        sa.Column("wordings", sa.Integer(), nullable=True),
        sa.Column("dropped", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("adapter", sa.Text(), nullable=True),
        sa.Column("golden", sa.Text(), nullable=True),
        sa.Column("loss", sa.Float(), nullable=True),
        sa.Column("evaluation", sa.Text(), nullable=True),
        sa.Column("verdict", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("release", sa.Integer(), nullable=True),
        sa.Column("progress", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("round_id", name=op.f("pk_rounds")),
        schema="noria",
    )
    op.create_index(op.f("ix_rounds_domain_number"), "rounds", ["domain", "number"], unique=False, schema="noria")
    op.create_table(
        "states",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "key", name=op.f("pk_states")),
        schema="noria",
    )
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("roles", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("hash"),
        schema="access",
    )
    op.create_table(
        "person_keys",
        sa.Column("kid", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("destroyed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("kid", name=op.f("pk_person_keys")),
        schema="keyring",
    )
    op.create_index(
        "uq_person_keys_subject",
        "person_keys",
        ["subject"],
        unique=True,
        schema="keyring",
        postgresql_where=sa.text("destroyed_at IS NULL"),
    )
    op.create_table(
        "claims",
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("order_id", name=op.f("pk_claims")),
        schema="work",
    )
    op.create_index(
        "ix_claims_open",
        "claims",
        ["received_at"],
        unique=False,
        schema="work",
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_table(
        "doors",
        sa.Column("door_id", sa.Text(), nullable=False),
        sa.Column("generations", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("in_flight", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("door_id", name=op.f("pk_doors")),
        schema="work",
    )
    op.create_table(
        "engines",
        sa.Column("engine_id", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("wanted", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("base_url", sa.Text(), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("engine_id", name=op.f("pk_engines")),
        schema="work",
    )
    op.create_table(
        "intake",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("topic", "partition", name=op.f("pk_intake")),
        schema="work",
    )
    op.create_table(
        "examined",
        sa.Column("evaluation", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("exam_items", sa.Integer(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("evaluation", name=op.f("pk_examined")),
        schema="work",
    )
    op.create_index(op.f("ix_examined_domain_model"), "examined", ["domain", "model"], unique=False, schema="work")
    op.create_table(
        "places",
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("kids", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("place", name=op.f("pk_places")),
        schema="work",
    )
    op.create_table(
        "routes",
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("engine_id", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("flipped_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["engine_id"], ["work.engines.engine_id"], name=op.f("fk_routes_engine_id")),
        sa.PrimaryKeyConstraint("domain", name=op.f("pk_routes")),
        schema="work",
    )


def downgrade() -> None:
    op.drop_table("routes", schema="work")
    op.drop_table("places", schema="work")
    op.drop_table("intake", schema="work")
    op.drop_index(op.f("ix_examined_domain_model"), table_name="examined", schema="work")
    op.drop_table("examined", schema="work")
    op.drop_table("engines", schema="work")
    op.drop_table("doors", schema="work")
    op.drop_index("ix_claims_open", table_name="claims", schema="work", postgresql_where=sa.text("state = 'open'"))
    op.drop_table("claims", schema="work")
    op.drop_index(
        "uq_person_keys_subject",
        table_name="person_keys",
        schema="keyring",
        postgresql_where=sa.text("destroyed_at IS NULL"),
    )
    op.drop_table("person_keys", schema="keyring")
    op.drop_table("api_keys", schema="access")
    op.drop_table("states", schema="noria")
    op.drop_index(op.f("ix_rounds_domain_number"), table_name="rounds", schema="noria")
    op.drop_table("rounds", schema="noria")
    op.drop_index(op.f("ix_replies_prompt_id"), table_name="replies", schema="noria")
    op.drop_table("replies", schema="noria")
    op.drop_table("releases", schema="noria")
    op.drop_index(op.f("ix_prompts_domain_person"), table_name="prompts", schema="noria")
    op.drop_index(op.f("ix_prompts_conversation_id_asked_at"), table_name="prompts", schema="noria")
    op.drop_table("prompts", schema="noria")
    op.drop_index(op.f("ix_preferences_domain_accepted_offset"), table_name="preferences", schema="noria")
    op.drop_table("preferences", schema="noria")
    op.drop_table("positions", schema="noria")
    op.drop_index("ix_outbox_unsent", table_name="outbox", schema="noria", postgresql_where=sa.text("sent_at IS NULL"))
    op.drop_table("outbox", schema="noria")
    op.drop_index(op.f("ix_learned_example_id"), table_name="learned", schema="noria")
    op.drop_table("learned", schema="noria")
    op.drop_index(op.f("ix_feedback_reply_id"), table_name="feedback", schema="noria")
    op.drop_index(op.f("ix_feedback_domain_person"), table_name="feedback", schema="noria")
    op.drop_table("feedback", schema="noria")
    op.drop_index(op.f("ix_examples_domain_person"), table_name="examples", schema="noria")
    op.drop_index(op.f("ix_examples_domain_accepted_offset"), table_name="examples", schema="noria")
    op.drop_table("examples", schema="noria")
    op.drop_index(op.f("ix_exam_items_domain_added_offset"), table_name="exam_items", schema="noria")
    op.drop_table("exam_items", schema="noria")
    op.drop_index(op.f("ix_events_topic_partition_offset"), table_name="events", schema="noria")
    op.drop_index(op.f("ix_events_domain_time"), table_name="events", schema="noria")
    op.drop_table("events", schema="noria")
    op.drop_table("erasures", schema="noria")
    op.drop_table("domains", schema="noria")
    for schema in SCHEMAS:
        op.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
