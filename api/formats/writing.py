"""Examples as files of the field's formats, each with its licence, source and digest, and the data card that lies beside them.

What is written holds people's words in clear: it is whole or not there, and is its owner's alone.
"""

import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from api.formats import alpaca, openai, sharegpt
from api.items import Example
from streams.errors import Invalid
from streams.personal import masked

Json = dict[str, Any]
UNSTATED = "unstated"
_ABOUT = ("licence", "source", "digest")
_COLUMNS = {
    "licence": "under what terms it may be used",
    "source": "`noria:DOMAIN/KIND/ID`: a correction of a person's, or an annotation that was brought",
    "digest": "SHA-256 of the row's Alpaca fields as compact JSON: instruction, input, output, system, history",
}


class Form(Struct, frozen=True):
    """`body`: the file's bytes, of rows. `about`: whether a row has room for its licence, source and digest. `factory`: what
    LLaMA-Factory's `dataset_info.json` says of it, but for the file's name."""

    row_of: Callable[[Example], Json]
    body: Callable[[Sequence[Json]], bytes]
    about: bool = True
    factory: Mapping[str, Any] | None = None


class Card(Struct, frozen=True):
    """What a data card says that the rows do not."""

    domain: str
    title: str
    languages: Sequence[str]
    licence: str
    made_at: datetime
    retired: int
    erased: int


def json_list(rows: Sequence[Json]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n"


def json_lines(rows: Sequence[Json]) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def _csv(rows: Sequence[Json]) -> bytes:
    """A cell holds no list: the history is JSON in it, and nothing where there is none."""
    out = io.StringIO(newline="")
    lines = csv.DictWriter(out, [*alpaca.FIELDS, *_ABOUT], lineterminator="\n")
    lines.writeheader()
    lines.writerows(
        row | {"history": json.dumps(row["history"], ensure_ascii=False) if row["history"] else ""} for row in rows
    )
    return out.getvalue().encode()


def _dataset(rows: Sequence[Json]) -> Any:
    try:
        from datasets import Dataset, Features, List, Value, disable_progress_bars
    except ImportError:
        raise Invalid("this format needs datasets: it is installed with noria[workers]") from None
    disable_progress_bars()
    text = Value("string")
    features = {name: text for name in (*alpaca.FIELDS, *_ABOUT)} | {"history": List(List(text))}
    return Dataset.from_list(list(rows), features=Features(features))


def _parquet(rows: Sequence[Json]) -> bytes:
    out = io.BytesIO()
    _dataset(rows).to_parquet(out)
    return out.getvalue()


_FIELDS = {"columns": {"prompt": "instruction", "query": "input", "response": "output", "system": "system"}}
_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
# `datasets` is one Parquet file where the name says so, and else a folder.
FORMS = {
    "alpaca": Form(alpaca.row_of, json_list, factory={"columns": _FIELDS["columns"] | {"history": "history"}}),
    "sharegpt": Form(
        sharegpt.row_of,
        json_list,
        factory={"formatting": "sharegpt", "columns": {"messages": "conversations", "system": "system"}},
    ),
    "openai": Form(
        openai.row_of,
        json_lines,
        about=False,
        factory={
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": _TAGS | {"system_tag": "system"},
        },
    ),
    "csv": Form(alpaca.row_of, _csv),
    "datasets": Form(alpaca.row_of, _parquet),
}


def rows_of(given: Sequence[Json], format: str, domain: str, licence: str) -> list[Json]:
    """`given`: Alpaca's fields with `kind` and `example_id`, as the door gives them."""
    form, found = FORMS[format], []
    for one in given:
        item = msgspec.convert(one, Example)
        row = form.row_of(item)
        if form.about:
            source = f"noria:{domain}/{one['kind']}/{one['example_id']}"
            row |= {"licence": licence, "source": source, "digest": digest_of(item)}
        found.append(row)
    return found


def digest_of(item: Example) -> str:
    return "sha256:" + hashlib.sha256(msgspec.json.encode(alpaca.row_of(item))).hexdigest()


def write(out: Path, given: Sequence[Json], format: str, card: Card) -> None:
    """The data and its card: `OUT.md`, and in a folder README.md. Raises Invalid where a folder stands there that is not empty."""
    rows = rows_of(given, format, card.domain, card.licence)
    if format == "datasets" and out.suffix.lower() != ".parquet":
        _write_folder(out, rows, lambda: card_of(given, format, card, out.name, None).encode())
        return
    body = FORMS[format].body(rows)
    write_for_oneself(out, body)
    write_for_oneself(out.with_name(f"{out.name}.md"), card_of(given, format, card, out.name, body).encode())


def _write_folder(out: Path, rows: Sequence[Json], card: Callable[[], bytes]) -> None:
    target = out.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Invalid(f"{out} is there already; give a folder that is not, or one with nothing in it")
    dataset = _dataset(rows)
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        dataset.save_to_disk(str(made))
        (made / "README.md").write_bytes(card())
        for path in made.iterdir():
            path.chmod(0o600)
        made.replace(target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def write_for_oneself(out: Path, body: bytes) -> None:
    """People's words in clear: nobody else reads that file, whoever could read one that stood there. It is whole, or as it was."""
    if out.exists() and not out.is_file():  # a pipe, a terminal
        out.write_bytes(body)
        return
    target = out.resolve()
    handle, made = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # it is its owner's alone
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(made, target)
    except BaseException:
        os.unlink(made)
        raise


def card_of(given: Sequence[Json], format: str, card: Card, name: str, body: bytes | None) -> str:
    """The data card as Markdown, with the head that model hubs read. `body`: the file's, unless it is a folder."""
    form = FORMS[format]
    kinds = Counter(one["kind"] for one in given)
    personal: Counter[str] = Counter()
    for one in given:
        for text in (
            one["instruction"],
            one["input"],
            one["output"],
            one["system"],
            *(words for pair in one["history"] for words in pair),
        ):
            personal += masked(text)[1]
    facts = {
        "domain": card.domain,
        "made": card.made_at.isoformat(timespec="seconds"),
        "format": format,
        "licence": card.licence,
        "examples": str(len(given)),
        **{f"of kind {kind}": str(number) for kind, number in sorted(kinds.items())},
        "left out": f"{card.retired} retired, {card.erased} erased",
        "personal data found by rule": ", ".join(f"{kind} ({n})" for kind, n in sorted(personal.items())) or "none",
    }
    if body is not None:
        facts["SHA-256 of the file"] = hashlib.sha256(body).hexdigest()
    licence = card.licence.lower() if card.licence != UNSTATED else "unknown"
    lines = [
        "---",
        f"license: {json.dumps(licence, ensure_ascii=False)}",
        f"language: {json.dumps(list(card.languages))}",
        'task_categories: ["text-generation"]',
        "---",
        "",
        f"# {card.title}: training examples",
        "",
        "| | |",
        "|---|---|",
        *(f"| {what} | {said.replace('|', chr(92) + '|')} |" for what, said in facts.items()),
        "",
        "People's corrections and what a data team brought, in force when it was made; in clear.",
    ]
    if form.about:
        lines += ["", *(f"- `{column}`: {words}" for column, words in _COLUMNS.items())]
    if form.factory is not None:
        entry = json.dumps({card.domain: {"file_name": name, **form.factory}}, indent=2)
        lines += ["", "LLaMA-Factory reads it by this `dataset_info.json` beside it:", "", "```json", entry, "```"]
    return "\n".join(lines) + "\n"
