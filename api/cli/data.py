"""`noria exam` and `noria examples`: what data teams bring and take, checked line by line before anything is sent."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import click
import msgspec

from api.cli.context import domain_option, json_option, print_json, print_table, printable, the_domain, the_door
from api.client import Json, Refused
from api.formats import shapes
from api.formats.alpaca import COLUMNS
from api.formats.checking import Brought, Checked, brought, examples
from api.formats.writing import FORMS, UNSTATED, Card, json_lines, json_list, write, write_for_oneself
from api.items import Example, read_question
from api.llamafactory import folder_of
from streams.errors import Invalid, Unavailable

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
PATH = click.Path(exists=True, path_type=Path)
FAULTY = 1  # the exit code of an import that left items in the file
ITEMS_A_REQUEST = 500
BYTES_A_REQUEST = 2 * 1024 * 1024
SHOWN_FAULTS = 10
SHOWN_ITEMS = 3

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
    questions = brought(file, read_question)
    checked = check(questions)
    with the_door() as door:
        name = the_domain(door, domain)
        import_ = Import(file.name, "exam", name)
        said = import_.send(
            ((place, msgspec.to_builtins(item) | {"kind": kind.replace("-", "_")}) for place, item in good(questions)),
            lambda batch: door.add_exam(name, batch, import_.id),
        )
    tell_import(said, "questions added", checked, as_json)


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
@click.argument("file", type=PATH, metavar="FILE|FOLDER")
@click.option("-p", "--person", metavar="ID", help="Whose words they are; the key's own name if left out.")
@click.option(
    "--format", "format_", type=click.Choice(shapes.NAMES), help="Of the rows; told by their columns if left out."
)
@click.option(
    "--map", "columns", multiple=True, metavar="COLUMN=FIELD", help="What a column is: --map question=instruction."
)
@click.option("--preview", is_flag=True, help="Say what it holds and what is wrong with it, and send nothing.")
@click.option("--skip-faulty", is_flag=True, help="Name what is wrong, and send the rest. The exit code is 1 then.")
@click.option("--clean", is_flag=True, help="Mend and mask the texts, and leave out what is not worth learning.")
@domain_option
@json_option
def import_(
    file: Path,
    person: str | None,
    format_: str | None,
    columns: tuple[str, ...],
    preview: bool,
    skip_faulty: bool,
    clean: bool,
    domain: str | None,
    as_json: bool,
) -> None:
    """Import examples: Alpaca, ShareGPT or OpenAI's messages, in JSON, JSON lines, CSV or Parquet, a folder of these, of
    LLaMA-Factory's, or one that `datasets` saved. Importing the same again changes nothing.

    Every item is checked first; one that is wrong is named, and nothing is sent. What was imported can be taken back by the id
    that is printed. See deploy/formats.md.

    \b
    Examples:
      noria examples import alpaca.json --person team-a --domain road-traffic
      noria examples import asked.csv --map question=instruction --map answer=output --preview
    """
    found = examples(file, format_, _fields(columns), _languages(domain) if clean else None)
    if preview:
        _preview(found, as_json)
        return
    checked = check(found, skip_faulty)
    with the_door() as door:
        name = the_domain(door, domain)
        import_ = Import(file.name, "examples", name)
        rows = ((place, msgspec.to_builtins(item)) for place, item in good(found, skip_faulty))
        said = import_.send(rows, lambda batch: door.import_examples(name, batch, person, import_.id))
    tell_import(said, "examples imported", checked, as_json, found.formats)
    if checked.faulty:
        click.get_current_context().exit(FAULTY)


def _languages(domain: str | None) -> list[str]:
    with the_door() as door:
        return list(door.domain(the_domain(door, domain))["languages"])


def _fields(said: Sequence[str]) -> dict[str, str]:
    """The file's names of columns, and ours."""
    found = {}
    for words in said:
        column, equals, ours = words.rpartition("=")
        if not equals or ours not in COLUMNS | {"messages", "conversations"}:
            raise click.UsageError(
                f"--map {words}: it must be COLUMN=FIELD, a field being one of {', '.join(sorted(COLUMNS))}"
            )
        found[column] = ours
    return found


@examples_group.command("export")
@click.argument("out", type=click.Path(path_type=Path), required=False)
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(FORMS)),
    help="Write OUT in this format, each row with its licence, source and digest, and a data card beside it.",
)
@click.option(
    "--licence", metavar="TERMS", default=UNSTATED, help="With --format: under what terms it may be used (SPDX)."
)
@click.option("--lines", "as_lines", is_flag=True, help="JSON lines instead of one JSON list.")
@click.option(
    "--llamafactory",
    "model",
    metavar="MODEL",
    help="Make OUT a folder that `llamafactory-cli train sft.yaml` trains as it is, from this model (a folder).",
)
@domain_option
def export(
    out: Path | None, format_: str | None, licence: str, as_lines: bool, model: str | None, domain: str | None
) -> None:
    """Export the examples in force. OUT is standard output if left out. The file holds people's words in clear.

    With --llamafactory the recipe of the domain's policy goes into the folder's sft.yaml, and the adapter comes to lie in it.

    Without --format it is a JSON list of Alpaca's rows. `datasets` is a folder, or one Parquet file if OUT ends so.

    \b
    Examples:
      noria examples export alpaca.json --domain road-traffic
      noria examples export chats.json --format sharegpt --licence CC-BY-4.0 --domain road-traffic
    """
    if out is not None and out.is_dir() and format_ != "datasets":
        raise click.UsageError(f"{out} is a folder")
    if format_ is not None and (out is None or as_lines or model is not None):
        raise click.UsageError("--format needs an OUT, and takes neither --lines nor --llamafactory")
    if model is not None and (out is None or as_lines):
        raise click.UsageError("--llamafactory needs a folder as OUT, and takes no --lines")
    with the_door() as door:
        name = the_domain(door, domain)
        said = door.examples(name, with_origin=format_ is not None)
        recipe = door.policy(name)["recipe"] if model is not None else {}
        about = door.domain(name) if format_ is not None else {}
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
    if format_ is not None and out is not None:
        card = Card(
            domain=name,
            title=about["title"],
            languages=about["languages"],
            licence=licence,
            made_at=datetime.now(UTC),
            retired=said["retired"],
            erased=said["erased"],
        )
        write(out, rows, format_, card)
        click.echo(f"{len(rows)} examples written to {out}{gone}", err=True)
        return
    body = json_lines(rows) if as_lines else json_list(rows)
    if out is None:
        click.get_binary_stream("stdout").write(body)
        return
    write_for_oneself(out, body)
    click.echo(f"{len(rows)} examples written to {out}{gone}", err=True)


@examples_group.command("contradictions")
@domain_option
@json_option
def show_contradictions(domain: str | None, as_json: bool) -> None:
    """Show the examples in force that ask the same and are answered otherwise, in clear, with their ids.

    \b
    Example: noria examples contradictions --domain road-traffic
    """
    from api.contradictions import contradictions  # what it compares with is not installed with every command line

    with the_door() as door:
        rows = door.examples(the_domain(door, domain), with_origin=True)["data"]
    groups = contradictions((msgspec.convert(row, Example), row) for row in rows)
    if as_json:
        print_json({"data": [[row for _, row in group] for group in groups]})
        return
    print_table(
        ["group", "id", "kind", "question", "answer"],
        [
            [str(number), row["example_id"], row["kind"], row["instruction"], row["output"]]
            for number, group in enumerate(groups, 1)
            for _, row in group
        ],
        empty="no two examples in force contradict each other",
    )


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


def tell_import(said: Json, done: str, checked: Checked, as_json: bool, formats: Sequence[str] = ()) -> None:
    if as_json:
        print_json(said | _counts(checked, formats))
        return
    recorded = f"; recorded at {said['position']} as import {said['import']}" if said["position"] else ""
    click.echo(f"{said['added']} {done}, {said['known']} were there already{recorded}")
    _tell_checked(checked)


def _counts(checked: Checked, formats: Sequence[str]) -> Json:
    return {
        "set_aside": dict(sorted(checked.aside.items())),
        "faulty": checked.faulty,
        "left_out": dict(sorted(checked.left_out.items())),
        "mended": dict(sorted(checked.mended.items())),
        "formats": list(formats),
    }


def _tell_checked(checked: Checked) -> None:
    for words, counts in (
        ("columns that are no part of an item were left in the file", checked.aside),
        ("cleaning mended", checked.mended),
        ("cleaning left out, named above", checked.left_out),
    ):
        if counts:
            said = ", ".join(f"{printable(name)} ({number})" for name, number in sorted(counts.items()))
            click.echo(f"{words}: {said}", err=True)
    if checked.faulty:
        click.echo(f"{checked.faulty} items are wrong, and were left in the file", err=True)


def check(found: Brought[T], skip_faulty: bool = False) -> Checked:
    """Read all of it once and name every item that is wrong. Raises Invalid where there is one, or nothing at all."""
    checked = _look(found)
    if checked.faulty and not skip_faulty:
        items = checked.faulty + checked.good + checked.left_out.total()
        raise Invalid(f"{checked.faulty} of {items} items of {found.name} are wrong; nothing was sent")
    if not checked.good:
        raise Invalid(f"{found.name} holds nothing{' that is right' if checked.faulty or checked.left_out else ''}")
    return checked


def _look(found: Brought[T]) -> Checked:
    checked = Checked()
    for taken in found.items():
        checked.add(taken)
        if taken.fault and checked.faulty <= SHOWN_FAULTS:
            click.echo(f"{found.name} {taken.place}: {printable(taken.fault)}", err=True)
        elif taken.left_out and checked.left_out[taken.left_out] <= SHOWN_FAULTS:
            click.echo(f"{found.name} {taken.place}: left out by cleaning: {taken.left_out}", err=True)
    return checked


def _preview(found: Brought[T], as_json: bool) -> None:
    if not as_json:
        click.echo("\n".join(map(printable, found.formats)))
        for taken in islice((taken for taken in found.items() if taken.item is not None), SHOWN_ITEMS):
            click.echo(f"{taken.place}: {msgspec.json.encode(taken.item).decode()}")
    checked = _look(found)
    if as_json:
        print_json({"good": checked.good} | _counts(checked, found.formats))
        return
    click.echo(f"{checked.good} items are right, {checked.faulty} wrong; nothing was sent")
    _tell_checked(checked)


def good(found: Brought[T], skip_faulty: bool = False) -> Iterator[tuple[str, T]]:
    """The items of a file that was checked, each with the words for its place."""
    for taken in found.items():
        if taken.item is not None:
            yield taken.place, taken.item
        elif taken.fault and not skip_faulty:
            raise Invalid(f"{found.name} {taken.place}: {taken.fault}; the file was changed while it was read")


class Import:
    """A file on its way to the door, in pieces that the door takes, all under one id by which it can be taken back."""

    def __init__(self, file: str, group: str, domain: str) -> None:
        self.id = uuid4().hex
        self._file = file
        self._group = group
        self._domain = domain

    def send(self, items: Iterable[tuple[str, Json]], send: Callable[[list[Json]], Json]) -> Json:
        """The door's answers, added up. What breaks off in the middle says what went in, and how to go on or back. `items`: each
        with its place in the file."""
        total: Json = {"import": self.id, "added": 0, "known": 0, "position": None}
        before = ""  # the last place that went in
        batches = _batches(items)
        while True:
            try:
                places, batch = next(batches, ([], []))
            except Invalid as error:
                raise Invalid(f"{error}{self._so_far(before, [], unsure=False)}") from error
            if not batch:
                return total
            try:
                said = send(batch)
            except Refused as error:
                place = _place(error.param, places)
                message = f"{self._file}{place}: {error.message}{self._so_far(before, places, unsure=False)}"
                raise Refused(error.status, message, error.param, error.code) from error
            except Unavailable as error:
                raise Unavailable(f"{error}{self._so_far(before, places, unsure=True)}") from error
            before = places[-1]
            total["added"] += said["added"]
            total["known"] += said["known"]
            total["position"] = said.get("position") or total["position"]

    def _so_far(self, before: str, places: Sequence[str], unsure: bool) -> str:
        """`unsure`: of the batch itself it is not known whether the door recorded it."""
        if not before and not unsure:
            return "; nothing was recorded"
        words = [f"up to {before} all went in"] if before else []
        if unsure:
            words.append(f"of {places[0]} to {places[-1]} it is not known")
        return (
            f"; of {self._file} {', '.join(words)}. Run it again to go on, or take back what went in: "
            f"noria {self._group} retire --import {self.id} --domain {self._domain}"
        )


def _batches(items: Iterable[tuple[str, Json]]) -> Iterator[tuple[list[str], list[Json]]]:
    places: list[str] = []
    batch: list[Json] = []
    size = 0
    for place, item in items:
        weight = len(msgspec.json.encode(item))
        if batch and (len(batch) >= ITEMS_A_REQUEST or size + weight > BYTES_A_REQUEST):
            yield places, batch
            places, batch, size = [], [], 0
        places.append(place)
        batch.append(item)
        size += weight
    yield places, batch


def _place(param: str | None, places: Sequence[str]) -> str:
    """`[3].answer` is of the fourth item of the batch."""
    if not param or not param.startswith("["):
        return ""
    number = param[1:].partition("]")[0]
    return f" {places[int(number)]}" if number.isdigit() and int(number) < len(places) else ""


COMMANDS = [exam_group, examples_group]
