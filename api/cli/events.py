"""`noria events`: the log, as it is and as it grows."""

import json
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from api.cli.context import json_option, moment, print_json, print_json_line, printable, the_door
from api.client import Door
from streams.errors import Invalid, Unavailable

PAGE = 1000
TOPICS = click.Choice(["conversations", "domains"])
_QUIET = frozenset(
    {
        "domain",
        "conversation_id",
        "prompt_id",
        "person",
        "order_id",
        "round_id",
        "request_digest",
        "policy",
        "messages",
        "so_far",
        "text",
    }
)


@click.group("events", short_help="Watch, show and export the log.")
def events_group() -> None:
    """The log: every event, in CloudEvents JSON. People's words are sealed in it."""


def _topic_option(command: Any) -> Any:
    return click.option("--topic", type=TOPICS, help="Only this topic.")(command)


def _domain_option(command: Any) -> Any:
    return click.option("-d", "--domain", metavar="DOMAIN", envvar="NORIA_DOMAIN", help="Only this domain.")(command)


@events_group.command("tail")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("-n", "--limit", type=click.IntRange(1, 5000), default=20, show_default=True)
@_domain_option
@_topic_option
@json_option
def tail(follow: bool, limit: int, domain: str | None, topic: str | None, as_json: bool) -> None:
    """Show the last events; with --json one CloudEvent and its position a line.

    \b
    Example: noria events tail -f
    """
    with the_door() as door:
        try:
            found = (
                door.follow(domain=domain, topic=topic, limit=limit)
                if follow
                else door.events(domain=domain, topic=topic, limit=limit)["data"]
            )
            for shown in found:
                if as_json:
                    print_json_line(shown)
                else:
                    click.echo(line_of(shown))
                sys.stdout.flush()
        except KeyboardInterrupt:
            return
    if follow:
        raise Unavailable("the door ended the stream")


@events_group.command("show")
@click.argument("event_id", metavar="ID")
@json_option
def show(event_id: str, as_json: bool) -> None:
    """Show one event whole, as it stands on the log.

    \b
    Example: noria events show 0b7c8f9e-5c3f-5f0e-8a53-3a3d0e3ce6a5
    """
    with the_door() as door:
        found = door.event(event_id)
    if as_json:
        print_json(found)
        return
    click.echo(f"at {found['position']}")
    print_json(found["event"])


@events_group.command("export")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path), required=False)
@_domain_option
@_topic_option
def export(out: Path | None, domain: str | None, topic: str | None) -> None:
    """Write every event from the first to the newest as JSON lines, {"position", "event"} each. OUT is standard output if left out.

    \b
    Example: noria events export events.jsonl --domain road-traffic
    """
    with the_door() as door:
        if out is None:
            _export(door, domain, topic, click.get_text_stream("stdout"))
            return
        with out.open("w", encoding="utf-8") as file:
            number = _export(door, domain, topic, file)
    click.echo(f"{number} events written to {out}", err=True)


def _export(door: Door, domain: str | None, topic: str | None, file: Any) -> int:
    number, after = 0, "beginning"
    while True:
        page = door.events(domain=domain, topic=topic, after=after, limit=PAGE)
        for shown in page["data"]:
            file.write(json.dumps(shown, ensure_ascii=False, separators=(",", ":")) + "\n")
            number += 1
        # A page may be empty because what it read was another domain's; only the same place twice is the end.
        if page["next"] == after:
            return number
        after = page["next"]


def line_of(shown: dict[str, Any]) -> str:
    """One event on one line: when, what, who, where on the log, and what else is short enough to read."""
    event = shown["event"]
    data = event.get("data") or {}
    kind = str(event.get("type", "")).removeprefix("noria.")
    who = str(data.get("person") or data.get("by") or "")
    words = [f"{moment(event.get('time'))}  {kind:<19} {data.get('domain', ''):<16} {who:<12}"]
    words.append(details(data))
    return printable("  ".join(part for part in words if part.strip()).rstrip()) + f"  {shown['position']}"


def details(data: dict[str, Any]) -> str:
    """The short facts of an event: numbers, names of steps, short words; never what is sealed."""
    said = []
    for name, value in data.items():
        if name in _QUIET or value is None or value == "":
            continue
        if isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 40):
            said.append(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}")
        elif name == "reason" and isinstance(value, str):
            said.append(f"{name}={value}")
        elif name == "verdict" and isinstance(value, dict):
            said.append(f"verdict={value.get('outcome')}")
        elif name == "values" and isinstance(value, dict):
            said += [f"{k}={v:.4g}" for k, v in value.items() if isinstance(v, int | float)]
    return " ".join(said)


@click.group("schemas", short_help="The schemas of all events.")
def schemas_group() -> None:
    """JSON Schemas of the events, for whoever reads the topics without this code."""


@schemas_group.command("export")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
def export_schemas(folder: Path) -> None:
    """Write a JSON Schema file for every event to DIR. Works without anything running.

    \b
    Example: noria schemas export schemas/
    """
    from streams import codec

    if folder.exists() and not folder.is_dir():
        raise Invalid(f"{folder} is not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = codec.schemas()
    for name, schema in found.items():
        (folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n")
    click.echo(f"{len(found)} schemas written to {folder}")


COMMANDS = [events_group, schemas_group]
