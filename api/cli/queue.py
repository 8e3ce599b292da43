"""`noria queue`: what waits for a person, one at a time, and what annotators say of it."""

from pathlib import Path

import click
import msgspec

from api.cli.context import domain_option, json_option, print_json, print_table, printable, the_domain, the_door
from api.client import Json
from api.ui.made_of import place_and_words
from streams.annotation import PLACES
from streams.errors import Invalid

_person_option = click.option("-p", "--person", metavar="ID", help="Who annotates, where the key may name anybody.")


@click.group("queue", short_help="Judge proposed examples, one at a time.")
def queue_group() -> None:
    """What waits for a person: disputed first, then uncertain, hard, and whatever else was proposed. What you are handed is nobody
    else's for a quarter of an hour; a share of it is judged by two, and where these disagree, by a third."""


@queue_group.command("show")
@domain_option
@json_option
def show(domain: str | None, as_json: bool) -> None:
    """Show how many wait, by what puts them forward, and how far annotators agree (Krippendorff's alpha).

    \b
    Example: noria queue show --domain road-traffic
    """
    with the_door() as door:
        said = door.queue(the_domain(door, domain))
    if as_json:
        print_json(said)
        return
    waiting, agreed = said["waiting"], said["agreement"]
    print_table(["waits", "examples"], [[name, str(waiting[name])] for name in PLACES])
    click.echo(f"{waiting['second']} of them were judged by one and wait for another")
    alpha = "not known yet" if agreed["alpha"] is None else f"{agreed['alpha']:.3f}"
    click.echo(f"alpha {alpha}, over {agreed['items']} that two judged; on {agreed['agreed']} they agreed")


@queue_group.command("next")
@_person_option
@domain_option
@json_option
def next_(person: str | None, domain: str | None, as_json: bool) -> None:
    """Be handed the next one, in clear, with what it was made of. Until it is judged or skipped, that is the same one.

    \b
    Example: noria queue next --domain road-traffic
    """
    with the_door() as door:
        item = door.next_in_queue(the_domain(door, domain), person)
    if as_json:
        print_json({"item": item})
        return
    if item is None:
        click.echo("nothing waits for you")
        return
    why = f": {item['reason']}" if item["reason"] else ""
    click.echo(printable(f"{item['proposal_id']}  {item['waits']}{why}"))
    _tell("", item["proposal"])
    for source in item["sources"]:
        place, words = place_and_words(source)
        where = f", {place}" if place else ""
        click.echo(printable(f"from {source['kind']}{where}: {words if words is not None else 'it is gone'}"))
    for number, verdict in enumerate(item["verdicts"], 1):
        click.echo(f"annotator {number}: {verdict['verdict']} (noria queue take {item['proposal_id']} {number})")
        _tell("    ", verdict["edited"])


@queue_group.command("accept")
@click.argument("proposal_id", metavar="ID")
@_person_option
@domain_option
@json_option
def accept(proposal_id: str, person: str | None, domain: str | None, as_json: bool) -> None:
    """Accept a proposal as it is.

    \b
    Example: noria queue accept 8b1f0c5ad0c24c1d9a0f6a1f4a3c7e52 --domain road-traffic
    """
    _judge(domain, proposal_id, {"verdict": "accept"}, person, as_json)


@queue_group.command("edit")
@click.argument("proposal_id", metavar="ID")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE.json")
@_person_option
@domain_option
@json_option
def edit(proposal_id: str, file: Path, person: str | None, domain: str | None, as_json: bool) -> None:
    """Accept what FILE says in its place: one JSON object in Alpaca's fields.

    \b
    Example: noria queue edit 8b1f0c5ad0c24c1d9a0f6a1f4a3c7e52 mended.json --domain road-traffic
    """
    try:
        edited = msgspec.json.decode(file.read_bytes(), type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        raise Invalid(f"{file.name} is not one JSON object: {error}") from None
    _judge(domain, proposal_id, {"verdict": "edit", "edited": edited}, person, as_json)


@queue_group.command("reject")
@click.argument("proposal_id", metavar="ID")
@_person_option
@domain_option
@json_option
def reject(proposal_id: str, person: str | None, domain: str | None, as_json: bool) -> None:
    """Reject a proposal.

    \b
    Example: noria queue reject 8b1f0c5ad0c24c1d9a0f6a1f4a3c7e52 --domain road-traffic
    """
    _judge(domain, proposal_id, {"verdict": "reject"}, person, as_json)


@queue_group.command("undo")
@click.argument("proposal_id", metavar="ID")
@_person_option
@domain_option
@json_option
def undo(proposal_id: str, person: str | None, domain: str | None, as_json: bool) -> None:
    """Take back what you said of a proposal, as long as nobody has said more.

    \b
    Example: noria queue undo 8b1f0c5ad0c24c1d9a0f6a1f4a3c7e52 --domain road-traffic
    """
    with the_door() as door:
        said = door.take_back(the_domain(door, domain), proposal_id, person)
    if as_json:
        print_json(said)
        return
    click.echo(f"taken back: {said['taken_back']}; recorded at {said['position']}")


@queue_group.command("take")
@click.argument("proposal_id", metavar="ID")
@click.argument("number", type=click.IntRange(1, 2), metavar="1|2")
@_person_option
@domain_option
@json_option
def take(proposal_id: str, number: int, person: str | None, domain: str | None, as_json: bool) -> None:
    """Settle what two disagree on: take what the first or the second of them said.

    \b
    Example: noria queue take 8b1f0c5ad0c24c1d9a0f6a1f4a3c7e52 2 --domain road-traffic
    """
    with the_door() as door:
        name = the_domain(door, domain)
        item = door.next_in_queue(name, person)
        if item is None or item["proposal_id"] != proposal_id or len(item["verdicts"]) < number:
            raise Invalid("that is not what you hold, or nobody disagrees on it: noria queue next")
        _tell_judged(door.judge(name, proposal_id, _taken(item, number), person), as_json)


@queue_group.command("skip")
@click.argument("proposal_id", metavar="ID")
@_person_option
@domain_option
@json_option
def skip(proposal_id: str, person: str | None, domain: str | None, as_json: bool) -> None:
    """Leave a proposal to others; you are not handed it again for eight hours.

    \b
    Example: noria queue skip 8b1f0c5ad0c24c1d9a0f6a1f4a3c7e52 --domain road-traffic
    """
    with the_door() as door:
        said = door.skip(the_domain(door, domain), proposal_id, person)
    if as_json:
        print_json(said)
    else:
        click.echo("left to others")


@queue_group.command("raise")
@click.argument("proposals", nargs=-1, required=True, metavar="ID...")
@click.option("--as", "concern", type=click.Choice(["disputed", "uncertain", "hard"]), required=True)
@click.option("--reason", default="", metavar="TEXT", help="Why; it stands on the log in clear.")
@domain_option
@json_option
def raise_(proposals: tuple[str, ...], concern: str, reason: str, domain: str | None, as_json: bool) -> None:
    """Put proposals forward, by their ids or those of the examples that they became (`noria examples contradictions` shows these).
    One that was accepted is looked at again.

    \b
    Example: noria queue raise 8b1f0c5ad0c24c1d9a0f6a1f4a3c7e52 --as disputed --reason "the law was changed" --domain road-traffic
    """
    with the_door() as door:
        said = door.raise_concern(the_domain(door, domain), proposals, concern, reason)
    if as_json:
        print_json(said)
    else:
        click.echo(f"{said['raised']} put forward; recorded at {said['position']}")


def _judge(domain: str | None, proposal_id: str, said: Json, person: str | None, as_json: bool) -> None:
    with the_door() as door:
        _tell_judged(door.judge(the_domain(door, domain), proposal_id, said, person), as_json)


def _taken(item: Json, number: int) -> Json:
    return {"takes": item["verdicts"][number - 1]["judgement_id"]}


def _tell_judged(said: Json, as_json: bool) -> None:
    if as_json:
        print_json(said)
    else:
        click.echo(f"{said['verdict']} recorded at {said['position']}")


def _tell(before: str, example: Json | None) -> None:
    for name in ("system", "instruction", "input", "output"):
        if example is not None and example.get(name):
            click.echo(printable(f"{before}{name}: {example[name]}"))


COMMANDS = [queue_group]
