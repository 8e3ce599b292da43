"""Each kind of process has a role of PostgreSQL's of its own, and no right that it does not need."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
from psycopg2.errors import InsufficientPrivilege
from psycopg2.extensions import cursor as Cursor

from migrations.roles import GRANTS, grant, passwords, url_of
from streams.connections import DOOR, ROLES, STREAM, WORKERS, Role
from streams.errors import Invalid
from streams.schema import MACHINE_SCHEMAS, machinery, projections
from streams.tables import LIVE

HELD = """
SELECT n.nspname || '.' || c.relname, a.privilege_type, pg_get_userbyid(a.grantee) FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN aclexplode(c.relacl) a ON a.grantee != c.relowner
WHERE c.relkind IN ('r', 'p', 'v', 'm') AND n.nspname = ANY(%s)
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "postgres-roles.json"


@pytest.fixture(scope="module")
def granted(database_url: str, kept: Path) -> str:
    grant(database_url, kept)
    return database_url


@contextmanager
def asking(url: str) -> Iterator[Cursor]:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        yield connection.cursor()
    finally:
        connection.close()


def differences(url: str) -> set[tuple[str, str, str]]:
    """What only the tables give, or only GRANTS says; and tables that have no row there."""
    with asking(url) as cursor:
        cursor.execute(HELD, ([LIVE, *MACHINE_SCHEMAS],))
        found = set(cursor.fetchall())
    held = {row for row in found if row[1] is not None}
    said = {
        (name, right, role)
        for name, rights_of in GRANTS.items()
        for role, rights in rights_of.items()
        for right in rights
    }
    return (held ^ said) | {(name, "no row", "") for name in {row[0] for row in found} ^ GRANTS.keys()}


def test_every_table_has_its_row_and_gives_what_stands_there(granted: str) -> None:
    assert set(GRANTS) == {t.fullname for metadata in (projections, machinery) for t in metadata.sorted_tables}
    assert differences(granted) == set()


def test_a_new_table_without_a_row_is_found(granted: str) -> None:
    with asking(granted) as cursor:
        cursor.execute("CREATE TABLE work.novelties (id int)")
        try:
            assert differences(granted) == {("work.novelties", "no row", "")}
        finally:
            cursor.execute("DROP TABLE work.novelties")


def test_what_was_given_by_hand_is_taken_back_and_a_schema_made_anew_is_given(granted: str, kept: Path) -> None:
    with asking(granted) as cursor:
        cursor.execute(f"GRANT ALL ON noria.events TO {DOOR}; REVOKE ALL ON work.claims FROM {WORKERS}")
    assert differences(granted)
    before = passwords(kept)
    grant(granted, kept)
    assert differences(granted) == set() and passwords(kept) == before


REFUSED: list[tuple[Role, str]] = [
    *((DOOR, f"DELETE FROM {LIVE}.{table.name}") for table in projections.sorted_tables),
    (DOOR, "INSERT INTO noria.states (kind, key, body) VALUES ('domain', 'd', '')"),
    (DOOR, "SELECT * FROM noria.states"),
    (DOOR, "UPDATE noria.domains SET title = ''"),
    (DOOR, "TRUNCATE noria.events"),
    (DOOR, "SELECT * FROM noria.outbox"),
    (DOOR, "SELECT * FROM work.claims"),
    (DOOR, "DELETE FROM work.places"),
    (DOOR, "UPDATE work.routes SET release = 1"),
    (DOOR, "INSERT INTO work.engines (engine_id) VALUES ('e')"),
    (DOOR, "DELETE FROM keyring.person_keys"),
    (DOOR, "DELETE FROM access.api_keys"),
    (STREAM, "SELECT * FROM access.api_keys"),
    (STREAM, "SELECT * FROM access.sessions"),
    (STREAM, "SELECT * FROM work.claims"),
    (STREAM, "DELETE FROM noria.events"),
    (STREAM, "UPDATE noria.events SET source = ''"),
    (STREAM, "DELETE FROM keyring.person_keys"),
    (WORKERS, "SELECT * FROM access.api_keys"),
    (WORKERS, "INSERT INTO noria.states (kind, key, body) VALUES ('domain', 'd', '')"),
    (WORKERS, "UPDATE noria.rounds SET step = 'released'"),
    (WORKERS, "UPDATE noria.exam_items SET kind = ''"),
    (WORKERS, "UPDATE keyring.person_keys SET wrapped = ''"),
    (WORKERS, "INSERT INTO work.doors (door_id) VALUES ('d')"),
    *(
        (role, statement)
        for role in ROLES
        for statement in (
            "CREATE SCHEMA noria_shadow",
            "CREATE TABLE noria.mine (id int)",
            "DROP TABLE noria.events",
            "CREATE ROLE mine",
            "SELECT * FROM public.alembic_version",
            "SELECT rolpassword FROM pg_authid",
            "COPY noria.domains TO PROGRAM 'cat'",
        )
    ),
]


@pytest.mark.parametrize(("role", "statement"), REFUSED)
def test_what_a_process_has_no_business_with_is_refused(granted: str, kept: Path, role: Role, statement: str) -> None:
    with asking(url_of(role, granted, kept)) as cursor, pytest.raises(InsufficientPrivilege):
        cursor.execute(statement)


def test_the_door_vacuums_the_keyring_after_an_erasure(granted: str, kept: Path) -> None:
    with asking(url_of(DOOR, granted, kept)) as cursor:
        cursor.execute("VACUUM keyring.person_keys")
        assert not cursor.connection.notices  # who may not is only warned


def test_the_passwords_are_for_their_owner_only_and_no_two_roles_share_one(granted: str, kept: Path) -> None:
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert len(set(passwords(kept).values())) == len(ROLES)
    with asking(granted) as cursor:
        cursor.execute("SELECT rolpassword FROM pg_authid WHERE rolname = ANY(%s)", (list(ROLES),))
        assert all(said.startswith("SCRAM-SHA-256$") for (said,) in cursor.fetchall())


def test_a_file_of_passwords_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "postgres-roles.json"
    passwords(path)
    path.chmod(0o644)
    with pytest.raises(Invalid, match="0600"):
        passwords(path)
