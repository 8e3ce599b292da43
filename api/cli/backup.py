"""What keeps the record: backup, restore, and the master key rotated. It looks at this machine's files, not through the door."""

import os
from pathlib import Path

import click
import msgspec

from api.cli.context import json_option, print_json
from streams.errors import Invalid, Unavailable
from streams.settings import Settings, from_env, home_of


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
    from streams.sealing import Keyring, MasterKey
    from streams.store import open_database, postgres_trouble

    settings = running_settings()
    if not settings.master_key.exists():
        raise Invalid(f"there is no master key file {settings.master_key.name}")
    database = open_database(settings.database_url)
    try:
        with postgres_trouble():
            rotated = Keyring(database, MasterKey(settings.master_key)).rotate()
    finally:
        database.dispose()
    if as_json:
        print_json(msgspec.to_builtins(rotated))
    else:
        click.echo(f"{rotated.keys} keys wrapped anew; the master key in force is {rotated.master_key}")


@click.command("backup", short_help="Write log, keyring, access and artifacts to a folder.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@json_option
def backup(folder: Path, as_json: bool) -> None:
    """Write log, keyring, access and artifacts to DIR in one consistent cut, while everything runs. DIR is empty or not there.

    The master key is not in it: keep that apart. The journal of erasures (keys/erasures.jsonl, or NORIA_ERASURES) grows after the
    backup: keep its newest copy apart, too; a restore asks for it.

    \b
    Example: noria backup /backups/2026-11-28
    """
    from deploy import backup as making

    settings = running_settings()
    manifest = making.backup(settings, folder, lambda line: None if as_json else click.echo(line))
    if as_json:
        told = msgspec.to_builtins(manifest)
        print_json({name: told[name] for name in told if name != "files"} | {"bytes": manifest.bytes})
        return
    click.echo(
        f"{manifest.records} records and {len(manifest.artifacts)} artifacts, {manifest.bytes:,} bytes, in {folder}"
    )
    keys = ", ".join(manifest.master_keys) or "none"
    click.echo(
        f"not in it: master key {keys} ({settings.master_key}), and what is erased from now on ({settings.erasures})"
    )


@click.command("restore", short_help="Put a backup into an empty home.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option(
    "--erasures",
    "journals",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The newest journal of erasures; may be given several times.",
)
@click.option("--without-erasures", is_flag=True, help="There is no journal: whoever was erased since is back.")
@json_option
def restore(folder: Path, journals: tuple[Path, ...], without_erasures: bool, as_json: bool) -> None:
    """Put the backup in DIR into an empty NORIA_HOME (or the empty Kafka and PostgreSQL that are named).

    Nothing runs meanwhile. The master key must lie where it belongs (keys/master.key, or NORIA_MASTER_KEY). Who was erased after
    the backup, by the journal, is erased before anything serves. If it is broken off, the next call begins anew.

    \b
    Example: noria restore /backups/2026-11-28 --erasures /apart/erasures.jsonl
    """
    from deploy import restore as putting

    home = home_of(os.environ)
    own = Path(os.environ.get("NORIA_ERASURES") or home / "keys" / "erasures.jsonl")
    if without_erasures == bool(journals or own.exists()):
        raise click.UsageError("give the newest journal of erasures by --erasures, or say --without-erasures")
    given = None if without_erasures else journals
    done = putting.restore(home, folder, given, os.environ, lambda line: None if as_json else click.echo(line))
    if as_json:
        print_json(msgspec.to_builtins(done))
        return
    click.echo(
        f"{done.records} records, {done.keys} keys and {done.artifacts} artifacts are back;"
        f" {done.erased} keys that were erased since are not"
    )
    click.echo("`noria up` serves from it; `noria verify` compares the tables with the log")


COMMANDS = [keys_group, backup, restore]
