"""What keeps the record: the master key rotated. It looks at this machine's files, not through the door."""

import os

import click
import msgspec

from api.cli.context import json_option, print_json
from streams.errors import Invalid, Unavailable
from streams.sealing import Keyring, MasterKey
from streams.settings import Settings, from_env
from streams.store import open_engine, postgres_trouble


def running_settings() -> Settings:
    """Raises Unavailable when nothing runs whose addresses are known."""
    try:
        return from_env(os.environ)
    except Invalid as error:
        raise Unavailable(str(error)) from error


@click.group("keys", short_help="The master key, which wraps all person keys.")
def keys_group() -> None:
    """The master key: a file apart from everything else, which wraps the key of every person."""


@keys_group.command("rotate")
@json_option
def rotate(as_json: bool) -> None:
    """Make a new master key, wrap every person key anew under it, and remove the old one from its file.

    What runs goes on meanwhile. If it is broken off, the next call finishes it. A backup that was made before needs the old master
    key: keep a copy of it beside no backup, or destroy it, and that backup opens nobody's words any more.

    \b
    Example: noria keys rotate
    """
    settings = running_settings()
    if not settings.master_key.exists():
        raise Invalid(f"there is no master key file {settings.master_key.name}")
    engine = open_engine(settings.database_url)
    try:
        with postgres_trouble():
            rotated = Keyring(engine, MasterKey(settings.master_key)).rotate()
    finally:
        engine.dispose()
    if as_json:
        print_json(msgspec.to_builtins(rotated))
    else:
        click.echo(f"{rotated.keys} keys wrapped anew; the master key in force is {rotated.master_key}")


COMMANDS = [keys_group]
