"""Label Studio, there and back: proposals as its tasks, and what its annotators said of them (`noria examples`)."""

from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import msgspec

from api.cli.bringing import PATH, check, counts, tell_checked
from api.cli.context import domain_option, json_option, print_json, the_domain, the_door
from api.cli.examples import examples_group
from api.client import Door, Json
from api.formats import label_studio
from api.formats.checking import brought, good
from api.formats.label_studio import Labelled
from api.formats.writing import json_list, write_for_oneself
from api.items import ItemFault, LeftOut, Read

AT_ONCE = 500


@examples_group.command("label-studio")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--build", "build_id", metavar="BUILD", help="The proposals of this build only.")
@domain_option
def write_tasks(out: Path, build_id: str | None, domain: str | None) -> None:
    """Write the proposals that nobody has decided on as tasks of Label Studio, each with its answer as a prediction; and beside
    OUT, as OUT.xml, the labelling interface to paste into its project. The file holds words in clear.

    \b
    Example: noria examples label-studio tasks.json --domain road-traffic
    """
    with the_door() as door:
        name = the_domain(door, domain)
        rows, title = _undecided(door, name, build_id), door.domain(name)["title"]
    write_for_oneself(out, json_list(label_studio.tasks_of(rows)))
    write_for_oneself(out.with_name(f"{out.name}.xml"), label_studio.config_of(title).encode())
    click.echo(f"{len(rows)} tasks written to {out}, and their labelling interface beside it", err=True)


def _undecided(door: Door, domain: str, build_id: str | None) -> list[Json]:
    found: list[Json] = []
    since: int | None = 0
    while since is not None:
        page = door.proposals(domain, "proposed", build_id, AT_ONCE, since)
        found += page["data"]
        since = page["next"]
    return found


@examples_group.command("labelled")
@click.argument("file", type=PATH, metavar="FILE")
@domain_option
@json_option
def read_labels(file: Path, domain: str | None, as_json: bool) -> None:
    """Carry out what Label Studio's annotators said of proposals, from its JSON export: accepted, edited or rejected. Every task is
    checked first; all of it is one decision, which `noria examples undo` takes back. Tasks that nobody annotated are left out.

    Tasks of other projects are imported as examples: noria examples import.

    \b
    Example: noria examples labelled export.json --domain road-traffic
    """
    found = brought(file, _labelled)
    checked = check(found)
    decision, done, position = f"decision-{uuid4().hex}", Counter[str](), None
    with the_door() as door:
        name = the_domain(door, domain)
        for verdict, body in _bodies([item for _, item in good(found)]):
            said = door.decide(name, verdict, body | {"decision": decision})
            done.update({key: said[key] for key in ("accepted", "rejected", "retired", "known") if key in said})
            position = said["position"] or position
    result = dict(done) | {"decision": decision, "position": position}
    if as_json:
        print_json(result | counts(checked, found.formats))
        return
    words = ", ".join(f"{number} {what}" for what, number in done.items() if number)
    click.echo(f"{words or 'nothing to do'}; recorded at {position or 'no new place'}")
    tell_checked(checked)
    click.echo(f"to take it back: noria examples undo {decision}", err=True)


def _labelled(raw: Any) -> Read[Labelled]:
    """A verdict on a proposal. Raises ItemFault, LeftOut."""
    if not isinstance(raw, dict) or not label_studio.holds(raw):
        raise ItemFault("it is no task of Label Studio: it has no data and annotations")
    found = label_studio.labelled(raw)
    if found.proposal_id is None:
        raise ItemFault("it belongs to no proposal: `noria examples import` reads it", f"data.{label_studio.PROPOSAL}")
    if found.verb == "undecided":
        raise LeftOut("nobody has annotated it")
    return Read(found, ())


def _bodies(said: list[Labelled]) -> list[tuple[str, Json]]:
    """What the door is asked, in order: many at once, but for what was edited, which goes one by one."""
    asked: list[tuple[str, Json]] = []
    for verdict, verb in (("accept", "accepted"), ("reject", "rejected")):
        ids = [one.proposal_id for one in said if one.verb == verb]
        for start in range(0, len(ids), AT_ONCE):
            asked.append((verdict, {"proposals": ids[start : start + AT_ONCE]}))
    for one in said:
        if one.verb == "edited":
            asked.append(("accept", {"proposals": [one.proposal_id], "edited": msgspec.to_builtins(one.item)}))
    return asked


COMMANDS: list[click.Command] = []
