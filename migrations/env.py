"""Alembic's environment: an advisory lock, because two deployers may migrate at once, and short timeouts, because a
migration that waits for a lock makes everybody behind it wait too.

It keeps what is no projection: `keyring`, `access` and `work`. The first revisions made the projections, too; from there on
they come from their metadata, filled from the log (`streams.upgrade`)."""

from typing import Any

from alembic import context
from sqlalchemy import text

from streams.schema import MACHINE_SCHEMAS, machinery
from streams.store import open_database

OURS = set(MACHINE_SCHEMAS)


def ours(name: str | None, kind: str, parents: Any) -> bool:
    return name in OURS if kind == "schema" else True


database = open_database(context.config.attributes["database_url"])
with database.connect() as connection:
    connection.execute(text("SET lock_timeout = '10s'"))
    connection.execute(text("SET statement_timeout = '10min'"))
    connection.execute(text("SELECT pg_advisory_lock(hashtext('noria.migrations'))"))
    # The user is called as one of the schemas is, which would make that one the default.
    connection.execute(text("SET search_path TO public"))
    connection.commit()
    connection.dialect.default_schema_name = "public"
    try:
        context.configure(
            connection=connection,
            target_metadata=machinery,
            include_schemas=True,
            include_name=ours,
            version_table="alembic_version",
            version_table_schema="public",
            transaction_per_migration=True,
            compare_type=True,
            compare_server_default=False,
        )
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(hashtext('noria.migrations'))"))
        connection.commit()
database.dispose()
