"""A file on its way to the door: in pieces that the door takes, under one id by which it can be taken back."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from uuid import uuid4

import msgspec

from api.client import Json, Refused
from streams.errors import Invalid, Unavailable

ITEMS_A_REQUEST = 500
BYTES_A_REQUEST = 2 * 1024 * 1024


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
