"""`noria key` and `noria page-link`: who may do what."""

import os
import re
from typing import Any

import click

from api.cli.context import json_option, moment, print_json, print_table, the_door
from api.client import page_url_of

_SPAN = re.compile(r"(\d{1,6})([mhdw])")
_UNITS_S = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class _Span(click.ParamType):
    """A length of time: 90m, 12h, 30d, 8w; in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = _SPAN.fullmatch(str(value))
        if found is None:
            self.fail("a length of time is a number and m, h, d or w, like 30d", param, ctx)
        return int(found[1]) * _UNITS_S[found[2]]


@click.group("key", short_help="Make, list or revoke keys of the door.")
def key_group() -> None:
    """Keys of the door: who may call it, as whom, and for which domains."""


@key_group.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice(["chat", "annotator", "data", "operator"]), default="chat", show_default=True)
@click.option("--service", is_flag=True, help="A chat key for a program that speaks for many: each request names whom.")
@click.option("-p", "--person", metavar="ID", help="Whom it speaks as (key:NAME when left out).")
@click.option("-d", "--domain", "domains", metavar="DOMAIN", multiple=True, help="Only this domain; may be repeated.")
@click.option(
    "--expires-in", "expires_in_s", type=_Span(), metavar="TIME", help="90m, 12h, 30d, 8w; never if left out."
)
@json_option
def create(
    name: str,
    role: str,
    service: bool,
    person: str | None,
    domains: tuple[str, ...],
    expires_in_s: int | None,
    as_json: bool,
) -> None:
    """Make a key and print it, once: it is not kept here, only its digest is.

    \b
    A chat key asks and gives feedback, as one person. An annotator's key sees the queue of proposed examples, judges them, and does
    nothing else. A data key also sees rounds, releases, events and data sets, and adds to
    them. An operator's key may do everything, and names the person with each request.

    \b
    Examples:
      noria key create ann-laptop --person ann --domain devices --expires-in 30d
      noria key create ward-app --service
      noria key create curators --role data --domain devices
      noria key create ida --role annotator --person ida --domain devices
    """
    body = {"name": name, "role": role, "service": service, "person": person, "expires_in_s": expires_in_s}
    with the_door() as door:
        made = door.create_key(body | {"domains": list(domains) or None})
    if as_json:
        print_json(made)
    else:
        click.echo(made["key"])


@key_group.command("list")
@click.option("--all", "all_", is_flag=True, help="Those that were revoked, too.")
@json_option
def list_(all_: bool, as_json: bool) -> None:
    """List keys, the newest first, with whom they speak as, for what, and when they were last used (to the minute).

    \b
    Example: noria key list
    """
    with the_door() as door:
        rows = [row for row in door.list_keys() if all_ or row["revoked_at"] is None]
    if as_json:
        print_json({"data": rows})
        return
    print_table(
        ["name", "role", "speaks as", "domains", "made", "expires", "last used", "revoked", "id"],
        [
            [
                row["name"],
                row["role"],
                row["person"] or "whom it names",
                "all" if row["domains"] is None else row["domains"],
                *(moment(row[at]) for at in ("created_at", "expires_at", "used_at", "revoked_at")),
                row["key_id"],
            ]
            for row in rows
        ],
    )


@key_group.command("revoke")
@click.argument("key", metavar="NAME|ID")
@json_option
def revoke(key: str, as_json: bool) -> None:
    """Revoke the key of that id, or every key of that name: the next request with it is refused, and the page's sessions end.

    \b
    Example: noria key revoke ann-laptop
    """
    with the_door() as door:
        said = door.revoke_key(key)
    if as_json:
        print_json(said)
    else:
        click.echo(f"revoked: {len(said['revoked'])}")


@click.command("page-link", short_help="Print a link that opens the page, once.")
@json_option
def page_link(as_json: bool) -> None:
    """Print a link that opens the page as the key in use here, once, within an hour.

    \b
    Examples:
      noria page-link
      NORIA_KEY=noria-… noria page-link
    """
    with the_door() as door:
        link = door.page_link(page_url_of(os.environ))
    if as_json:
        print_json({"page_link": link})
    else:
        click.echo(link)


COMMANDS = [key_group, page_link]
