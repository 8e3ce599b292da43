"""`python -m migrations`: bring the database of NORIA_DATABASE_URL to the newest revision (or to the one named), and the
projections to what this code makes of the log: where other code made them they are rebuilt, and read as they were until then.

With `--roles FILE`: make a role for each kind of process, with what it may do (`migrations.roles`) and a password, kept in FILE.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from alembic import command
from alembic.config import Config

from migrations.roles import grant
from migrations.work import make_work_again
from streams.errors import Invalid, Unavailable
from streams.log import KafkaLog, LostHistory
from streams.replay import Rebuilt
from streams.settings import Settings, from_env
from streams.store import open_database, postgres_trouble
from streams.upgrade import upgrade


def config_for(database_url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["database_url"] = database_url
    return config


def wait_for_postgres(database_url: str, deadline_s: float) -> None:
    """Return once a connection is accepted. Raises Unavailable after `deadline_s`."""
    database = open_database(database_url)
    until = time.monotonic() + deadline_s
    while True:
        try:
            with postgres_trouble(), database.connect():
                break
        except Unavailable:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
    database.dispose()


def rebuild_projections(settings: Settings) -> Rebuilt | None:
    """Let the projections be those of this code; None: they are. Raises Unavailable, LostHistory or Invalid."""
    database = open_database(settings.database_url)
    try:
        return upgrade(database, lambda: KafkaLog(settings.kafka, "noria-migrations"))
    finally:
        database.dispose()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m migrations", description=__doc__)
    parser.add_argument("revision", nargs="?", default="head")
    parser.add_argument(
        "--roles", type=Path, metavar="FILE", help="make the processes' own roles; FILE keeps their passwords"
    )
    given = parser.parse_args()
    revision: str = given.revision
    try:
        settings = from_env(os.environ)
        database_url = settings.database_url
        wait_for_postgres(database_url, deadline_s=30)
    except (Invalid, Unavailable) as error:
        print(error, file=sys.stderr)
        return 1
    command.upgrade(config_for(database_url), revision)
    if revision == "head" and make_work_again(database_url):
        print("migrations: the schema work was not there, and is again")
    try:
        if revision == "head" and (rebuilt := rebuild_projections(settings)) is not None:
            print(f"migrations: the projections are made anew, from {rebuilt.records} events of the log")
        if given.roles is not None:
            grant(database_url, given.roles)
    except (Invalid, Unavailable, LostHistory) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"migrations: at {revision}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
