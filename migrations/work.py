"""The schema `work`, made again where it was dropped: it holds no fact, what was done stands on the log.

Whoever notices it serves with a role that may make no table. So the owner leaves a function that makes exactly these tables, and
nothing else, with the rights that `migrations.roles` gives; it is written anew each time that migrations run.
"""

from sqlalchemy import Connection, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from migrations.roles import GRANTS, words_of_rights
from streams.connections import ROLES, WORKERS
from streams.schema import machinery
from streams.store import open_database, postgres_trouble

_TABLES = [table for table in machinery.sorted_tables if table.schema == "work"]


def make_work_again(database_url: str) -> bool:
    """Leave the function, and call it; whether anything was missing. Raises Unavailable."""
    database = open_database(database_url)
    try:
        with postgres_trouble(), database.begin() as connection:
            leave_function(connection)
            return bool(connection.execute(text("SELECT public.noria_make_work()")).scalar_one())
    finally:
        database.dispose()


def leave_function(connection: Connection) -> None:
    """With the rights of whoever calls this, for the workers to call."""
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('noria.migrations.work'))"))
    connection.exec_driver_sql(_function().replace("%", "%%"))
    connection.exec_driver_sql("REVOKE ALL ON FUNCTION public.noria_make_work() FROM PUBLIC")
    if connection.execute(text("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :r)"), {"r": WORKERS}).scalar_one():
        connection.exec_driver_sql(f"GRANT EXECUTE ON FUNCTION public.noria_make_work() TO {WORKERS}")


def _function() -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    made = [str(CreateTable(table, if_not_exists=True).compile(dialect=dialect)) for table in _TABLES]
    made += [
        str(CreateIndex(index, if_not_exists=True).compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
        for table in _TABLES
        for index in sorted(table.indexes, key=lambda index: str(index.name))
    ]
    names = ", ".join(f"'{table.name}'" for table in _TABLES)
    return f"""
CREATE OR REPLACE FUNCTION public.noria_make_work() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('noria.migrations.work'));
    IF (SELECT count(*) FROM pg_tables WHERE schemaname = 'work' AND tablename IN ({names})) = {len(_TABLES)} THEN
        RETURN false;
    END IF;
    CREATE SCHEMA IF NOT EXISTS work;
    {";".join(made)};
    {"".join(_granted(role) for role in ROLES)}
    RETURN true;
END
$body$"""


def _granted(role: str) -> str:
    """To a role that was given rights in this database."""
    rights = [
        f"GRANT {words_of_rights(rights_of[role])} ON {name} TO {role};"
        for name, rights_of in GRANTS.items()
        if name.startswith("work.") and role in rights_of
    ]
    given = " ".join([f"GRANT USAGE ON SCHEMA work TO {role};", *rights])
    return f"""
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}' AND has_schema_privilege(oid, 'noria', 'USAGE')) THEN
        {given}
    END IF;"""
