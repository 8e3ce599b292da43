"""What could not be read from the log, or met a bug there: where it stood, why, and, for an operator, its bytes."""

import base64
from typing import Any

import msgspec
from flask import Blueprint, Response
from msgspec import Struct

from api.access import caller, needs, source_of
from api.errors import ApiError
from api.known import parked_rows
from api.services import Services
from api.wire import parse_position, read_object, reply, typed, whole_argument
from streams.events import CONVERSATIONS, DOMAINS, QUARANTINE
from streams.facts.operations import SkipAllowed
from streams.floods import Operations, read_operations, say
from streams.log import Record
from streams.store import positions, postgres_trouble
from streams.tables import LIVE

LOOKED_AT = 5000  # this far back, of each partition


class Quarantined(Struct, frozen=True):
    """One record. `value_base64` is None where the record was too large to be repeated: it stands at `place`. `parked`: the event
    there can be read, and a state of this kind met a bug at it (and may have been taken up since)."""

    place: str
    reason: str
    time: str
    bytes: int
    value_base64: str | None = None
    parked: str | None = None


class _Skip(Struct, forbid_unknown_fields=True):
    """`partition`: as `noria.conversations-0`. `to`: the last offset to let past; left out: the last that stopped the stream."""

    partition: str
    to: int | None = None


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("quarantine", __name__)

    @views.get("/v1/quarantine")
    @needs("operator", every_domain=True)
    def list_quarantine() -> Response:
        limit = whole_argument("limit", 50, 0, LOOKED_AT)
        found = _newest(services, limit) if limit else []
        data = [
            {"place": one.place, "reason": one.reason, "time": one.time, "bytes": one.bytes, "parked": one.parked}
            for one in found[:limit]
        ]
        said = read_operations(services.recorder.log)
        return reply(
            {
                "data": data,
                "count": count(services),
                "stopped": _stopped(services, said),
                "parked": parked_rows(services),
                "skips": [
                    {"at": at, "partition": f"{event.topic}-{event.partition}", "to": event.to, "by": event.by}
                    for at, event in reversed(said.said)
                    if isinstance(event, SkipAllowed)
                ][:limit],
            }
        )

    @views.get("/v1/quarantine/<place>")
    @needs("operator", every_domain=True)
    def show_quarantined(place: str) -> Response:
        stood = parse_position(place, "place")
        found = next((one for one in _newest(services, LOOKED_AT) if one.place == place), None)
        if found is None:
            raise ApiError(404, "nothing from there is in quarantine", param="place", code="not_quarantined")
        value = found.value_base64
        if value is None:
            for record in services.recorder.log.read(stood.topic, stood.partition, stood.offset, stood.offset + 1):
                value = base64.b64encode(record.value or b"").decode()
        return reply(msgspec.to_builtins(found) | {"value_base64": value})

    @views.post("/v1/quarantine/skip")
    @needs("operator", every_domain=True)
    def allow_skip() -> Response:
        wanted = typed(read_object(), _Skip)
        place = parse_position(f"{wanted.partition}@0", "partition")
        services.recorder.check()
        end = (
            services.recorder.ends(place.topic).get(place.partition)
            if place.topic in (CONVERSATIONS, DOMAINS)
            else None
        )
        if end is None:
            message = "partition must be one that the stream follows, as noria.conversations-0"
            raise ApiError(400, message, param="partition")
        to = wanted.to
        if to is None:
            stopped = _stopped(services, read_operations(services.recorder.log))
            to = next((row["last"] for row in stopped if row["partition"] == wanted.partition), None)
            if to is None:
                return reply({"partition": wanted.partition, "to": None, "position": None})  # it has gone on
        if not 0 <= to < end:
            raise ApiError(400, f"to must be an offset that stands there: from 0 to {end - 1}", param="to")
        event = SkipAllowed(topic=place.topic, partition=place.partition, to=to, by=caller().person)
        position = say(services.recorder.log, event, source_of(caller()))
        return reply({"partition": wanted.partition, "to": to, "position": str(position)}, 202)

    return views


def _stopped(services: Services, said: Operations) -> list[dict[str, Any]]:
    """Where the stream stands still at present: what it has not got past since it said so."""
    if not said.stopped:
        return []
    with postgres_trouble(), services.database.connect() as connection:
        reached = positions(connection, LIVE)
    return [
        {
            "partition": f"{topic}-{partition}",
            "first": stop.first,
            "last": stop.last,
            "unreadable": stop.unreadable,
            "at": at,
        }
        for (topic, partition), (at, stop) in sorted(said.stopped.items())
        if reached.get((topic, partition), 0) <= stop.last
    ]


def count(services: Services) -> int:
    """How many records are in quarantine. Raises Unavailable."""
    return sum(services.recorder.ends(QUARANTINE).values())


def _newest(services: Services, limit: int) -> list[Quarantined]:
    """The last so many of each partition, the newest first, each once: a relay that died may have said one twice."""
    found: dict[str, Quarantined] = {}
    for partition, end in services.recorder.ends(QUARANTINE).items():
        for record in services.recorder.log.read(QUARANTINE, partition, max(0, end - limit), end):
            one = _read(record)
            if one is not None:
                found[one.place] = one
    return sorted(found.values(), key=lambda one: one.time, reverse=True)


def _read(record: Record) -> Quarantined | None:
    """None for what somebody else has put there."""
    try:
        return msgspec.json.decode(record.value or b"", type=Quarantined)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
