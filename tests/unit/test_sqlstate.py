"""Which errors of PostgreSQL go by themselves, which are what a record says, and which are bugs."""

from types import SimpleNamespace

import psycopg2
import psycopg2.errors
import pytest
from sqlalchemy import exc

from streams.errors import Unavailable
from streams.sqlstate import meaning_of, words_of
from streams.store import postgres_trouble


class Said(psycopg2.Error):
    """As the server says it: the code is all that tells."""

    def __init__(self, code: str | None) -> None:
        super().__init__("words of the server")
        self._code = code

    @property
    def pgcode(self) -> str | None:  # type: ignore[override]
        return self._code


@pytest.mark.parametrize(
    "code",
    [
        "08006",
        "25006",
        "40001",
        "40P01",
        "53100",
        "53200",
        "53300",
        "55P03",
        "57014",
        "57P01",
        "57P02",
        "57P03",
        "58030",
    ],
)
def test_what_goes_by_itself_is_asked_again(code: str) -> None:
    assert meaning_of(Said(code)) == "unavailable"
    with pytest.raises(Unavailable), postgres_trouble():
        raise Said(code)


@pytest.mark.parametrize("code", ["22003", "22008", "22021", "22P05", "54000", "54001"])
def test_what_a_record_says_is_its_own_trouble(code: str) -> None:
    assert meaning_of(Said(code)) == "content"
    with pytest.raises(Said), postgres_trouble():
        raise Said(code)


@pytest.mark.parametrize("code", ["0A000", "23502", "40002", "42P01", "42703", "55006", "XX000"])
def test_all_else_is_a_bug(code: str) -> None:
    assert meaning_of(Said(code)) == "bug"


def test_where_the_server_said_nothing_the_connection_is_broken() -> None:
    for error in (psycopg2.OperationalError(), psycopg2.InterfaceError(), psycopg2.DatabaseError()):
        assert meaning_of(error) == "unavailable"
    assert meaning_of(psycopg2.ProgrammingError("can't adapt type")) == "bug"


def test_an_error_is_the_same_within_sqlalchemys() -> None:
    for code, meaning in (("57P01", "unavailable"), ("54000", "content"), ("42P01", "bug")):
        assert meaning_of(exc.OperationalError("SELECT", None, Said(code))) == meaning
    assert meaning_of(exc.TimeoutError("QueuePool limit")) == "unavailable"


def test_a_number_beyond_any_column_is_content_and_what_has_nothing_to_do_with_it_a_bug() -> None:
    assert meaning_of(OverflowError()) == "content"
    assert meaning_of(ValueError()) == "bug"


@pytest.mark.parametrize(
    ("code", "named"),
    [("57014", "statement_timeout"), ("55P03", "lock_timeout"), ("53100", "no room left"), ("08006", "Said")],
)
def test_what_goes_by_itself_is_told_by_its_name_and_never_by_what_was_asked(code: str, named: str) -> None:
    for error in (Said(code), exc.OperationalError("SELECT 'words'", None, Said(code))):
        with pytest.raises(Unavailable, match=named) as told, postgres_trouble():
            raise error
        assert "words" not in str(told.value)
    assert words_of(exc.TimeoutError("QueuePool limit")) == "every connection to PostgreSQL is in use"


class Missing(psycopg2.errors.UndefinedTable):
    """As the server says it of a relation that is not there."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self._words = words

    pgcode = "42P01"  # type: ignore[assignment]

    @property
    def diag(self) -> SimpleNamespace:  # type: ignore[override]
        return SimpleNamespace(message_primary=self._words)


def test_of_the_tables_only_works_come_back_by_themselves() -> None:
    lost = Missing('relation "work.claims" does not exist')
    assert meaning_of(lost) == "unavailable"
    assert words_of(lost) == "the schema work was lost, and is to be made again"
    for other in ('relation "noria.rework" does not exist', 'relation "noria.domains" does not exist'):
        assert meaning_of(Missing(other)) == "bug"
