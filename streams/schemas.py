"""Schemas of projections: made anew, and put in the place of the live one in a moment, while it is read."""

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from streams import versions
from streams.parking import copy_parked
from streams.schema import projections
from streams.store import postgres_trouble
from streams.tables import LIVE, SHADOW, rights_of

BEFORE = "noria_before"  # what was live until the last swap, if somebody still reads it
CHANNELS = ("noria_positions", "noria_domains", "noria_outbox")


def loading_lock(schema: str) -> str:
    """Shared by whoever fills the schema; whoever makes it anew holds it alone."""
    return f"noria.loading.{schema}"


def create_schema(database: Engine, schema: str, *, parked_stay: bool = False) -> None:
    """Drop `schema` and make its tables anew, empty but for the keys that stand parked in the live ones, if they are to stay so.
    Waits for the end of whatever still fills it."""
    with postgres_trouble(), database.begin() as connection:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext(%s))", (loading_lock(schema),))
        connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
        projections.create_all(connection.execution_options(schema_translate_map={LIVE: schema}), checkfirst=False)
        if parked_stay:
            copy_parked(connection, schema)
        versions.write_down(connection, schema)


def put_live(connection: Connection) -> None:
    """Let the shadow be the live schema, with the rights that were given on that, and tell whoever listens.

    No table is locked: a statement that runs goes on with the old ones, the next reads the new ones. Those that were live stand as
    BEFORE until `drop_before`."""
    rights = connection.exec_driver_sql(
        "SELECT c.relname, a.privilege_type, pg_get_userbyid(a.grantee) AS role FROM pg_class c,"
        " aclexplode(c.relacl) a WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r'"
        " AND a.grantee != c.relowner AND a.grantee != 0",
        (LIVE,),
    ).all()
    users = connection.exec_driver_sql(
        "SELECT pg_get_userbyid(a.grantee) FROM pg_namespace n, aclexplode(n.nspacl) a"
        " WHERE n.nspname = %s AND a.privilege_type = 'USAGE' AND a.grantee != n.nspowner AND a.grantee != 0",
        (LIVE,),
    ).scalars()
    quoted = connection.dialect.identifier_preparer.quote
    usage = [quoted(user) for user in users]
    connection.exec_driver_sql(f"ALTER SCHEMA {LIVE} RENAME TO {BEFORE}")
    connection.exec_driver_sql(f"ALTER SCHEMA {SHADOW} RENAME TO {LIVE}")
    for user in usage:
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {LIVE} TO {user}")
    for table, right, role in rights:
        if f"{LIVE}.{table}" in projections.tables:
            connection.exec_driver_sql(f"GRANT {right} ON {LIVE}.{quoted(table)} TO {quoted(role)}")
    for new in projections.sorted_tables:  # or changed: what its declaration says
        for role, words in rights_of(new).items():
            if role in usage:
                connection.exec_driver_sql(f"GRANT {', '.join(sorted(words))} ON {new.fullname} TO {role}")
    for channel in CHANNELS:
        connection.exec_driver_sql(f"NOTIFY {channel}")


def drop_before(database: Engine, patience_ms: int = 5_000) -> bool:
    """Drop what was live before; False: somebody still reads it, the next rebuild drops it. 0: however long that takes."""
    try:
        with database.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {patience_ms}")
            connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {BEFORE} CASCADE")
    except OperationalError:
        return False
    return True
