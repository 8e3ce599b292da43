"""`noria quarantine`: what could not be read from the log."""

import base64

import click

from api.cli.context import json_option, moment, print_json, print_table, printable, the_door


@click.group("quarantine", short_help="Show what could not be read from the log.")
def quarantine_group() -> None:
    """Records that could not be read: they stopped nothing and had no effect, and they stand here with the reason."""


@quarantine_group.command("list")
@click.option("--limit", type=click.IntRange(1, 5000), default=50, show_default=True)
@json_option
def list_(limit: int, as_json: bool) -> None:
    """List what is in quarantine, the newest first: where each stood on the log, why it could not be read, and its size.

    \b
    Example: noria quarantine list
    """
    with the_door() as door:
        said = door.quarantine(limit)
    if as_json:
        print_json(said)
        return
    print_table(
        ["place", "when", "bytes", "reason"],
        [[row["place"], moment(row["time"]), row["bytes"], row["reason"]] for row in said["data"]],
        empty="nothing is in quarantine",
    )
    if len(said["data"]) < said["count"]:
        click.echo(f"{said['count']} in all", err=True)


@quarantine_group.command("show")
@click.argument("place", metavar="PLACE")
@click.option("--raw", is_flag=True, help="Only the bytes, as they stood on the log.")
@json_option
def show(place: str, raw: bool, as_json: bool) -> None:
    """Show the record that stood at PLACE, as `quarantine list` names it. Its bytes may hold people's words.

    \b
    Example: noria quarantine show noria.conversations-0@17
    """
    with the_door() as door:
        found = door.quarantined(place)
    value = base64.b64decode(found["value_base64"] or "")
    if raw:
        click.get_binary_stream("stdout").write(value)
        return
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['place']}, {moment(found['time'])}, {found['bytes']} bytes: {printable(found['reason'])}")
    click.echo(printable(value.decode("utf-8", "replace")))


COMMANDS = [quarantine_group]
