"""Files of triples, in the formats that knowledge graphs come in: CSV, JSON lines, and RDF.

A line that is wrong is named, and the others are read. Of RDF each literal and each resource is put as words: its `rdfs:label`,
else the last part of its IRI; blank nodes have no words, and what says something about them is passed over, by name.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from api.cli.files import read_text
from api.items import ItemFault, Triple, read_triple
from streams.errors import Invalid

COLUMNS = ("subject", "predicate", "object")
# By the ending of its name, what rdflib calls a format of RDF.
RDF = {".ttl": "turtle", ".nt": "nt", ".n3": "n3", ".rdf": "xml", ".owl": "xml", ".xml": "xml", ".jsonld": "json-ld"}


class TripleFile(Struct, frozen=True):
    """The triples, each with the words for its place; and what could not be read, by place."""

    triples: list[tuple[str, Triple]]
    faults: list[str]


def read_triples(path: Path) -> TripleFile:
    """Raises Invalid for a file of which nothing can be read."""
    ending = path.suffix.lower()
    if ending == ".csv":
        return _checked(_csv(path))
    if ending in (".jsonl", ".json"):
        return _checked(_json_lines(path))
    if ending in RDF:
        return _checked(_rdf(path, RDF[ending]))
    raise Invalid(f"{path.name} is none of .csv, .jsonl, {', '.join(RDF)}")


def _checked(raws: Iterator[tuple[str, Any]]) -> TripleFile:
    triples, faults = [], []
    for place, raw in raws:
        try:
            if isinstance(raw, ItemFault):
                raise raw
            triples.append((place, read_triple(raw).item))
        except ItemFault as error:
            faults.append(f"{place}: {error}")
    return TripleFile(triples, faults)


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    """With a header that names the columns, in whatever order, and others beside them."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise Invalid(
                f"{path.name} line 1: the header lacks {', '.join(missing)}; it must name {', '.join(COLUMNS)}"
            )
        for row in reader:
            yield f"line {reader.line_num}", {name: row[name] for name in COLUMNS}
    except csv.Error as error:
        # Where a quotation mark stands open, nobody knows where the next line begins.
        yield f"line {reader.line_num}", ItemFault(f"not CSV from here on: {error}")


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            yield f"line {number}", ItemFault(str(error) or "nested too deeply")


def _rdf(path: Path, format_: str) -> Iterator[tuple[str, Any]]:
    from rdflib import BNode, Graph, URIRef
    from rdflib.namespace import RDFS

    graph = Graph()
    try:
        graph.parse(data=read_text(path), format=format_)
    except Exception as error:  # each of its parsers raises its own
        raise Invalid(f"{path.name} cannot be read as {format_}: {' '.join(str(error).split())[:300]}") from None

    def words(node: Any) -> str:
        label = graph.value(node, RDFS.label)
        if label is not None:
            return str(label)
        return _last_part(str(node)) if isinstance(node, URIRef) else str(node)

    for number, (subject, predicate, object_) in enumerate(sorted(graph), 1):
        if predicate == RDFS.label:
            continue
        place = f"triple {number}"
        if any(isinstance(node, BNode) for node in (subject, object_)):
            yield place, ItemFault(f"a blank node has no words ({_last_part(str(predicate))})")
        else:
            yield place, {"subject": words(subject), "predicate": words(predicate), "object": words(object_)}


def _last_part(iri: str) -> str:
    return unquote(iri.rstrip("/#").replace("#", "/").rsplit("/", 1)[-1]).replace("_", " ")
