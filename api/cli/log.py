"""`noria log` and `noria rebuild`: whether the log still holds what was read of it, and beginning again from what it holds.

They look at Kafka and PostgreSQL themselves: the door may record nothing just then."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import msgspec

from api.cli.backup import running_settings
from api.cli.context import json_option, print_json, print_table

if TYPE_CHECKING:  # no other command waits for what these load
    from sqlalchemy import Engine

    from streams.log import KafkaLog


@contextmanager
def _log_and_tables() -> Iterator[tuple["KafkaLog", "Engine"]]:
    from streams.log import KafkaLog
    from streams.store import open_database

    settings = running_settings()
    database, log = open_database(settings.database_url), KafkaLog(settings.kafka, "noria-log")
    try:
        yield log, database
    finally:
        log.close()
        database.dispose()


@click.group("log", short_help="Whether the log still holds what was read of it.")
def log_group() -> None:
    """The log on Kafka, and how far it was read."""


@log_group.command("check")
@json_option
def check(as_json: bool) -> None:
    """Compare each partition with what was read of it: where it ends, and the last record.

    A log that lost its tail, was made anew or is another stops whatever reads and writes it; `noria rebuild` begins again from what
    it holds. Exit code 0: all is there. 1: something is not, and it is named.

    \b
    Example: noria log check
    """
    from streams import continuity
    from streams.store import postgres_trouble

    with _log_and_tables() as (log, database):
        with postgres_trouble(), database.connect() as connection:
            read = continuity.read_to(connection)
        found = continuity.look(log, read)
    lost = any(one.lost for one in found)
    if as_json:
        print_json({"sound": not lost, "partitions": msgspec.to_builtins(found)})
    else:
        print_table(
            ["partition", "read up to", "ends at", "lost"],
            [[one.place, one.read_to, one.end, one.lost] for one in found],
            empty="nothing was read yet",
        )
        if lost:
            click.echo(
                "noria: what is lost is lost, unless a backup has it (`noria restore`);"
                " `noria rebuild` goes on with what the log holds",
                err=True,
            )
    sys.exit(1 if lost else 0)


@click.command("rebuild", short_help="Let the tables be what the log says, whatever they were.")
@json_option
def rebuild(as_json: bool) -> None:
    """Read the log from its first event, and put what it says in the place of the tables. The way on after the log lost something,
    and after tables were damaged.

    Nothing need be stopped; until it is done the old tables are read. What the log implies and does not hold is said again, and
    orders are taken in anew: what was done is not done again. Erasures that the log lost are told to it again.

    \b
    Example: noria rebuild
    """
    from streams import replay

    with _log_and_tables() as (log, database):
        rebuilt = replay.rebuild_live(database, log, _progress(as_json))
        told = replay.tell_erasures(database, log, "rebuild")
    if as_json:
        print_json(msgspec.to_builtins(rebuilt) | {"erasures_told": told})
        return
    click.echo(f"{rebuilt.records} events, {rebuilt.records_per_s:,.0f} a second: the tables are what the log says")
    if told:
        click.echo(f"{told} erasures were not on the log, and are again")


def _progress(quiet: bool) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        if sys.stderr.isatty() and not quiet:
            click.echo(f"\r{done} of {total} events", nl=done == total, err=True)

    return tell


COMMANDS = [log_group, rebuild]
