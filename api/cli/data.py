"""`noria exam` and `noria examples`: what data teams bring and take, checked line by line before anything is sent."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import click
import msgspec

from api.cli.context import domain_option, json_option, print_json, print_table, printable, the_domain, the_door
from api.cli.files import read_text
from api.client import Json, Refused
from api.items import ItemFault, Read, counted, read_example, read_question
from api.llamafactory import folder_of
from streams.errors import Invalid, Unavailable

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
ITEMS_A_REQUEST = 500
BYTES_A_REQUEST = 2 * 1024 * 1024
SHOWN_FAULTS = 10

T = TypeVar("T")


@click.group("exam", short_help="Add the questions that candidates are examined on.")
def exam_group() -> None:
    """A domain's exam. Nothing is ever trained on these questions."""


@exam_group.command("add")
@click.argument("file", type=FILE, metavar="FILE.jsonl")
@click.option("--kind", type=click.Choice(["held-out", "general"]), required=True, help="What the questions examine.")
@domain_option
@json_option
def add(file: Path, kind: str, domain: str | None, as_json: bool) -> None:
    """Add exam questions from a file: one JSON object a line, {"question", "answer", "keys": [...]}.

    Every line is checked first; one that is wrong is named, and nothing is sent. Adding the same again changes nothing, and
    what was added can be retired by the id that is printed.

    \b
    Example: noria exam add quiz.jsonl --kind general --domain road-traffic
    """
    lines, aside = read_items(file, read_question)
    items = [msgspec.to_builtins(line) | {"kind": kind.replace("-", "_")} for _, line in lines]
    with the_door() as door:
        name = the_domain(door, domain)
        import_ = Import(file, [place for place, _ in lines], "exam", name)
        said = import_.send(items, lambda batch: door.add_exam(name, batch, import_.id))
    tell_import(said, "questions added", aside, as_json)


@exam_group.command("list")
@domain_option
@json_option
def list_exam(domain: str | None, as_json: bool) -> None:
    """List the questions in force, with their ids. They are shown in clear.

    \b
    Example: noria exam list --domain road-traffic
    """
    with the_door() as door:
        said = door.exam(the_domain(door, domain))
    if as_json:
        print_json(said)
        return
    print_table(
        ["id", "kind", "question", "answer"],
        [[row["item_id"], row["kind"].replace("_", "-"), row["question"], row["answer"]] for row in said["data"]],
        empty="no question in force",
    )
    click.echo(f"{said['retired']} retired, {said['erased']} erased", err=True)


@click.group("examples", short_help="Import and export training examples (Alpaca).")
def examples_group() -> None:
    """Training examples in Alpaca's fields: instruction, input, output, system, history."""


@examples_group.command("import")
@click.argument("file", type=FILE)
@click.option("-p", "--person", metavar="ID", help="Whose words they are; the key's own name if left out.")
@domain_option
@json_option
def import_(file: Path, person: str | None, domain: str | None, as_json: bool) -> None:
    """Import examples from a JSON list or from JSON lines. Importing the same again changes nothing.

    Every item is checked first; one that is wrong is named, and nothing is sent. What was imported can be taken back by the id
    that is printed.

    \b
    Example: noria examples import alpaca.json --person team-a --domain road-traffic
    """
    lines, aside = read_items(file, read_example)
    items = [msgspec.to_builtins(line) for _, line in lines]
    with the_door() as door:
        name = the_domain(door, domain)
        import_ = Import(file, [place for place, _ in lines], "examples", name)
        said = import_.send(items, lambda batch: door.import_examples(name, batch, person, import_.id))
    tell_import(said, "examples imported", aside, as_json)


@examples_group.command("export")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path), required=False)
@click.option("--lines", "as_lines", is_flag=True, help="JSON lines instead of one JSON list.")
@click.option(
    "--llamafactory",
    "model",
    metavar="MODEL",
    help="Make OUT a folder that `llamafactory-cli train sft.yaml` trains as it is, from this model (a folder).",
)
@domain_option
def export(out: Path | None, as_lines: bool, model: str | None, domain: str | None) -> None:
    """Export the examples in force. OUT is standard output if left out. The file holds people's words in clear.

    With --llamafactory the recipe of the domain's policy goes into the folder's sft.yaml, and the adapter comes to lie in it.

    \b
    Example: noria examples export alpaca.json --domain road-traffic
    """
    if model is not None and (out is None or as_lines):
        raise click.UsageError("--llamafactory needs a folder as OUT, and takes no --lines")
    with the_door() as door:
        name = the_domain(door, domain)
        said = door.examples(name)
        recipe = door.policy(name)["recipe"] if model is not None else {}
    rows = said["data"]
    gone = f"; left out: {said.get('retired', 0)} retired, {said.get('erased', 0)} erased"
    if model is not None and out is not None:
        try:
            files = folder_of(rows, recipe, str(Path(model).resolve()))
        except KeyError:
            raise Invalid(
                f"the policy's recipe is {recipe.get('method')}: only lora can be said in LLaMA-Factory's words"
            ) from None
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file_name, words in files.items():
            write_for_oneself(out / file_name, words.encode())
        click.echo(f"{len(rows)} examples written to {out}{gone}", err=True)
        return
    if as_lines:
        body = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    else:
        body = msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n"
    if out is None:
        click.get_binary_stream("stdout").write(body)
        return
    write_for_oneself(out, body)
    click.echo(f"{len(rows)} examples written to {out}{gone}", err=True)


def write_for_oneself(out: Path, body: bytes) -> None:
    """People's words in clear: nobody else reads that file, not even one that stood there before and was open to all."""
    with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        if out.is_file():
            os.fchmod(file.fileno(), 0o600)
        file.write(body)


def retire_command(what: str, group: str, help_: str) -> click.Command:
    @click.command("retire", help=help_, short_help=f"Retire {what}, or all of an import.")
    @click.argument("items", nargs=-1, metavar="[ID]...")
    @click.option("--import", "import_id", metavar="IMPORT", help="All that this import brought.")
    @click.option("--reason", default="", metavar="TEXT", help="Why; it stands on the log in clear.")
    @domain_option
    @json_option
    def retire(items: tuple[str, ...], import_id: str | None, reason: str, domain: str | None, as_json: bool) -> None:
        if bool(items) == (import_id is not None):
            raise click.UsageError("give either ids, or an import")
        body: Json = {"items": list(items)} if items else {"import": import_id}
        with the_door() as door:
            said = door.retire(the_domain(door, domain), group, body | {"reason": reason})
        if as_json:
            print_json(said)
            return
        known = f", {said['known']} were already" if said["known"] else ""
        click.echo(f"{said['retired']} {what} retired{known}; recorded at {said['position'] or 'no new place'}")

    return retire


exam_group.add_command(
    retire_command(
        "questions",
        "exam",
        """Retire exam questions: no later exam asks them. A round in flight goes on as it began.

        \b
        Examples:
          noria exam retire 8b1f0c5ad0c24c1d9a0f6a1f4a3c7e52 --reason "two answers are right"
          noria exam retire --import 4be1c0d2f7f14c0f8f2a2b0a5f0f3f11
        """,
    )
)
examples_group.add_command(
    retire_command(
        "examples",
        "examples",
        """Retire training examples: no later round trains on them. A release that has learned them does not unlearn them.

        \b
        Example: noria examples retire --import 4be1c0d2f7f14c0f8f2a2b0a5f0f3f11
        """,
    )
)


def tell_import(said: Json, done: str, aside: dict[str, int], as_json: bool) -> None:
    if as_json:
        print_json(said | {"set_aside": aside})
        return
    recorded = f"; recorded at {said['position']} as import {said['import']}" if said["position"] else ""
    click.echo(f"{said['added']} {done}, {said['known']} were there already{recorded}")
    if aside:
        columns = ", ".join(f"{printable(name)} ({number})" for name, number in aside.items())
        click.echo(f"columns that are no part of an item were left in the file: {columns}", err=True)


def read_items(file: Path, read: Callable[[Any], Read[T]]) -> tuple[list[tuple[str, T]], dict[str, int]]:
    """The items of a JSON list, of one JSON object or of JSON lines, each with the words for its place; and how many had each
    column that is no part of an item. Raises Invalid naming every wrong line."""
    places: list[str] = []
    found: list[Read[T]] = []
    faults: list[str] = []
    for place, raw in _raw_items(file):
        try:
            found.append(read(msgspec.json.decode(raw)))
            places.append(place)
        except msgspec.DecodeError as error:
            faults.append(f"{place}: {error}")
        except RecursionError:
            faults.append(f"{place}: nested too deeply")
        except ItemFault as error:
            where = "" if not error.field or error.message.startswith(error.field) else f"{error.field}: "
            faults.append(f"{place}: {where}{error.message}")
    if faults:
        for fault in faults[:SHOWN_FAULTS]:
            click.echo(f"{file.name} {printable(fault)}", err=True)
        raise Invalid(f"{len(faults)} of {len(faults) + len(found)} items of {file.name} are wrong; nothing was sent")
    if not found:
        raise Invalid(f"{file.name} holds nothing")
    return list(zip(places, (one.item for one in found), strict=True)), counted(found)


def _raw_items(file: Path) -> Iterator[tuple[str, bytes | msgspec.Raw]]:
    body = read_text(file).encode()
    try:
        whole = msgspec.json.decode(body, type=list[msgspec.Raw] | dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError) as error:
        if body.lstrip().startswith(b"["):
            raise Invalid(f"{file.name} is not a JSON list: {error}") from None
        for number, line in enumerate(body.split(b"\n"), 1):
            if line.strip():
                yield f"line {number}", line
        return
    if isinstance(whole, dict):
        yield "item 1", body
        return
    for number, raw in enumerate(whole, 1):
        yield f"item {number}", raw


class Import:
    """A file on its way to the door, in pieces that the door takes, all under one id by which it can be taken back."""

    def __init__(self, file: Path, places: Sequence[str], group: str, domain: str) -> None:
        self.id = uuid4().hex
        self._file = file
        self._places = places
        self._group = group
        self._domain = domain

    def send(self, items: Sequence[Json], send: Callable[[list[Json]], Json]) -> Json:
        """The door's answers, added up. What breaks off in the middle says what went in, and how to go on or back."""
        total: Json = {"import": self.id, "added": 0, "known": 0, "position": None}
        for start, batch in _batches(items):
            try:
                said = send(batch)
            except Refused as error:
                place = _place(error.param, start, self._places)
                message = f"{self._file.name}{place}: {error.message}{self._so_far(start, batch, unsure=False)}"
                raise Refused(error.status, message, error.param, error.code) from error
            except Unavailable as error:
                raise Unavailable(f"{error}{self._so_far(start, batch, unsure=True)}") from error
            total["added"] += said["added"]
            total["known"] += said["known"]
            total["position"] = said.get("position") or total["position"]
        return total

    def _so_far(self, start: int, batch: Sequence[Json], unsure: bool) -> str:
        """`unsure`: of the batch itself it is not known whether the door recorded it."""
        if not start and not unsure:
            return "; nothing was recorded"
        last = self._places[start + len(batch) - 1]
        words = [f"up to {self._places[start - 1]} all went in"] if start else []
        if unsure:
            words.append(f"of {self._places[start]} to {last} it is not known")
        return (
            f"; of {self._file.name} {', '.join(words)}. Run it again to go on, or take back what went in: "
            f"noria {self._group} retire --import {self.id} --domain {self._domain}"
        )


def _batches(items: Sequence[Json]) -> Iterator[tuple[int, list[Json]]]:
    start, size = 0, 0
    batch: list[Json] = []
    for number, item in enumerate(items):
        weight = len(msgspec.json.encode(item))
        if batch and (len(batch) >= ITEMS_A_REQUEST or size + weight > BYTES_A_REQUEST):
            yield start, batch
            start, size, batch = number, 0, []
        batch.append(item)
        size += weight
    yield start, batch


def _place(param: str | None, start: int, places: Sequence[str]) -> str:
    """`[3].answer` in a batch that began at 500 is the place of item 503."""
    if not param or not param.startswith("["):
        return ""
    number = param[1:].partition("]")[0]
    return f" {places[start + int(number)]}" if number.isdigit() and start + int(number) < len(places) else ""


COMMANDS = [exam_group, examples_group]
