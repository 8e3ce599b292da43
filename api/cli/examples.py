"""`noria examples`: training examples in and out, in the field's formats."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import click
import msgspec

from api.cli.bringing import PATH, check, counts, look, retire_command, tell_checked, tell_import
from api.cli.context import domain_option, json_option, print_json, print_table, printable, the_domain, the_door
from api.formats import shapes
from api.formats.alpaca import COLUMNS
from api.formats.checking import Brought, examples, good
from api.formats.writing import FORMS, UNSTATED, Card, json_lines, json_list, write, write_for_oneself
from api.items import Example
from api.llamafactory import folder_of, not_asked
from api.sending import Import
from streams.errors import Invalid

FAULTY = 1  # the exit code of an import that left items in the file
SHOWN_ITEMS = 3


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

    With --llamafactory the recipe of the domain's policy goes into the folder's sft.yaml, and the adapter comes to lie in it. What
    the exam asks is left out: an adapter that has learned it would be refused.

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
        policy = door.policy(name) if model is not None else {}
        exam = door.exam(name)["data"] if model is not None else []
        about = door.domain(name) if format_ is not None else {}
    rows = said["data"]
    gone = f"; left out: {said.get('retired', 0)} retired, {said.get('erased', 0)} erased"
    if model is not None and out is not None:
        rows = not_asked(rows, [item["question"] for item in exam], policy["mask"])
        gone += f", {len(said['data']) - len(rows)} that the exam asks"
        try:
            files = folder_of(rows, policy["recipe"], str(Path(model).resolve()))
        except KeyError:
            raise Invalid(
                f"the policy's recipe is {policy['recipe'].get('method')}: only lora can be said in LLaMA-Factory's words"
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


def _preview(found: Brought[Example], as_json: bool) -> None:
    if not as_json:
        click.echo("\n".join(map(printable, found.formats)))
        for taken in islice((taken for taken in found.items() if taken.item is not None), SHOWN_ITEMS):
            click.echo(f"{taken.place}: {msgspec.json.encode(taken.item).decode()}")
    checked = look(found)
    if as_json:
        print_json({"good": checked.good} | counts(checked, found.formats))
        return
    click.echo(f"{checked.good} items are right, {checked.faulty} wrong; nothing was sent")
    tell_checked(checked)


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


COMMANDS = [examples_group]
