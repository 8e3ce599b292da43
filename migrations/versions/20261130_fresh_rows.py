"""What has come since a round was last asked for is kept as a row for each, apart from the state of its domain.

Revision ID: 20261130_fresh_rows
Revises: 20261129_last_read
"""

from collections.abc import Callable
from typing import Any

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "20261130_fresh_rows"
down_revision = "20261129_last_read"
branch_labels = None
depends_on = None

State = dict[str, Any]
KINDS = {"correction": "corrections", "preference": "preferences"}


def upgrade() -> None:
    op.create_table(
        "fresh",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("domain", "kind", "given_id", "person")),
        sa.PrimaryKeyConstraint("domain", "kind", "given_id", name="pk_fresh"),
        schema="noria",
    )
    insert = sa.text("INSERT INTO noria.fresh (domain, kind, given_id, person) VALUES (:domain, :kind, :id, :person)")

    def laid_out(domain: str, state: State) -> State:
        for kind, plural in KINDS.items():
            rows = [
                {"domain": domain, "kind": kind, "id": id_, "person": person}
                for id_, person in state["fresh"][plural].items()
            ]
            if rows:
                op.get_bind().execute(insert, rows)
        return {**state, "fresh": None}

    _restate(laid_out)


def downgrade() -> None:
    select = sa.text("SELECT kind, given_id, person FROM noria.fresh WHERE domain = :domain")

    def gathered(domain: str, state: State) -> State:
        fresh: State = {plural: {} for plural in KINDS.values()}
        for kind, id_, person in sorted(map(tuple, op.get_bind().execute(select, {"domain": domain}))):
            fresh[KINDS[kind]][id_] = person
        return {**state, "fresh": fresh}

    _restate(gathered)
    op.drop_table("fresh", schema="noria")


def _restate(change: Callable[[str, State], State]) -> None:
    """The states that are kept, as the log would give them now: they are compared byte by byte."""
    connection = op.get_bind()
    for key, body in connection.execute(sa.text("SELECT key, body FROM noria.states WHERE kind = 'domain'")).all():
        changed = msgspec.msgpack.encode(change(key, msgspec.msgpack.decode(body)))
        update = sa.text("UPDATE noria.states SET body = :body WHERE kind = 'domain' AND key = :key")
        connection.execute(update, {"body": changed, "key": key})
