"""`noria quarantine`: what could not be read from the log, and what was parked because it met a bug."""

import base64
from typing import Any

import click

from api.cli.context import json_option, moment, print_json, print_table, printable, shown, the_door


@click.group("quarantine", short_help="Show what could not be read from the log.")
def quarantine_group() -> None:
    """Records that could not be read, and events that met a bug: they had no effect, and they stand here with the reason."""


@quarantine_group.command("list")
@click.option("--limit", type=click.IntRange(1, 5000), default=50, show_default=True)
@json_option
def list_(limit: int, as_json: bool) -> None:
    """List what is in quarantine, the newest first: where each stood on the log, why it is here, and its size; and what stands
    parked at present.

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
        [
            [row["place"], moment(row["time"]), None if row.get("parked") else row["bytes"], _reason(row)]
            for row in said["data"]
        ],
        empty="nothing is in quarantine",
    )
    if len(said["data"]) < said["count"]:
        click.echo(f"{said['count']} in all", err=True)
    for skip in said["skips"]:
        click.echo(f"let past: {skip['partition']} to @{skip['to']}, by {shown(skip['by'])}, {moment(skip['at'])}")
    for line in (*parked_lines(said), *stopped_lines(said)):
        click.echo(line)


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
    size = "" if found.get("parked") else f", {found['bytes']} bytes"
    click.echo(f"{found['place']}, {moment(found['time'])}{size}: {printable(_reason(found))}")
    click.echo(printable(value.decode("utf-8", "replace")))


@quarantine_group.command("skip")
@click.argument("partition", metavar="TOPIC-PARTITION")
@click.option(
    "--to", type=click.IntRange(min=0), help="The last offset to let past. Left out: the last that stopped it."
)
@json_option
def skip(partition: str, to: int | None, as_json: bool) -> None:
    """Let the stream past more unreadable records than it goes past by itself, as `noria status` names them.

    They land in quarantine and do not count towards the limit; what can be read between them takes effect. Who said so, and up to
    where, stands on the log. The stream goes on within seconds.

    \b
    Examples:
      noria quarantine skip noria.conversations-0
      noria quarantine skip noria.conversations-0 --to 1842
    """
    with the_door() as door:
        said = door.skip_unreadable(partition, to)
    if as_json:
        print_json(said)
    elif said["to"] is None:
        click.echo(f"the stream does not stand still at {said['partition']}: nothing is skipped")
    else:
        what = f"what cannot be read of {said['partition']} up to @{said['to']} goes to quarantine"
        click.echo(f"{what}, recorded at {said['position']}")


def parked_lines(said: dict[str, Any]) -> list[str]:
    """What stands still at present because it met a bug; the rest goes on."""
    return [
        shown(
            f"parked since {moment(one['since'])}: {'domain' if one['kind'] == 'domain' else 'an exchange of'} {one['domain']}"
            f" stands still at {one['place']}, where Noria met a bug: {one['reason']}; a version that mends it takes it up"
        )
        for one in said.get("parked", ())
    ]


def _reason(row: dict[str, Any]) -> str:
    """Why something is in quarantine: it could not be read, or it could and was parked."""
    return f"parked, a bug: {row['reason']}" if row.get("parked") else str(row["reason"])


def stopped_lines(said: dict[str, Any]) -> list[str]:
    """Where the stream stands still, and what an operator can do."""
    return [
        f"the stream stands still since {moment(stop['at'])}: {stop['unreadable']} records of {stop['partition']},"
        f" from @{stop['first']} to @{stop['last']}, cannot be read; `noria quarantine skip {stop['partition']}` lets it past"
        for stop in said["stopped"]
    ]


COMMANDS = [quarantine_group]
