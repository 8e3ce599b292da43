"""A byte search over what lies on a disk, for words that must stand nowhere in clear."""

import base64
import json
import os
from collections.abc import Iterable
from pathlib import Path

import psycopg2

BEGINNING = 12


def forms(sentence: str) -> list[bytes]:
    """What a sentence may look like on a disk: as it is, escaped in JSON, in hex, and in base64 from each of three beginnings."""
    raw = sentence.encode()
    found = [raw, json.dumps(sentence)[1:-1].encode(), raw.hex().encode(), sentence.encode("utf-16-le")]
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw)
        found.append(encoded[4 : len(encoded) - 4])
    return list(dict.fromkeys(found))


def files_holding(folder: Path, sentences: Iterable[str], but: tuple[str, ...] = ()) -> set[str]:
    """The files under `folder` that hold any of the sentences in any form, as paths in it; `but` names suffixes to pass over."""
    words: dict[
        bytes, set[bytes]
    ] = {}  # by how they begin: many sentences begin alike, and each search reads all of a file
    for form in (form for sentence in sentences for form in forms(sentence)):
        words.setdefault(form[:BEGINNING], set()).add(form)
    found = set()
    # `os.walk` passes over folders that come and go: brokers and servers delete their own while this looks.
    for place, _, names in os.walk(folder):
        for file in (Path(place) / name for name in names if not name.endswith(but)):
            if file.is_symlink() or not file.is_file():
                continue
            try:
                content = file.read_bytes().rstrip(b"\0")  # Kafka's indexes end in megabytes of zeros
            except FileNotFoundError:
                continue
            if any(word in content for start, alike in words.items() if start in content for word in alike):
                found.add(file.relative_to(folder).as_posix())
    return found


def checkpoint(database_url: str) -> None:
    """Bring PostgreSQL's pages to its files; Kafka's are read through the page cache as they are."""
    connection = psycopg2.connect(database_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("CHECKPOINT")
    connection.close()
