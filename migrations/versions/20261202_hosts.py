"""What is under way says on which host, and a route which decision it follows from, so that no older one moves it.

What stands there belongs to the one host that there was: this one. Routes begin below every decision.

Revision ID: 20261202_hosts
Revises: 20261201_decisions
"""

import os
import socket

import sqlalchemy as sa
from alembic import op

revision = "20261202_hosts"
down_revision = "20261201_decisions"
branch_labels = None
depends_on = None


def upgrade() -> None:
    host = os.environ.get("NORIA_HOST") or socket.gethostname()
    here = sa.text("UPDATE work.engines SET host = :host").bindparams(host=host)
    op.add_column("claims", sa.Column("host", sa.Text(), nullable=True), schema="work")
    op.add_column("claims", sa.Column("release", sa.Integer(), nullable=True), schema="work")
    op.add_column("claims", sa.Column("decided_offset", sa.BigInteger(), nullable=True), schema="work")
    op.create_index(
        "ix_claims_decided",
        "claims",
        ["domain", "decided_offset"],
        schema="work",
        postgresql_where=sa.text("kind = 'swap_release'"),
    )
    op.execute(
        "UPDATE work.claims c SET release = (b.data ->> 'release')::int, decided_offset = b.decided_offset FROM ("
        " SELECT o.order_id, o.said -> 'data' AS data, e.\"offset\" AS decided_offset FROM ("
        "  SELECT order_id, convert_from(body, 'UTF8')::jsonb AS said FROM work.claims WHERE kind = 'swap_release'"
        " ) o LEFT JOIN noria.events e ON e.event_id = o.said ->> 'causationid') b WHERE b.order_id = c.order_id"
    )
    op.add_column("engines", sa.Column("host", sa.Text(), nullable=True), schema="work")
    op.add_column("engines", sa.Column("held_until", sa.DateTime(timezone=True), nullable=True), schema="work")
    op.execute(here)
    op.add_column(
        "routes", sa.Column("decided_offset", sa.BigInteger(), nullable=False, server_default="0"), schema="work"
    )
    op.alter_column("routes", "decided_offset", server_default=None, schema="work")
    for table in ("doors", "places"):
        op.add_column(table, sa.Column("host", sa.Text(), nullable=False, server_default=host), schema="work")
        op.alter_column(table, "host", server_default=None, schema="work")
    op.drop_constraint("pk_places", "places", schema="work")
    op.create_primary_key("pk_places", "places", ["host", "place"], schema="work")


def downgrade() -> None:
    op.execute("DELETE FROM work.places p USING work.places q WHERE q.place = p.place AND q.host > p.host")
    op.drop_constraint("pk_places", "places", schema="work")
    op.create_primary_key("pk_places", "places", ["place"], schema="work")
    for table in ("doors", "places"):
        op.drop_column(table, "host", schema="work")
    op.drop_column("routes", "decided_offset", schema="work")
    op.drop_column("engines", "held_until", schema="work")
    op.drop_column("engines", "host", schema="work")
    op.drop_index("ix_claims_decided", "claims", schema="work")
    for column in ("decided_offset", "release", "host"):
        op.drop_column("claims", column, schema="work")
