"""A policy says how people count whom a service's key named; policies that were set before let each count.

Revision ID: 20261130_named_people
Revises: 20261130_fresh_rows
"""

from collections.abc import Callable
from typing import Any

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "20261130_named_people"
down_revision = "20261130_fresh_rows"
branch_labels = None
depends_on = None

State = dict[str, Any]
UNTIL = (
    """SELECT EXISTS (SELECT FROM noria.events WHERE type = 'policy_set' AND domain = :domain AND "offset" < :until)"""
)


def upgrade() -> None:
    op.add_column("fresh", sa.Column("service", sa.Text(), nullable=True), schema="noria")

    def ruled(domain: str, thresholds: State, until: int) -> State:
        was_set = op.get_bind().execute(sa.text(UNTIL), {"domain": domain, "until": until}).scalar_one()
        found: State = {}
        for name, value in thresholds.items():
            found[name] = value
            if name == "people":
                found["named_people"] = "each" if was_set else "one"
        return found

    _restate(ruled)


def downgrade() -> None:
    _restate(lambda domain, thresholds, until: {k: v for k, v in thresholds.items() if k != "named_people"})
    op.drop_column("fresh", "service", schema="noria")


def _restate(change: Callable[[str, State, int], State]) -> None:
    """The policies that are kept, as the log would give them now: they are compared byte by byte. `change` is told of the domain,
    of the thresholds, and before which offset they were set."""
    connection = op.get_bind()

    def of(domain: str, policy: State, until: int = 2**62) -> State:
        return {**policy, "thresholds": change(domain, policy["thresholds"], until)}

    for key, body in connection.execute(sa.text("SELECT key, body FROM noria.states WHERE kind = 'domain'")).all():
        state = msgspec.msgpack.decode(body)
        round_ = state["round"]
        if round_ is not None:
            round_ = {**round_, "policy": of(key, round_["policy"], round_["pin"])}
        changed = msgspec.msgpack.encode({**state, "policy": of(key, state["policy"]), "round": round_})
        update = sa.text("UPDATE noria.states SET body = :body WHERE kind = 'domain' AND key = :key")
        connection.execute(update, {"body": changed, "key": key})
    for domain, policy in connection.execute(sa.text("SELECT domain, policy FROM noria.domains")).all():
        update = sa.text("UPDATE noria.domains SET policy = CAST(:policy AS jsonb) WHERE domain = :domain")
        connection.execute(update, {"policy": msgspec.json.encode(of(domain, policy)).decode(), "domain": domain})
