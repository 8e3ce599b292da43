"""What an error of PostgreSQL means, by its SQLSTATE: one table, for whoever asks again, quarantines or stops."""

import re
from typing import Literal

import psycopg2
from sqlalchemy import exc

# Ask again, in place: the server is away or out of something, or this transaction met another.
# What the record says is what no table holds: asking again does not help, and the next one may go on.
# Whatever is in neither is a bug of ours.
Meaning = Literal["unavailable", "content", "bug"]

_BY_BEGINNING: dict[str, Meaning] = {
    "08": "unavailable",  # the connection
    "22": "content",  # a value that cannot be what it is to be
    "25006": "unavailable",  # a server that only reads: another one leads by now
    "25P03": "unavailable",  # idle in a transaction for too long
    "25P04": "unavailable",  # a transaction took too long
    "40001": "unavailable",  # could not be made one after the other
    "40003": "unavailable",  # whether it was completed is not known
    "40P01": "unavailable",  # deadlock
    "53": "unavailable",  # full: disk, memory, connections
    "54": "content",  # beyond a limit: too long for an index, too deep
    "55P03": "unavailable",  # a lock was not to be had in time
    "57": "unavailable",  # shut down, crashed, not up yet, cancelled, taking too long
    "58": "unavailable",  # the system below: input or output
}


_WORDS = {
    "25P03": "PostgreSQL ended a transaction in which nothing was done for too long (idle_in_transaction_session_timeout)",
    "53100": "PostgreSQL has no room left on its disk",
    "53200": "PostgreSQL has no memory left",
    "53300": "PostgreSQL takes no more connections",
    "55P03": "PostgreSQL did not give a lock in time (lock_timeout)",
    "57014": "PostgreSQL ended a statement that took too long (statement_timeout)",
}


_OF_WORK = re.compile(r"\bwork\b")


def meaning_of(error: BaseException) -> Meaning:
    """Of an error of psycopg2's, or one of SQLAlchemy's around it. A Python number beyond any column is content, too."""
    if isinstance(error, exc.TimeoutError):
        return "unavailable"  # every connection of the pool is in use
    error = _said(error)
    if isinstance(error, OverflowError):
        return "content"
    if not isinstance(error, psycopg2.Error):
        return "bug"
    code = error.pgcode
    if code is None:
        # The server said nothing: a connection that was not made, or broke.
        broken = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
        return "unavailable" if broken or type(error) is psycopg2.DatabaseError else "bug"
    if is_work_lost(error):
        return "unavailable"
    return _BY_BEGINNING.get(code) or _BY_BEGINNING.get(code[:2], "bug")


def is_work_lost(error: BaseException) -> bool:
    """Whether the schema `work`, or a table of it, is not there: it was dropped, and whoever reconciles makes it again."""
    error = _said(error)
    if not isinstance(error, psycopg2.Error) or error.pgcode not in ("42P01", "3F000"):
        return False
    return _OF_WORK.search(error.diag.message_primary or "") is not None


def words_of(error: BaseException) -> str:
    """What is told of an error that is `unavailable`: never what was asked, which may hold somebody's words."""
    if isinstance(error, exc.TimeoutError):
        return "every connection to PostgreSQL is in use"
    error = _said(error)
    code = error.pgcode if isinstance(error, psycopg2.Error) else None
    if is_work_lost(error):
        return "the schema work was lost, and is to be made again"
    return _WORDS.get(code or "", f"PostgreSQL does not answer: {type(error).__name__}")


def _said(error: BaseException) -> BaseException:
    """By PostgreSQL, where SQLAlchemy only hands it on."""
    return error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
